"""Operators of onnxruntime and of ai.onnx.ml; importing this package registers every rule."""

from onnxprune.ops.contrib import attention, block_quantized, experts, fused, ml, normalization, quantization

__all__ = ["attention", "block_quantized", "experts", "fused", "ml", "normalization", "quantization"]
