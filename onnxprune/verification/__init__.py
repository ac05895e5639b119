"""Compares models in onnxruntime: the final check, output errors, gates."""
