"""Residual streams: groups that most layers of a model read and several add to.

One channel of such a width is an input of nearly every layer, so it carries more than a channel inside one block does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import group_of_channels
from onnxprune.graph.graph import Value
from onnxprune.graph.operators import operator_of

MOST = 0.5
"""A stream is read by more than this share of the layers. At equal parameters and without data, decoders (0.6 to 0.75
of their layers) move 2 to 10 times as far if such a width shrinks, and an encoder with packed queries, keys and values
3.5 times as far (models/pt_transformer_packed.onnx at 70% of the parameters: 0.83 of the output, not 0.24); networks of
convolutions (at most 0.5) move as far or less."""
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
    Queries, keys and values that are packed in one product count as they would apart.

    Args:
        coupling: The analysis of the model.
    """
    layers, readers, writers = 0, Counter[int](), Counter[int]()
    products, heads = list(_layers(coupling)), _heads(coupling)
    width = {i: n for read, _ in products for i, n in read.items()}
    for read, made in products:
        packed = max([1, *(made[i] // width.get(i, made[i]) for i in heads & made.keys() - read.keys())])
        layers += packed * (read.keys() != made.keys())
        readers.update(dict.fromkeys(read.keys() - made.keys(), packed))
        writers.update(dict.fromkeys(made.keys() - read.keys(), packed))
    return {
        group.name: Stream(readers[i], writers[i], layers)
        for i, group in enumerate(coupling.groups)
        if readers[i] > MOST * layers and writers[i] >= FEWEST_WRITERS
    }


def _heads(coupling: Coupling) -> set[int]:
    """Positions of the groups along which products of two activations run as batches."""
    classes, group_of = coupling.classes, group_of_channels(coupling, coupling.groups)
    spans = [classes.span(axis) for axis in coupling.ties.batch_axes]
    return {int(i) for span in spans for i in np.unique(group_of[coupling.channel[span]]) if i >= 0}


def _layers(coupling: Coupling) -> Iterator[tuple[dict[int, int], dict[int, int]]]:
    """Groups on what each product with a weight reads of activations, and on what it makes.

    By position; with them how many indices of one axis a unit of the group owns.
    """
    group_of = group_of_channels(coupling, coupling.groups)

    def on(values: Iterable[Value]) -> dict[int, int]:
        found = dict[int, int]()
        for axis in [axis for v in values for axis in v.axes()]:
            for i, count in zip(*np.unique(group_of[coupling.channels_of(axis)], return_counts=True), strict=True):
                if i >= 0:
                    found[int(i)] = max(found.get(int(i), 0), int(count) // coupling.groups[i].units)
        return found

    constant = {v for node in coupling.graph.constant_nodes for v in node.outputs}
    for node in coupling.graph.nodes:
        if operator_of(node).macs is None:
            continue
        operands = [v for v in node.inputs if v is not None]
        weights = [v for v in operands if v.tensor is not None or v in constant]
        read, made = on(v for v in operands if v not in weights), on(v for v in node.outputs if v is not None)
        if on(weights).keys() & (read.keys() | made.keys()):  # fused attention has tables of rotations, no weights
            yield read, made
