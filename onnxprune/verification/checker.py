"""What `onnx.checker` says of a model, on a copy without its weights."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx

from onnxprune.model.external_data import make_external
from onnxprune.model.model import EXTERNAL_MIN_BYTES, Model
from onnxprune.model.skeleton import add_dense_initializers, skeleton
from onnxprune.model.tensors import is_external, payload_bytes, tensors
from onnxprune.runtime.session import Runnable, Source, error_line


def complaint(ready: Runnable, source: Source) -> str:
    """What onnx's checker says against a model, "" if nothing."""
    try:
        if isinstance(source, Model):  # without the weights' values, which the checker never reads but would copy
            with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
                onnx.checker.check_model(_hollow(source.proto, folder), full_check=True)
        else:
            onnx.checker.check_model(ready.payload, full_check=True)
    except Exception as error:  # the checker raises several kinds, and RuntimeError for what it does not foresee
        return error_line(error)
    return ""


def _hollow(proto: onnx.ModelProto, folder: str) -> str:
    """Writes a model whose data file has the right size but takes no space: the checker never reads values."""
    slim, end = skeleton(proto, EXTERNAL_MIN_BYTES), 0
    add_dense_initializers(slim)
    for tensor in tensors(slim):
        if is_external(tensor):
            make_external(tensor, "model.data", end, payload_bytes(tensor))
            end += payload_bytes(tensor)
    with open(os.path.join(folder, "model.data"), "wb") as stream:
        stream.truncate(end)
    path = os.path.join(folder, "model.onnx")
    Path(path).write_bytes(slim.SerializeToString())
    return path
