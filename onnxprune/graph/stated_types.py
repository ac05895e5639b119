"""What a `ValueInfoProto` states of a value."""

from __future__ import annotations

import onnx

from onnxprune.graph.lengths import Dim


def tensor_type(info: onnx.ValueInfoProto) -> tuple[list[Dim] | None, int]:
    """Shape and element type that a `ValueInfoProto` states; (None, 0) for anything but a tensor."""
    if info.type.WhichOneof("value") != "tensor_type":
        return None, 0
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return None, tensor.elem_type
    return [dimension(d) for d in tensor.shape.dim], tensor.elem_type


def dimension(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    """One stated axis length: a number, a name, or None (also for what is below 0: some exporters mean free by it)."""
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None
