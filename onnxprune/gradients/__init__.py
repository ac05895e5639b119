"""Reverse-mode differentiation of an ONNX graph: the gradients are an ONNX graph again."""
