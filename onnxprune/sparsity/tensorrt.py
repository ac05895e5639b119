"""Whether TensorRT can run a layer on sparse tensor cores, by what NVIDIA documents.

Where each rule is from:

- *Guide*: TensorRT developer guide, "Sparsity" (in newer editions "I/O Formats and Sparsity"). The weights of
  convolutions and of fully connected layers qualify where, for each output channel and each kernel position, at
  least two of every four consecutive input channels are zero; the check assumes that four divides the input channels.
  FP16 or INT8 must be enabled, with the flag for sparse weights. Even so the builder takes the dense kernel where that
  is faster.
- *ASP*: Automatic SParsity in NVIDIA's apex leaves weights dense whose outputs are not a multiple of 8 or whose inputs
  are not a multiple of 16.
- *Issue 3849* of NVIDIA/TensorRT: its developers see sparse kernels win from about 256 input and output channels on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import TensorProto

from onnxprune.graph.operators import WeightLayout
from onnxprune.sparsity.layout import Weight

OPERATORS = ("Conv", "MatMul", "Gemm")
TYPES: dict[int, str] = {TensorProto.FLOAT: "FP16", TensorProto.FLOAT16: "FP16", TensorProto.INT8: "INT8"}
"""Types of weights, and the precision that they can run sparse in."""
OUTPUTS, INPUTS = 8, 16
"""Multiples that sparse tensor cores are laid out for."""
LARGE = 256
"""Channels from which on sparse kernels tend to win."""


@dataclass(frozen=True)
class Verdict:
    """What TensorRT can make of a weight.

    Attributes:
        qualifies: Whether nothing is against sparse tensor cores.
        reasons: What is.
        hints: Why the dense kernel may be taken all the same.
        precision: What must be enabled, ``FP16`` or ``INT8``; None where it does not qualify.
    """

    qualifies: bool
    reasons: list[str]
    hints: list[str]
    precision: str | None


def check_weight(weight: Weight, holds: bool) -> Verdict:
    """Applies the rules to a weight.

    Args:
        weight: The weight.
        holds: Whether it has zeros in the pattern 2:4.
    """
    shape = [d for d in weight.value.shape or [] if isinstance(d, int)]
    reasons = _reasons(weight, shape, holds)
    precision = None if reasons else TYPES[weight.value.elem_type]
    return Verdict(not reasons, reasons, [] if reasons else _hints(weight.layout, shape), precision)


def _reasons(weight: Weight, shape: Sequence[int], holds: bool) -> list[str]:
    found = []
    node, layout, kind = weight.node, weight.layout, weight.value.elem_type
    if node.op_type not in OPERATORS or node.domain:
        found.append(f"{node.op_type} is neither a convolution nor a fully connected layer")
    if kind not in TYPES:
        found.append(f"weights of type {TensorProto.DataType.Name(kind)}, neither half precision nor INT8")
    if layout is None:
        return [*found, weight.why]
    if node.op_type == "MatMul" and len(shape) != 2:
        found.append("not a matrix, so no fully connected layer")
    inputs = _inputs(layout, shape)
    if inputs % 4:
        found.append(f"the number of its input channels ({inputs}) is no multiple of 4")
    elif not holds:
        found.append("2:4 does not hold along its input channels")
    return found


def _hints(layout: WeightLayout | None, shape: Sequence[int]) -> list[str]:
    assert layout is not None
    found = []
    inputs, outputs = _inputs(layout, shape), _outputs(layout, shape)
    for what, size, step in (("input", inputs, INPUTS), ("output", outputs, OUTPUTS)):
        if size % step:
            found.append(f"the number of its {what} channels ({size}) is no multiple of {step}")
    if min(inputs, outputs) < LARGE:
        found.append(f"sparse kernels tend to win from {LARGE} input and output channels on")
    return found


def _inputs(layout: WeightLayout, shape: Sequence[int]) -> int:
    return shape[layout.inputs] // layout.input_blocks


def _outputs(layout: WeightLayout, shape: Sequence[int]) -> int:
    return 1 if layout.outputs is None else shape[layout.outputs] // layout.output_blocks
