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
from onnxprune.layers.real_values import real_values
from onnxprune.model.model import Model
from onnxprune.model.tensors import WEIGHT_TYPES
from onnxprune.model.values import Values
from onnxprune.sparsity import Weight, tensorrt
from onnxprune.sparsity.patterns import Blocks, NOfM
from onnxprune.sparsity.zeroed import FLOATS, magnitude_bits

PATTERNS = tuple(NOfM(n, m) for n, m in ((1, 2), (1, 4), (2, 4), (2, 8), (4, 8)))
"""N:M patterns that are looked for."""
BLOCKS = tuple(Blocks(rows, columns) for rows, columns in ((1, 4), (1, 8), (4, 1), (8, 1), (4, 4), (8, 8)))
"""Shapes of blocks (outputs, inputs) that are looked for."""
SAMPLED = 8
"""Outputs that are looked at first: as many as the highest blocks have."""


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
        zero = _zeros_of(real_values(model, value, coupling.ties.quantised, coupling.ties.packed))
        if zero.size > 1:
            entry = _entry(value, readings.get(value.key), zero)
            entries.append(entry)
            total, none = total + zero.size, none + round(entry["zeros"] * zero.size)
    return {"zeros": none / total if total else None, "tensors": entries}


def _zeros_of(values: Values) -> NDArray[np.bool_]:
    """Which elements are zero; made block by block, shape of the values."""
    found, at = np.empty(values.shape, dtype=bool), 0
    if not values.shape:
        return np.asarray(values.array() == 0)
    for block in values.blocks():
        by_bits = block.dtype.name in FLOATS  # faster than by the numbers of float16
        np.equal(magnitude_bits(block) if by_bits else block, 0, out=found[at : at + len(block)])
        at += len(block)
    return found


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
        "zeros": np.count_nonzero(zero) / zero.size,
        "reduction_axis": None if layout is None else layout.inputs,
        "patterns": patterns,
        "blocks": [] if layout is None else [str(b) for b in BLOCKS if _in_blocks(b, zero, layout)],
        "tensorrt": None if weight is None else asdict(tensorrt.check_weight(weight, "2:4" in patterns)),
    }


def _has(pattern: Pattern, zero: NDArray[np.bool_], layout: WeightLayout, height: int = 1) -> bool:
    """Whether the zeros of a weight have a pattern, on axes that are long enough for it."""
    outputs = 1 if layout.outputs is None else zero.shape[layout.outputs] // layout.output_blocks
    inputs = zero.shape[layout.inputs] // layout.input_blocks
    if inputs < pattern.width or outputs < height:
        return False
    return pattern.holds(_sample(zero, layout), layout) and pattern.holds(zero, layout)


def _sample(zero: NDArray[np.bool_], layout: WeightLayout) -> NDArray[np.bool_]:
    """All inputs of a few neighbouring outputs, the first zero among them: few weights have a pattern there."""
    axis = layout.outputs
    if axis is None or layout.output_blocks > 1:
        return zero
    begin = int(np.unravel_index(zero.argmax(), zero.shape)[axis]) // SAMPLED * SAMPLED
    return zero[(slice(None),) * axis + (slice(begin, begin + SAMPLED),)]


def _in_blocks(blocks: Blocks, zero: NDArray[np.bool_], layout: WeightLayout) -> bool:
    """Whether there are zeros, and all of them fill whole blocks."""
    return bool(zero.any()) and layout.outputs is not None and _has(blocks, zero, layout, blocks.rows)
