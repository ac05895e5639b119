"""Residual streams: groups that most layers of a model read and several add to.

One channel of such a width is an input of nearly every layer, so it carries more than a channel inside one block does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from onnxprune.coupling.coupling import Coupling
from onnxprune.graph.graph import Value
from onnxprune.graph.operators import operator_of

MOST = 0.5
"""A stream is read by more than this share of the layers. At equal parameters and without data, decoders (0.6 to 0.75
of their layers) move 2 to 10 times as far if such a width shrinks; image networks (at most 0.5) move as far or less."""
FEWEST_WRITERS = 3
"""Two layers that meet in one sum make a fork, or one block."""


class Stream(NamedTuple):
    """How many layers of a model read a group, how many write it, and how many there are."""

    readers: int
    writers: int
    layers: int


def find_streams(coupling: Coupling) -> dict[str, Stream]:
    """The residual streams of a model, by the name of the group.

    A layer is a product with a weight. It reads the groups that its input has and its output has not, and writes those
    of its output that its input has not; one that does neither (a depthwise convolution, attention) does not count.

    Args:
        coupling: The analysis of the model.
    """
    layers, readers, writers = 0, Counter[int](), Counter[int]()
    for read, made in _layers(coupling):
        layers += bool(read ^ made)
        readers.update(read - made)
        writers.update(made - read)
    return {
        group.name: Stream(readers[i], writers[i], layers)
        for i, group in enumerate(coupling.groups)
        if readers[i] > MOST * layers and writers[i] >= FEWEST_WRITERS
    }


def _layers(coupling: Coupling) -> Iterator[tuple[set[int], set[int]]]:
    """Positions of the groups on what each product with a weight reads of activations, and on what it makes."""
    group_of = np.full(len(coupling.channel), -1, dtype=np.int64)
    for i, group in enumerate(coupling.groups):
        group_of[group.channels] = i

    def on(values: Iterable[Value]) -> set[int]:
        found = [np.unique(group_of[coupling.channels_of(axis)]) for v in values for axis in v.axes()]
        return {int(i) for part in found for i in part if i >= 0}

    constant = {v for node in coupling.graph.constant_nodes for v in node.outputs}
    for node in coupling.graph.nodes:
        if operator_of(node).macs is None:
            continue
        operands = [v for v in node.inputs if v is not None]
        weights = [v for v in operands if v.tensor is not None or v in constant]
        read, made = on(v for v in operands if v not in weights), on(v for v in node.outputs if v is not None)
        if on(weights) & (read | made):  # tables of rotations, which fused attention has, are no weights
            yield read, made
