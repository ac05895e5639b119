"""Losses as functions of outputs and labels that give the gradient as well.

    def hinge(outputs, labels):
        scores = outputs["scores"]                       # shape (n, 1)
        short = 1 - labels[:, None] * scores
        return np.maximum(short, 0).mean(), {"scores": -labels[:, None] * (short > 0) / len(labels)}

The function is given the outputs of a batch by name and the labels, samples along axis 0, and returns the mean loss and
its gradient with respect to every output that it reads. It is called for single samples too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.importing import import_object
from onnxprune.errors import DataError, InputError, option
from onnxprune.extensions.points import call
from onnxprune.extensions.registry import one_of
from onnxprune.graph.operators import Postprocessing
from onnxprune.losses.ctc import ctc
from onnxprune.losses.label_loss import LOSSES
from onnxprune.verification.comparable_outputs import Component

Array = NDArray[Any]
LossFunction = Callable[[Any, Any], Any]
"""From outputs by name and labels to the loss and its gradients by name."""

CTC = "ctc"


@dataclass(frozen=True)
class FunctionLoss:
    """A loss that is computed outside of the graph.

    Attributes:
        name: Its name.
        function: Computes it; None for ``ctc``.
        blank: The class of the blank of ``ctc``.
        axis: The axis along which the samples lie in the output of ``ctc``.
    """

    name: str
    function: LossFunction | None
    blank: int = 0
    axis: int = 0

    def __call__(self, outputs: Mapping[str, Array], labels: Array) -> tuple[float, dict[str, Array]]:
        """The loss and its gradients, checked.

        Raises:
            InputError: The function fails or returns something else.
        """
        if self.function is None:
            return _ctc_of_batch(next(iter(outputs.items())), labels, self.blank, self.axis)
        found = call("loss", self.name, self.function, dict(outputs), labels)
        if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping)):
            raise InputError(
                f"loss {self.name!r} must return the loss and a mapping with its gradients, not {type(found).__name__}",
                "return loss, {OUTPUT: gradient}",
            )
        loss = _numbers(found[0])
        if loss is None or loss.size != 1:
            raise InputError(
                f"loss {self.name!r} must return one number first", "the mean over the samples of the batch"
            )
        gradients = {name: _numbers(found[1].get(name, np.zeros(o.shape))) for name, o in outputs.items()}
        wrong = [n for n in found[1] if n not in outputs or getattr(gradients[n], "shape", None) != outputs[n].shape]
        if wrong:
            known = ", ".join(f"{name} of shape {o.shape}" for name, o in outputs.items())
            raise InputError(f"loss {self.name!r} returns a gradient of {wrong[0]!r} that fits no output", f"{known}")
        return float(loss.item()), {name: gradient for name, gradient in gradients.items() if gradient is not None}


def _numbers(given: Any) -> Array | None:
    """An array of real numbers; None for anything else."""
    try:
        found = np.asarray(given)
    except ValueError:  # lists of different lengths
        return None
    return found if found.dtype.kind in "biuf" else None


def as_loss(asked: Any) -> str | FunctionLoss | None:
    """The name of a loss of labels, or a loss that is a function; None for the default.

    Raises:
        InputError: The name is unknown, or what it names is no function.
    """
    if asked is None or asked in LOSSES:
        return None if asked is None else str(asked)
    if callable(asked):
        return FunctionLoss(str(getattr(asked, "__name__", type(asked).__name__)), asked)
    name, colon, rest = asked.partition(":") if isinstance(asked, str) else ("", "", "")
    if name == CTC:
        if colon and not rest.lstrip("-").isdigit():
            raise InputError(f"{option('loss', asked)}: the blank is the number of a class", "ctc:0, say")
        return FunctionLoss(CTC, None, int(rest) if colon else 0)
    if not colon:
        return one_of("loss", asked, [*LOSSES, CTC, "module:function"])
    function = import_object(asked)
    if not callable(function):
        raise InputError(f"loss {asked!r} is {type(function).__name__}, not a function")
    return FunctionLoss(asked, function)


def sequence_output(
    components: Sequence[Component], outputs: Sequence[Array], labels: Array, blank: int = 0
) -> tuple[Component, int]:
    """The output that scores the classes of each step of a sequence, and the axis along which samples lie in it.

    Args:
        components: The values that a loss can be computed of.
        outputs: These values for one sample.
        labels: The labels; shape (samples, length).
        blank: The class of the blank, from the last one on where it is negative.

    Raises:
        DataError: There is none, the labels are no sequences of classes, or the blank is one of them.
    """
    for component, output in zip(components, outputs, strict=True):
        scored = component.scores in (None, Postprocessing.SOFTMAX) and output.dtype.kind == "f"
        steps = scored and output.ndim == 3 and 1 in output.shape[:2]
        if steps and labels.ndim == 2 and labels.dtype.kind in "iu" and labels.max(initial=0) < output.shape[2]:
            _check_blank(labels, blank, output.shape[2])
            return component, output.shape.index(1)
    raise DataError(
        f"labels of shape {tuple(labels.shape[1:])} a sample fit no output for {option('loss', CTC)}",
        "it takes whole numbers, padded with -1, and an output of shape (n, steps, classes)",
    )


def _check_blank(labels: Array, blank: int, classes: int) -> None:
    """Raises DataError for a blank that is no class, or that labels have: padding, maybe."""
    asked = option("loss", f"{CTC}:{blank}")
    if not -classes <= blank < classes:
        raise DataError(
            f"{asked}: the output has {classes} classes", f"{CTC}:{classes - 1} says that the last one is it"
        )
    if (labels == blank % classes).any():
        raise DataError(
            f"{asked}: labels have class {blank % classes} too, which is the blank",
            f"pad labels with -1; {CTC}:{classes - 1} says that the last class is the blank",
        )


def _ctc_of_batch(output: tuple[str, Array], labels: Array, blank: int, axis: int) -> tuple[float, dict[str, Array]]:
    """The mean over a batch, whose samples lie along an axis of the scores."""
    name, scores = output
    by_sample = np.moveaxis(scores, axis, 0)
    found = [ctc(one, label, blank % scores.shape[2]) for one, label in zip(by_sample, labels, strict=True)]
    gradient = np.stack([g for _, g in found]) / len(labels)
    return float(np.mean([value for value, _ in found])), {name: np.moveaxis(gradient, 0, axis)}
