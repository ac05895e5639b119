"""Patterns of zeros that leave every shape as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling import Coupling
from onnxprune.graph import Value
from onnxprune.model import Model
from onnxprune.scoring import FLOATS, dequantised
from onnxprune.sparsity.unstructured import smallest, smallest_across

_PRODUCTS = {"Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN", "FusedConv",
             "FusedGemm", "FusedMatMul", "Attention", "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger",
             "MatMulInteger"}
_THROUGH = {"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "DequantizeLinear", "Flatten"}


def weights(coupling: Coupling) -> list[Value]:
    """Constants that a product operator multiplies with, straight or through layout and type changes."""
    found: dict[str, Value] = {}
    for value in coupling.graph.constants():
        quantised = value in coupling.ties.quantised
        matrix = sum(d != 1 for d in value.shape or []) > 1
        if matrix and (value.elem_type in FLOATS or quantised) and _feeds_product(value):
            found.setdefault(value.key, value)
    return list(found.values())


def _feeds_product(value: Value) -> bool:
    todo, seen = [value], set()
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        for node, i in at.consumers:
            if node.op_type in _PRODUCTS:
                return True
            if node.op_type in _THROUGH and i == 0:
                todo += [o for o in node.outputs if o is not None]
    return False


def zero_smallest(model: Model, coupling: Coupling, targets: Sequence[Value], ratio: float,
                  across: bool) -> dict[str, NDArray[np.bool_]]:
    """Sets the smallest elements of weights to zero, in place; zero of a quantised weight is its zero point.

    Args:
        model: The model whose proto was analysed.
        coupling: Its analysis.
        targets: Weights to thin out.
        ratio: Share of elements, of each weight or, with `across`, of all of them together.
        across: Rank all elements together; each weight is first divided by its root mean square.

    Returns:
        Constant -> mask of the elements that were set to zero.
    """
    sizes = [np.abs(_real(model, coupling, v)) for v in targets]
    masks = smallest_across(sizes, ratio) if across else [smallest(x, ratio) for x in sizes]
    done = {}
    for value, mask in zip(targets, masks, strict=True):
        if mask.any():
            clear(model, coupling, value, mask)
            done[value.key] = mask
    return done


def clear(model: Model, coupling: Coupling, value: Value, mask: NDArray[np.bool_]) -> None:
    """Sets the masked elements of one constant to zero, in place."""
    assert value.tensor is not None
    model.set_array(value.tensor, cleared(model, coupling, value, model.array(value.tensor), mask))


def cleared(model: Model, coupling: Coupling, value: Value, array: NDArray[Any],
            mask: NDArray[np.bool_]) -> NDArray[Any]:
    """The array with its masked elements zero, or the zero point of a quantised weight."""
    nothing: NDArray[Any] = np.zeros((), dtype=array.dtype)
    if value in coupling.ties.quantised:
        _, zero, axis = coupling.ties.quantised[value]
        if zero is not None and zero.tensor is not None:
            points = -model.array(zero.tensor).astype(np.float32)
            nothing = dequantised(np.zeros(array.shape, np.float32), np.ones(1, np.float32), points, axis)
    return np.where(mask, nothing.astype(array.dtype), array)


def _real(model: Model, coupling: Coupling, value: Value) -> NDArray[np.float32]:
    assert value.tensor is not None
    array = model.array(value.tensor)
    if value in coupling.ties.quantised:
        scale, zero, axis = coupling.ties.quantised[value]
        if scale.tensor is not None:
            points = model.array(zero.tensor) if zero is not None and zero.tensor is not None else None
            return dequantised(array, model.array(scale.tensor), points, axis)
    return array.astype(np.float32)


__all__ = ["clear", "cleared", "weights", "zero_smallest"]
