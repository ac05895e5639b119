"""Operators of onnxruntime and of ai.onnx.ml; importing this package registers every rule."""

from onnxprune.ops.contrib import fused, ml, quantization

__all__ = ["fused", "ml", "quantization"]
