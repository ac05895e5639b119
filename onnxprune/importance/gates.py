"""Factors on the units of groups: by how much the loss of each sample depends on them.

A gate is a factor 1 on what all readers of a unit read of it; the derivative of the loss with respect to it is the sum
of ``w dL/dw`` over the weights that the readers have for the unit (Molchanov et al., "Importance estimation for neural
network pruning", CVPR 2019). So the gradients of the weights, from one backward pass, give those of the gates of all
groups. Where no linear layer reads a group, its gates are on all weights that its units own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group, Slices
from onnxprune.gradients.bodies import TYPES
from onnxprune.importance.readers import Read, reads
from onnxprune.layers.find import linear_layers
from onnxprune.layers.weights import finite_part
from onnxprune.model.model import Model
from onnxprune.statistics.weight_gradients import GradientData, SampleGradients

Array = NDArray[Any]
Floats = NDArray[np.float64]


class Gates:
    """Sums over the weights of each unit.

    Attributes:
        weights: The values of the weights that are summed over, by name.
    """

    def __init__(self, model: Model, coupling: Coupling, groups: Sequence[Group]) -> None:
        """Finds the weights of each unit.

        Args:
            model: Where the weights are.
            coupling: The analysis that the groups come from.
            groups: The groups.
        """
        self._units = [group.units for group in groups]
        self._reads: list[list[Read]] = [[] for _ in groups]
        for read in reads(coupling, groups, linear_layers(coupling.graph)):
            if read.layer.weight.elem_type in TYPES:
                self._reads[read.group].append(read)
        self._slices: list[list[Slices]] = [
            [] if mine else [s for s in group.slices if s.value.elem_type in TYPES]
            for mine, group in zip(self._reads, groups, strict=True)
        ]
        values = [read.layer.weight for mine in self._reads for read in mine]
        values += [s.value for mine in self._slices for s in mine]
        self.weights: dict[str, Array] = {}
        for value in values:
            if value.name not in self.weights and value.scope is coupling.graph.main and value.tensor is not None:
                self.weights[value.name] = finite_part(model.array(value.tensor))

    def sums(self, elements: Mapping[str, Array]) -> list[Floats | None]:
        """Sums of something over the weights of each unit; shape (units,) for each group.

        None for a group of whose weights nothing is known.

        Args:
            elements: An array of the shape of the weight for each weight, by name.
        """
        matrices: dict[str, Floats] = {}
        return [self._sum(i, elements, matrices) for i in range(len(self._units))]

    def _sum(self, i: int, elements: Mapping[str, Array], matrices: dict[str, Floats]) -> Floats | None:
        parts = []
        counted: set[tuple[str, int, bytes]] = set()  # the gradient of a weight is the sum over all that read it
        for read in self._reads[i]:
            name, layer = read.layer.weight.name, read.layer
            part = name, read.block, read.columns.tobytes()
            if name in elements and part not in counted:
                counted.add(part)
                if layer.name not in matrices:
                    products = layer.matrix(elements[name]).sum(axis=1, dtype=np.float64)
                    matrices[layer.name] = products / layer.alpha  # of the stored weights, not of what they come to
                parts.append(matrices[layer.name][read.block][read.columns].sum(axis=1))
        for s in self._slices[i]:
            if s.value.name in elements:
                rows = np.moveaxis(elements[s.value.name], s.axis, 0)
                flat = rows.reshape(len(rows), -1).sum(axis=1, dtype=np.float64)
                parts.append(flat[s.indices].sum(axis=1))
        return np.sum(parts, axis=0) if parts else None


def unit_masks(
    groups: Sequence[Group], gone: Sequence[NDArray[np.int64]], shapes: Mapping[str, Sequence[int]]
) -> dict[str, NDArray[np.bool_]]:
    """Which elements of weights belong to some units; by name, shape of the weight.

    Args:
        groups: The groups.
        gone: Indices of the units of each group.
        shapes: Shapes of the weights, by name.
    """
    found = {name: np.zeros(shape, dtype=bool) for name, shape in shapes.items()}
    for group, units in zip(groups, gone, strict=True):
        for s in group.slices:
            if s.value.name in found:
                np.moveaxis(found[s.value.name], s.axis, 0)[s.indices[units].ravel()] = True
    return found


def gate_gradients(gates: Gates, model: Model, data: GradientData) -> list[Floats | None]:
    """Derivatives of the loss of each sample with respect to the gates; shape (samples, units) for each group.

    Args:
        gates: The gates.
        model: The model.
        data: The samples.

    Raises:
        InputError: No weight has a gradient.
    """
    found = [
        gates.sums({name: gates.weights[name] * np.nan_to_num(g) for name, g in gradients.items()})
        for gradients in SampleGradients(model, gates.weights, data)
    ]
    return [
        None if column[0] is None else np.stack([one for one in column if one is not None])
        for column in zip(*found, strict=True)
    ]
