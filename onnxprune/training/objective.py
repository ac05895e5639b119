"""What a training on labels makes smaller: a loss in the graph, or one that is computed outside of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import ValueInfoProto

from onnxprune.calibration import Samples
from onnxprune.errors import DataError
from onnxprune.gradients import losses
from onnxprune.gradients.trainable import Terms
from onnxprune.graph.graph import Graph
from onnxprune.losses.functions import CTC, FunctionLoss, sequence_output
from onnxprune.losses.label_loss import TARGET, LabelLoss, label_loss
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS
from onnxprune.ops.gradients.writer import Writer
from onnxprune.repair.distillation_teacher import Views
from onnxprune.runtime.io_slices import Batch
from onnxprune.runtime.session import local_session

Array = NDArray[Any]
Run = Callable[[Batch], Sequence[Array]]
"""Computes the outputs that an objective reads."""


class Objective(Protocol):
    """A loss with the labels of the samples to train on and of those to judge by.

    Attributes:
        name: Name of the loss.
        outputs: Names of the values that it reads.
        varied: Whether samples may be shifted, flipped and mixed: their labels stay or are mixed with them.
        targets: What comes with the samples to train on; shape (samples, ...).
    """

    name: str
    outputs: Sequence[str]
    varied: bool
    targets: Array

    def write(self, graph: Graph, write: Writer, batch: Batch) -> Terms:
        """Writes the mean over a batch."""
        ...

    def given(self, batch: Batch, run: Run) -> Mapping[str, Array]:
        """Inputs of the model and of the loss, from those of the model and the targets."""
        ...

    def of(self, outputs: Sequence[Array], sample: int) -> float:
        """The loss of one sample to judge by."""
        ...


class _InGraph:
    """A loss whose nodes are differentiated with the model."""

    def __init__(self, learn: LabelLoss, judges: LabelLoss) -> None:
        self._learn, self._judges = learn, judges
        self.name = learn.kind
        self.outputs: Sequence[str] = [learn.output]
        self.targets: Array = learn.targets
        self.varied = not learn.at_many_positions  # else labels would have to move with the samples

    def write(self, graph: Graph, write: Writer, batch: Batch) -> Terms:
        return self._learn.write(graph, write, len(batch[TARGET]) // self.targets.shape[1])

    def given(self, batch: Batch, run: Run) -> Mapping[str, Array]:
        return batch

    def of(self, outputs: Sequence[Array], sample: int) -> float:
        return self._judges.of(outputs[0], sample)


class _Outside:
    """A loss that gives its gradients by the outputs: in the graph it is their inner product with these."""

    varied = False

    def __init__(self, loss: FunctionLoss, outputs: Sequence[str], learn: Array, judges: Array) -> None:
        self._loss, self._judges = loss, judges
        self.name = loss.name
        self.outputs: Sequence[str] = list(outputs)
        self.targets: Array = learn[:, None]  # one of one sample each

    def write(self, graph: Graph, write: Writer, batch: Batch) -> Terms:
        return [
            (losses.inner_product(write, losses.rows(write, name, None, 1), _gradient_name(name)), 1.0)
            for name in self.outputs
        ]

    def given(self, batch: Batch, run: Run) -> Mapping[str, Array]:
        inputs = {name: array for name, array in batch.items() if name != TARGET}
        _, gradients = self._loss(dict(zip(self.outputs, run(inputs), strict=True)), batch[TARGET])
        found = {_gradient_name(name): gradients[name].reshape(-1, 1).astype(np.float32) for name in self.outputs}
        return {**inputs, **found}

    def of(self, outputs: Sequence[Array], sample: int) -> float:
        loss, _ = self._loss(dict(zip(self.outputs, outputs, strict=True)), self._judges[sample : sample + 1])
        return loss


def objective(
    both: Views, outputs: Sequence[str], learn: Samples, judges: Samples, asked: str | FunctionLoss | None
) -> Objective | None:
    """The loss of the labels of both parts of the samples; None where they have none.

    Args:
        both: The models.
        outputs: Names of the outputs that a function is given.
        learn: Samples to train on.
        judges: Samples to judge by.
        asked: See `functions.as_loss`.

    Raises:
        InputError: The labels fit no output.
        DataError: The model takes several samples at a time.
    """
    given, held = learn.labels, judges.labels
    if given is None:
        return None
    assert held is not None
    first = next(learn.in_batches(1).silent().batches())
    if (several := learn.size(first)) != 1:
        raise DataError(
            f"the model takes {several} samples at a time, and the loss of labels is of one sample at a time",
            "export the model with a batch of any size",
        )
    together = np.concatenate([given, held])
    if isinstance(asked, FunctionLoss) and asked.name != CTC:
        return _Outside(asked, outputs, given, held)
    values = local_session(both.student).run(both.outputs, first)
    if isinstance(asked, FunctionLoss):
        component, axis = sequence_output(both.components, values, together, asked.blank)
        return _Outside(replace(asked, axis=axis), [component.name], given, held)
    every = label_loss(asked, both.components, values, together)
    return _InGraph(
        replace(every, targets=every.targets[: len(given)]), replace(every, targets=every.targets[len(given) :])
    )


def with_outputs(model: Model, names: Sequence[str]) -> Model:
    """A copy that also gives out these values."""
    copy = model.copy()
    known = {o.name for o in copy.proto.graph.output}
    copy.proto.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in known)
    return copy


def float_outputs(model: Model) -> list[str]:
    """Names of the outputs that are floating-point numbers."""
    return [o.name for o in model.proto.graph.output if o.type.tensor_type.elem_type in FLOATS]


def _gradient_name(output: str) -> str:
    return f"loss/gradient of {output}"
