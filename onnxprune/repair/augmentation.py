"""Augmented calibration samples: shifted along what convolutions slide over, and flipped where that is natural.

A convolution treats all positions alike, so a shifted sample is nearly as good as another one. No label is needed: the
original model gives the targets for any input (as in distillation; Beyer et al., "Knowledge distillation: a good
teacher is patient and consistent", CVPR 2022). Flipped digits, lines of text or spectrograms are not natural; they
differ from photographs in that the model's own outputs change far more under a flip than under a small shift.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.graph import Graph, Node, Value
from onnxprune.graph.operators import operator_of
from onnxprune.model.inputs import fed_inputs
from onnxprune.model.model import Model
from onnxprune.runtime.session import session
from onnxprune.statistics.moments import Batches
from onnxprune.verification.comparable_outputs import with_comparable_outputs
from onnxprune.verification.output_error import Errors

MAX_SHIFT = 0.1
"""How far a sample is shifted at most, as a share of the length."""
MAX_ZOOM = 0.3
"""How much a photograph is scaled at most, as the logarithm of the factor."""
FLIP_ERROR = 2.0
"""Flips are used where they change the outputs by at most this multiple of what a shift changes (squared errors).

Measured with 64 samples: 0.5 to 1.6 for eight models of photographs, 2.9 to 11.8 for four models of digits and text.
"""
JUDGES = 32
"""Samples that this is measured on."""


class Augmentation:
    """How samples of a model are varied.

    Attributes:
        flips: Whether they may be flipped.
    """

    def __init__(self, model: Model, graph: Graph, batches: Batches, seed: int) -> None:
        """Finds out how to augment.

        Args:
            model: The original model, which is run to see whether flips are natural.
            graph: Its graph.
            batches: Feeds.
            seed: Seed of the shifts.
        """
        self._axes = _sliding_axes(graph)
        several = any(len(axes) > 1 for axes in self._axes.values())
        self.flips = several and self._flips_are_natural(model, batches, seed)

    def __bool__(self) -> bool:
        return bool(self._axes)

    def shifted(self, feeds: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """A batch shifted at random, and flipped where that is natural."""
        return {
            name: _shifted(_flipped(a, self._axes[name]) if self.flips else a, self._axes[name], rng)
            for name, a in feeds.items()
        }

    def varied(self, feeds: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """A sample varied at random: photographs are flipped, enlarged and shifted, anything else is shifted."""
        flip = self.flips and rng.random() < 0.5
        found = dict(feeds)
        for name, axes in self._axes.items():
            array = _flipped(feeds[name], axes) if flip else feeds[name]
            found[name] = _zoomed(array, axes, rng) if self.flips else _shifted(array, axes, rng)
        return found

    def _flips_are_natural(self, model: Model, batches: Batches, seed: int) -> bool:
        """Whether the model's outputs are about as stable under flips as under shifts."""
        view, components = with_comparable_outputs(model)
        runner = session(view)
        errors, seen = Errors(2, components), 0
        for i, feeds in enumerate(batches):
            rng = np.random.default_rng([seed, i])
            shifted = {name: _shifted(a, self._axes[name], rng, still=False) for name, a in feeds.items()}
            flipped = {name: np.ascontiguousarray(_flipped(a, self._axes[name])) for name, a in feeds.items()}
            errors.add(runner.run(None, feeds), [runner.run(None, shifted), runner.run(None, flipped)])
            seen += max(len(a) for a in feeds.values())
            if seen >= JUDGES:
                break
        by_shift, by_flip = errors.shares()
        return by_flip <= FLIP_ERROR * by_shift


class Variants:
    """Batches, each followed by the same samples augmented, where that is possible.

    Attributes:
        copies: How often every sample comes.
    """

    def __init__(self, model: Model, graph: Graph, batches: Batches, seed: int) -> None:
        """Finds out how to augment; see `Augmentation`."""
        self._batches, self._seed = batches, seed
        self._augmentation = Augmentation(model, graph, batches, seed)
        self.copies = 2 if self._augmentation else 1

    @property
    def flips(self) -> bool:
        """Whether augmented samples are flipped too."""
        return self._augmentation.flips

    def __iter__(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        for i, feeds in enumerate(self._batches):
            yield feeds
            if self._augmentation:
                yield self._augmentation.shifted(feeds, np.random.default_rng([self._seed, i]))


def _flipped(array: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    """A batch flipped along the last of several axes."""
    return np.flip(array, axes[-1]) if len(axes) > 1 else array


def _shifted(
    array: NDArray[Any], axes: tuple[int, ...], rng: np.random.Generator, *, still: bool = True
) -> NDArray[Any]:
    """A batch shifted along some axes at random; `still` allows no shift at all."""
    most = [round(MAX_SHIFT * array.shape[axis]) for axis in axes]
    steps = [int(rng.integers(-m, m + 1)) for m in most]
    if not still:
        steps = [step or m for step, m in zip(steps, most, strict=True)]
    return np.ascontiguousarray(np.roll(array, steps, axes))


def _zoomed(array: NDArray[Any], axes: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    """A batch scaled about its centre and shifted along some axes at random, by linear interpolation.

    What comes from beyond the border is the mirror image of what is inside.
    """
    zoom = float(np.exp(rng.uniform(-MAX_ZOOM, MAX_ZOOM)))
    found = array.astype(np.float64)
    for axis in axes:
        length = array.shape[axis]
        centre, shift = (length - 1) / 2, rng.uniform(-MAX_SHIFT, MAX_SHIFT) * length
        at = np.abs(centre + (np.arange(length) - centre) / zoom + shift)
        at = np.clip(np.where(at > length - 1, 2 * (length - 1) - at, at), 0, length - 1)
        low = np.minimum(at.astype(np.int64), max(length - 2, 0))
        part = (at - low).reshape([-1 if a == axis else 1 for a in range(array.ndim)])
        found = (1 - part) * found.take(low, axis) + part * found.take(np.minimum(low + 1, length - 1), axis)
    found = np.rint(found) if array.dtype.kind in "iu" else found
    return np.ascontiguousarray(found, array.dtype)


def _sliding_axes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """The axes of the only graph input that convolutions slide over; nothing where they are not known."""
    inputs = fed_inputs(graph.proto.graph)
    value = graph.main.find(inputs[0].name) if len(inputs) == 1 else None
    if value is None or value.rank is None:
        return {}
    todo: list[tuple[Value, list[int]]] = [(value, list(range(value.rank)))]
    while todo:
        at, axes = todo.pop()
        for node, i in at.consumers:
            out = node.outputs[0] if node.outputs else None
            if i or node.domain or out is None:
                continue
            operator = operator_of(node)
            if any(form.kind == "conv" for form in (operator.affine(node) if operator.affine is not None else ())):
                return {inputs[0].name: tuple(sorted(axes[2:]))}
            found = _axes_after(node, axes)
            if found is not None:
                todo.append((out, found))
    return {}


def _axes_after(node: Node, axes: list[int]) -> list[int] | None:
    """The axes of a node's output in terms of the graph input's; None where the node does not just carry them."""
    operator = operator_of(node)
    if operator.pointwise or operator.activation:
        return axes
    if operator.origins is None:
        return None
    found = operator.origins(node, [0] * len(axes), tuple(axes))
    return [a for a in found if a is not None] if set(found) == set(axes) else None
