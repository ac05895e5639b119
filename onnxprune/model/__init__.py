"""The model file: loading, saving, tensors, external data, atomic writes, validation."""
