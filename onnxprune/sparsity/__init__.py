"""Sparsity: patterns of zeros in weights; all shapes are kept."""

from onnxprune.sparsity.layout import Weight, weights
from onnxprune.sparsity.magnitude import real_values, with_zeros, zero_elements, zero_smallest

__all__ = ["Weight", "real_values", "weights", "with_zeros", "zero_elements", "zero_smallest"]
