"""One file a family of operators; importing this package registers every rule."""

from onnxprune.ops import conv, elementwise, linear, norm, pool, reduce, reshape, shape

__all__ = ["conv", "elementwise", "linear", "norm", "pool", "reduce", "reshape", "shape"]
