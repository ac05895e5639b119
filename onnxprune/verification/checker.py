"""Runs `onnx.checker` on a copy of a model without its weights."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx

from onnxprune.errors import InputError, ModelError
from onnxprune.model.external_data import make_external
from onnxprune.model.model import Model, load
from onnxprune.model.save import EXTERNAL_MIN_BYTES
from onnxprune.model.skeleton import add_dense_initializers, skeleton
from onnxprune.model.tensors import is_external, payload_bytes, tensors
from onnxprune.runtime.piecewise import Pieces
from onnxprune.runtime.session import Runnable, Source, error_line


def checker_error(ready: Runnable | Pieces, source: Source) -> str:
    """Returns the error of onnx's checker for a model, "" if it is valid.

    Args:
        ready: The model as it is run.
        source: The same model, or the path of its file.
    """
    try:
        proto = _proto_of(source)
        if proto is None:
            onnx.checker.check_model(ready.payload, full_check=True)
        else:  # without values of weights, which the checker copies but never reads
            with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
                onnx.checker.check_model(_write_without_values(proto, folder), full_check=True)
    except Exception as error:  # the checker raises several types, and RuntimeError for unexpected errors
        return error_line(error)
    return ""


def _proto_of(source: Source) -> onnx.ModelProto | None:
    """The proto of a model, to be checked with its sparse weights dense; None for a file that cannot be loaded."""
    if isinstance(source, Model):
        return source.proto
    if isinstance(source, onnx.ModelProto):
        return source
    try:
        return load(source).proto
    except (InputError, ModelError):
        return None  # onnx says what is wrong with it


def _write_without_values(proto: onnx.ModelProto, folder: str) -> str:
    """Writes a model with a sparse data file, which has the right size but takes no disk space; returns its path."""
    copy, end = skeleton(proto, EXTERNAL_MIN_BYTES), 0
    add_dense_initializers(copy)
    for tensor in tensors(copy):
        if is_external(tensor):
            make_external(tensor, "model.data", end, payload_bytes(tensor))
            end += payload_bytes(tensor)
    with open(os.path.join(folder, "model.data"), "wb") as stream:
        stream.truncate(end)
    path = os.path.join(folder, "model.onnx")
    Path(path).write_bytes(copy.SerializeToString())
    return path
