"""Gradients of operators, one file a family; importing this package registers every gradient rule."""

from onnxprune.ops.gradients import (
    attention,
    contrib,
    conv,
    elementwise,
    grouped_attention,
    indexing,
    layout,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    sampling,
    sequence,
    trigonometric,
)

__all__ = [
    "attention",
    "contrib",
    "conv",
    "elementwise",
    "grouped_attention",
    "indexing",
    "layout",
    "linear",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reduction",
    "sampling",
    "sequence",
    "trigonometric",
]
