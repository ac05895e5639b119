"""The zeros of a model, as data: how many, in which patterns, and whether TensorRT can make use of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune import sparsity
from onnxprune.coupling.coupling import Coupling
from onnxprune.extensions.patterns import Pattern
from onnxprune.graph.graph import Value
from onnxprune.graph.operators import WeightLayout
from onnxprune.layers.dequantize import unpacked
from onnxprune.model.model import Model
from onnxprune.model.tensors import WEIGHT_TYPES
from onnxprune.sparsity import Weight, tensorrt
from onnxprune.sparsity.patterns import Blocks, NOfM

PATTERNS = tuple(NOfM(n, m) for n, m in ((1, 2), (1, 4), (2, 4), (2, 8), (4, 8)))
"""N:M patterns that are looked for."""
BLOCKS = tuple(Blocks(rows, columns) for rows, columns in ((1, 4), (1, 8), (4, 1), (8, 1), (4, 4), (8, 8)))
"""Shapes of blocks (outputs, inputs) that are looked for."""


def zeros(model: Model, coupling: Coupling) -> dict[str, Any]:
    """The zeros of every weight constant with more than one element, in graph order.

    Of quantised weights those at the zero point count.

    Returns:
        ``zeros``: share of all elements; ``tensors``: one entry each, see `_entry`.
    """
    readings = {w.value.key: w for w in sparsity.weights(coupling)}
    parameters = {
        v.key
        for scale, zero, _ in [*coupling.ties.quantised.values(), *coupling.ties.packed.values()]
        for v in (scale, zero)
        if v is not None
    }
    entries, total, none = [], 0, 0
    for value in {v.key: v for v in coupling.graph.constants() if v.consumers}.values():
        if value.elem_type not in WEIGHT_TYPES or value.key in parameters:
            continue
        zero = _numbers(model, coupling, value) == 0
        if zero.size > 1:
            entries.append(_entry(value, readings.get(value.key), zero))
            total, none = total + zero.size, none + int(zero.sum())
    return {"zeros": none / total if total else None, "tensors": entries}


def _numbers(model: Model, coupling: Coupling, value: Value) -> NDArray[np.float32]:
    """Real values of a constant."""
    assert value.tensor is not None
    if value in coupling.ties.packed:
        scale, zero, bits = coupling.ties.packed[value]
        if scale.tensor is not None:
            points = model.array(zero.tensor) if zero is not None and zero.tensor is not None else None
            found: NDArray[np.float32] = unpacked(model.array(value.tensor), model.array(scale.tensor), points, bits)
            return found
    return sparsity.real_values(model, coupling, value)


def _entry(value: Value, weight: Weight | None, zero: NDArray[np.bool_]) -> dict[str, Any]:
    """Report entry of one tensor.

    Returns:
        ``name``, ``operator`` (the product that reads it, else its first reader), ``shape``, ``type``, ``zeros`` (share
        of its elements), ``reduction_axis`` (None where no product reads it), ``patterns`` and ``blocks`` that its
        zeros have, ``tensorrt``: None where no product reads it, else `tensorrt.Verdict`.
    """
    layout = weight.layout if weight is not None else None
    patterns = [] if layout is None else [str(p) for p in PATTERNS if _has(p, zero, layout)]
    node = weight.node if weight is not None else value.consumers[0][0]
    return {
        "name": value.key,
        "operator": node.op_type,
        "shape": [d for d in value.shape or [] if isinstance(d, int)],
        "type": TensorProto.DataType.Name(value.elem_type),
        "zeros": float(zero.mean()),
        "reduction_axis": None if layout is None else layout.inputs,
        "patterns": patterns,
        "blocks": [] if layout is None else [str(b) for b in BLOCKS if _in_blocks(b, zero, layout)],
        "tensorrt": None if weight is None else asdict(tensorrt.check_weight(weight, "2:4" in patterns)),
    }


def _has(pattern: Pattern, zero: NDArray[np.bool_], layout: WeightLayout, height: int = 1) -> bool:
    """Whether the zeros of a weight have a pattern, on axes that are long enough for it."""
    outputs = 1 if layout.outputs is None else zero.shape[layout.outputs] // layout.output_blocks
    inputs = zero.shape[layout.inputs] // layout.input_blocks
    return inputs >= pattern.width and outputs >= height and pattern.holds(zero, layout)


def _in_blocks(blocks: Blocks, zero: NDArray[np.bool_], layout: WeightLayout) -> bool:
    """Whether there are zeros, and all of them fill whole blocks."""
    return bool(zero.any()) and layout.outputs is not None and _has(blocks, zero, layout, blocks.rows)
