"""One file a family of operators; importing this package registers every rule."""

from onnxprune.ops import (
    contrib,
    contrib_attention,
    control_flow,
    conv,
    elementwise,
    linear,
    misc,
    ml,
    norm,
    pool,
    quant,
    quant_contrib,
    recurrent,
    reduce,
    reshape,
    shape,
)

__all__ = [
    "contrib",
    "contrib_attention",
    "control_flow",
    "conv",
    "elementwise",
    "linear",
    "misc",
    "ml",
    "norm",
    "pool",
    "quant",
    "quant_contrib",
    "recurrent",
    "reduce",
    "reshape",
    "shape",
]
