"""Calibration samples once more, moved a little: what the original makes of them is known as well.

A convolution looks at every place alike, so a sample that is moved along the axes that it slides over, or mirrored
along the last of them, is nearly as good as another one. No label is needed, the original answers for any input; that
this is what a distilled model lives on show Beyer et al., "Knowledge distillation: a good teacher is patient and
consistent", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.graph import Graph, Value
from onnxprune.model.inputs import fed_inputs
from onnxprune.statistics.moments import Batches

FARTHEST = 0.1
"""How far a sample is moved at most, as a share of the length."""

_SAME = {"Identity", "Cast", "Add", "Sub", "Mul", "Div", "Pad", "BatchNormalization"}
"""What keeps the axes of its first input."""


class Variants:
    """Batches, each followed by the same samples moved, where that can be.

    Attributes:
        copies: How often every sample comes.
    """

    def __init__(self, graph: Graph, batches: Batches, seed: int) -> None:
        self._batches, self._seed = batches, seed
        self._axes = _sliding(graph)
        self.copies = 2 if self._axes else 1

    def __iter__(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        for i, feeds in enumerate(self._batches):
            yield feeds
            if self._axes:
                rng = np.random.default_rng([self._seed, i])
                yield {name: _moved(array, self._axes[name], rng) for name, array in feeds.items()}


def _moved(array: NDArray[Any], axes: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    """A batch moved along some axes, and mirrored along the last of them where it has two."""
    steps = [int(rng.integers(-round(FARTHEST * array.shape[a]), round(FARTHEST * array.shape[a]) + 1)) for a in axes]
    mirrored = np.flip(array, axes[-1]) if len(axes) > 1 else array
    return np.ascontiguousarray(np.roll(mirrored, steps, axes))


def _sliding(graph: Graph) -> dict[str, tuple[int, ...]]:
    """The axes of the only graph input that convolutions slide over; nothing where that cannot be told."""
    inputs = fed_inputs(graph.proto.graph)
    value = graph.main.find(inputs[0].name) if len(inputs) == 1 else None
    if value is None or value.rank is None:
        return {}
    todo: list[tuple[Value, list[int]]] = [(value, list(range(value.rank)))]
    while todo:
        at, axes = todo.pop()
        for node, i in at.consumers:
            if i or node.domain or not node.outputs or node.outputs[0] is None:
                continue
            if node.op_type == "Conv":
                return {inputs[0].name: tuple(sorted(axes[2:]))}
            if node.op_type == "Transpose":
                perm = node.attribute("perm") or range(len(axes))[::-1]
                todo.append((node.outputs[0], [axes[p] for p in perm]))
            elif node.op_type in _SAME:
                todo.append((node.outputs[0], axes))
    return {}
