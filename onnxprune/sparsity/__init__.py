"""Patterns of zeros that leave every shape as it is."""

from onnxprune.sparsity.layout import Weight, weights
from onnxprune.sparsity.magnitude import clear, cleared, real, zero_smallest
from onnxprune.sparsity.masks import holds, mask

__all__ = ["Weight", "clear", "cleared", "holds", "mask", "real", "weights", "zero_smallest"]
