"""The linear layers that read the channels of a group, with the statistics of their inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.importance.obs import Consumer
from onnxprune.layers.linear import LinearLayer
from onnxprune.layers.weights import finite_part
from onnxprune.model.model import Model
from onnxprune.statistics.moments import Moments


@dataclass
class GroupReader:
    """One group (block) of a linear layer that reads a group of channels.

    Attributes:
        layer: The layer.
        block: Index of the block of its matrix.
        consumer: The block's weights and input statistics.
    """

    layer: LinearLayer
    block: int
    consumer: Consumer


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
    group_of = np.full(len(coupling.channel), -1, dtype=np.int64)
    unit_of = np.zeros(len(coupling.channel), dtype=np.int64)
    for i, group in enumerate(groups):
        group_of[group.channels] = i
        unit_of[group.channels] = np.arange(group.units)
    found: list[list[GroupReader]] = [[] for _ in groups]
    for layer in layers:
        if layer.name not in moments or layer.weight.tensor is None:
            continue
        read = coupling.channels_of(layer.x.axis(layer.x_axis))
        made = coupling.channels_of(layer.output.axis(layer.out_axis))
        if len(read) != layer.features[0] or len(made) != layer.features[1]:
            continue
        weight = layer.matrix(finite_part(model.array(layer.weight.tensor))).astype(np.float64)
        outputs = made.reshape(layer.groups, -1)
        for g in np.unique(group_of[read]):
            if g < 0:
                continue
            where = np.flatnonzero(group_of[read] == g)
            block, columns = layer.columns_of_inputs(where)
            for b in np.unique(block):
                mine = block == b
                units = unit_of[read[where[mine]]]
                if set(outputs[b].tolist()) <= set(read[where[mine]].tolist()):
                    continue  # its outputs are removed with its inputs (a depthwise convolution), at no loss
                consumer = _consumer(weight[b], moments[layer.name], int(b), columns[mine], units, groups[g].units)
                if consumer is not None:
                    found[g].append(GroupReader(layer, int(b), consumer))
    return found


def _consumer(
    weight: NDArray[np.float64],
    seen: Moments,
    block: int,
    columns: NDArray[np.int64],
    units: NDArray[np.int64],
    count: int,
) -> Consumer | None:
    """Returns the consumer of one block; None if the units do not all have the same number of columns."""
    order = np.argsort(units, kind="stable")
    owned, sizes = np.unique(units, return_counts=True)
    if len(owned) != count or len(set(sizes.tolist())) != 1:
        return None
    n = max(seen.count, 1)
    return Consumer(
        weight, seen.covariance(block), columns[order].reshape(count, -1), seen.total[block] / n, seen.zeros[block] / n
    )
