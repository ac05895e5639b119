"""The linear layers that read the channels of a group, with the statistics of their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group, group_of_channels
from onnxprune.importance.obs import Consumer
from onnxprune.layers.linear import LinearLayer
from onnxprune.layers.weights import finite_part
from onnxprune.model.model import Model
from onnxprune.statistics.moments import Moments


@dataclass(frozen=True)
class GroupReader:
    """One group (block) of a linear layer that reads a group of channels.

    Attributes:
        layer: The layer.
        block: Index of the block of its matrix.
        columns: Columns of each unit in the block; shape (units, columns a unit).
        model: The model with the weights.
        seen: Moments of the layer's inputs.
    """

    layer: LinearLayer
    block: int
    columns: NDArray[np.int64]
    model: Model
    seen: Moments

    def consumer(self) -> Consumer:
        """The block's weights and input statistics, made anew at each call: those of all layers would fill memory."""
        tensor = self.layer.weight.tensor
        assert tensor is not None
        weight = self.layer.matrix(finite_part(self.model.array(tensor)))[self.block].astype(np.float64)
        n, total, zeros = max(self.seen.count, 1), self.seen.total[self.block], self.seen.zeros[self.block]
        return Consumer(weight, self.seen.covariance(self.block), self.columns, total / n, zeros / n)


def find_readers(
    model: Model,
    coupling: Coupling,
    groups: Sequence[Group],
    layers: Sequence[LinearLayer],
    moments: Mapping[str, Moments],
) -> list[list[GroupReader]]:
    """Finds the layers that read each group.

    Args:
        model: The model with the weights.
        coupling: The analysis of the groups and layers.
        groups: The groups.
        layers: Linear layers of the graph.
        moments: Moments of the layers' inputs, by name; layers without moments are skipped.

    Returns:
        Readers of each group.
    """
    found: list[list[GroupReader]] = [[] for _ in groups]
    for read in reads(coupling, groups, [one for one in layers if one.name in moments]):
        reader = GroupReader(read.layer, read.block, read.columns, model, moments[read.layer.name])
        found[read.group].append(reader)
    return found


@dataclass(frozen=True)
class Read:
    """One group (block) of a linear layer with a constant weight that reads a group of channels.

    Attributes:
        group: Index of the group of channels.
        layer: The layer.
        block: Index of the block of its matrix.
        columns: Columns of each unit in the block; shape (units, columns a unit).
    """

    group: int
    layer: LinearLayer
    block: int
    columns: NDArray[np.int64]


def reads(coupling: Coupling, groups: Sequence[Group], layers: Sequence[LinearLayer]) -> Iterator[Read]:
    """Finds what reads each group, layer by layer.

    What makes a unit of nothing but the unit itself (a depthwise convolution) is no reader: that loses nothing.
    """
    group_of = group_of_channels(coupling, groups)
    unit_of = np.zeros(len(coupling.channel), dtype=np.int64)
    for group in groups:
        unit_of[group.channels] = np.arange(group.units)
    for layer in layers:
        if layer.weight.tensor is None:
            continue
        read = coupling.channels_of(layer.x.axis(layer.x_axis))
        made = coupling.channels_of(layer.output.axis(layer.out_axis))
        if len(read) != layer.features[0] or len(made) != layer.features[1]:
            continue
        outputs = made.reshape(layer.groups, -1)
        for g in np.unique(group_of[read]):
            if g < 0:
                continue
            where = np.flatnonzero(group_of[read] == g)
            block, columns = layer.columns_of_inputs(where)
            for b in np.unique(block):
                mine = block == b
                units = unit_of[read[where[mine]]]
                if (group_of[outputs[b]] == g).all() and len({*units, *unit_of[outputs[b]]}) == 1:
                    continue
                found = _by_unit(columns[mine], units, groups[g].units)
                if found is not None:
                    yield Read(int(g), layer, int(b), found)


def _by_unit(columns: NDArray[np.int64], units: NDArray[np.int64], count: int) -> NDArray[np.int64] | None:
    """Columns by unit; None if the units do not all have the same number of them."""
    order = np.argsort(units, kind="stable")
    owned, sizes = np.unique(units, return_counts=True)
    if len(owned) != count or len(set(sizes.tolist())) != 1:
        return None
    return columns[order].reshape(count, -1)
