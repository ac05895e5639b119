"""Gradients of operators, one file a family; importing this package registers every gradient rule."""

from onnxprune.ops.gradients import (
    conv,
    elementwise,
    layout,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
)

__all__ = [
    "conv",
    "elementwise",
    "layout",
    "linear",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reduction",
]
