"""The oracle of exact removal: the original with every removed slice of its weights set to zero.

A pruned model must compute what this one computes (masked equivalence), whatever the architecture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.edit.resize import KeptLengths
from onnxprune.edit.slicing import Removal, apply_edits, constant_edits
from onnxprune.graph.graph import Value
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS
from onnxprune.sparsity import with_zeros


def mask(model: Model, coupling: Coupling, gone: NDArray[np.bool_]) -> onnx.ModelProto:
    """Sets what would be removed to zero, in place, and returns the model's proto.

    Quantised weights become their zero point; a constant that divides becomes one.

    Args:
        model: The original; its proto is what `coupling` analysed.
        coupling: The analysis.
        gone: Boolean per channel id, True for what is removed.
    """

    def masked(value: Value, array: NDArray[Any], removal: Removal) -> NDArray[Any]:
        if not (value.elem_type in FLOATS or value in coupling.ties.quantised):
            return array
        off = np.zeros(array.shape, dtype=bool)
        for axis, indices in removal.items():
            np.moveaxis(off, axis, 0)[list(indices)] = True
        if any(node.op_type in ("Div", "Mod") and i == 1 for node, i in value.consumers):
            return np.where(off, np.ones((), array.dtype), array)
        return with_zeros(model, coupling, value, array, off)

    apply_edits(model, coupling.graph, constant_edits(coupling, KeptLengths(coupling, gone)), masked)
    return model.proto
