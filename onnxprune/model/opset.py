"""Which version of ONNX's own operators a model uses."""

from __future__ import annotations

from onnx import ModelProto


def opset_of(proto: ModelProto) -> int:
    """Version of the default operator set, 1 where a model imports none."""
    return next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1)
