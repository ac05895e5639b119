"""Loading and patching of models whose external weights stay on disk.

The ModelProto is edited in place and never rebuilt, so that fields which are not edited are preserved. External data
files are memory-mapped; what is done to a large tensor in them happens when its values are read (see `values`).
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from onnxprune.common.shared_files import SharedFiles
from onnxprune.errors import InputError, ModelError
from onnxprune.model.data_file import DataFile, Stored
from onnxprune.model.external_data import aligned_offset, deferred_number, locate, locations, make_deferred
from onnxprune.model.skeleton import serialized_size, skeleton
from onnxprune.model.tensors import (
    WEIGHT_TYPES,
    constants,
    is_external,
    is_stripped,
    overwrite_values,
    payload_bytes,
    qualified,
    tensors,
)
from onnxprune.model.validation import check
from onnxprune.model.values import Values, Whole

__all__ = ["Model", "constants", "load", "qualified", "skeleton"]

PROTOBUF_LIMIT = 2**31 - 1
"""Maximum size of a serialized protobuf message in bytes."""
STREAMED_MIN_BYTES = 2**20
"""Size in bytes from which values in a data file are edited block by block when they are read."""
LARGEST_OPERAND, LARGEST_INDICES = 32, 4096
"""Elements of an external tensor of weights, or of anything else, up to which its values are loaded with the model.

The analysis needs those of shapes, indices and exponents, and looks at those alone that are inline.
"""
_numbers = itertools.count()


class Model:
    """An ONNX model whose external weights are read on demand.

    Attributes:
        proto: The model; edit it in place. External tensors in it are references.
        path: The file that it was loaded from, or None.
        data_files: The external data files of that file, as resolved paths.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        path: Path | None = None,
        data_files: Iterable[Path] = (),
        deferred: Mapping[int, Values] | None = None,
    ) -> None:
        self.proto = proto
        self.path = path
        self.data_files = frozenset(data_files)
        self._files: dict[Path, DataFile] = {}
        self._deferred = dict(deferred or {})

    def __repr__(self) -> str:
        return f"Model({str(self.path or self.proto.graph.name)!r}, {len(self.proto.graph.node)} nodes)"

    def array(self, tensor: TensorProto) -> np.ndarray:
        """Returns the values of a tensor of this model; treat them as read-only.

        External values are a view of the mapped file, without a copy (types smaller than a byte are unpacked).

        Raises:
            InputError: The values cannot be read, for example because dimensions and data disagree.
        """
        try:
            if not is_external(tensor):
                return _decode(tensor)
            number = deferred_number(tensor)
            if number is not None:
                return self._deferred[number].array()
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            raw = self.raw(tensor)
            if sys.byteorder == "little" and dtype.itemsize * math.prod(tensor.dims) == raw.size:
                mapped: np.ndarray = raw.view(dtype).reshape(tuple(tensor.dims))
                return mapped
            return _decode(TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=raw.tobytes()))
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(f"{self._where()}: tensor '{tensor.name}' cannot be read: {error}") from error

    def raw(self, tensor: TensorProto) -> np.ndarray:
        """Returns the bytes of an external tensor, if they are stored as a view of the file: uint8, shape (bytes,)."""
        if deferred_number(tensor) is not None:
            return self.array(tensor).reshape(-1).view(np.uint8)
        at = locate(tensor, self.path)
        if at.length == 0:
            return np.empty(0, dtype=np.uint8)
        return self._open(at.file).mapped[at.offset : at.offset + at.length]

    def _open(self, path: Path) -> DataFile:
        if path not in self._files:
            self._files[path] = DataFile(path)
        return self._files[path]

    def raw_parts(self, tensor: TensorProto) -> Iterator[np.ndarray]:
        """Yields the bytes of an external tensor, block by block where it is large: uint8, shape (bytes,) each."""
        if not self.is_streamed(tensor):
            yield self.raw(tensor)
            return
        for block in self.values(tensor).blocks():
            yield block.reshape(-1).view(np.uint8)

    def values(self, tensor: TensorProto) -> Values:
        """Returns the values of a tensor of this model, which may be read block by block.

        Raises:
            InputError: As `array`.
        """
        number = deferred_number(tensor)
        if number is not None:
            return self._deferred[number]
        array = self.array(tensor)
        if not self.is_streamed(tensor):
            return Whole(array)
        at = locate(tensor, self.path)
        return Stored(self._open(at.file), at.offset, array)

    def set_values(self, tensor: TensorProto, values: Values, like: TensorProto | None = None) -> None:
        """Replaces values and dimensions of a tensor; those of large ones in data files are made when they are read.

        Args:
            tensor: The tensor.
            values: Its new values.
            like: The tensor that is asked whether it is large and in a data file, if not this one.
        """
        if not self.is_streamed(tensor if like is None else like):
            self.set_array(tensor, values.array())
            return
        number = next(_numbers)
        self._deferred[number] = values
        make_deferred(tensor, number, values.shape)

    def is_streamed(self, tensor: TensorProto) -> bool:
        """Whether the values of a tensor are large and in a data file, so that no copy of them is kept in memory."""
        if not is_external(tensor) or payload_bytes(tensor) < STREAMED_MIN_BYTES or sys.byteorder != "little":
            return False
        whole = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * math.prod(tensor.dims)
        return bool(whole == payload_bytes(tensor))  # types smaller than a byte are packed

    def materialise(self) -> None:
        """Stores the values of all edited tensors inline, so that others can read them in the ModelProto."""
        for tensor in tensors(self.proto):
            if deferred_number(tensor) is not None:
                self.set_array(tensor, self.array(tensor))

    @property
    def defers(self) -> bool:
        """Whether some tensors are made only when they are read."""
        return any(deferred_number(tensor) is not None for tensor in tensors(self.proto))

    def set_array(self, tensor: TensorProto, array: np.ndarray) -> None:
        """Replaces values and dimensions of a tensor of this model; the new values are stored inline.

        Element type, name and doc string are kept; the values are converted to that element type.
        """
        overwrite_values(tensor, array)

    @property
    def nbytes(self) -> int:
        """Size of the model in bytes as `save` stores it, external data and the gaps between them included.

        Values that were stripped count as nothing.
        """
        end = 0
        for tensor in tensors(self.proto):
            if not is_external(tensor) or is_stripped(tensor):
                continue
            stored = deferred_number(tensor) is None
            length = locate(tensor, self.path).length if stored else payload_bytes(tensor)
            end = aligned_offset(end, length) + length
        return end + serialized_size(self.proto)

    def copy(self) -> Model:
        """Returns an independent copy; external data files are shared, inline values copied."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        return self.part(proto)

    def part(self, proto: onnx.ModelProto) -> Model:
        """A model of other nodes with tensors of this one."""
        return Model(proto, self.path, self.data_files, self._deferred)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process the data files are those that are there, or copies; what was edited is sent."""
        copy = self.copy()
        copy.materialise()
        names = locations(copy.proto)
        if self.path is None or not names:
            return Model, (copy.proto, self.path)
        files = SharedFiles.of([self.path, *(self.path.parent / name for name in names)])
        return _received, (copy.proto, self.path.name, files)

    def close(self) -> None:
        """Releases the mapped files; arrays that were returned before remain valid."""
        self._files.clear()

    def _where(self) -> str:
        return str(self.path) if self.path else "model"


def load(source: str | os.PathLike[str] | onnx.ModelProto, *, weights: bool = True) -> Model:
    """Loads and validates a model from a file, or from a ModelProto, which is copied.

    Args:
        source: The model, or the path of its file.
        weights: Whether all weights must be present; if not, the values may be stripped (see `anonymize`).

    Raises:
        InputError: The file does not exist or is not an ONNX model, or its external data is missing, too short or
            outside the model's folder.
        ModelError: The model is inconsistent; see `validation.check`.
    """
    if isinstance(source, onnx.ModelProto):
        proto, path = onnx.ModelProto(), None
        proto.CopyFrom(source)
    else:
        path = Path(source)
        proto = _parse(path, _read(path))
    where = str(path) if path else "model"
    if not proto.ir_version or not proto.HasField("graph") or not proto.graph.node:
        lacking = "ir_version" if not proto.ir_version else "graph with nodes"
        raise InputError(f"{where}: not an ONNX model (it has no {lacking})", hint=_how_to_convert(where))
    try:
        check(proto)
    except ModelError as error:
        raise ModelError(f"{where}: {error.message}", error.hint) from None
    external = [t for t in tensors(proto) if is_external(t) and (weights or not is_stripped(t))]
    model = Model(proto, path, {locate(t, path).file for t in external})
    for tensor in external:
        if math.prod(tensor.dims) <= (LARGEST_OPERAND if tensor.data_type in WEIGHT_TYPES else LARGEST_INDICES):
            overwrite_values(tensor, model.array(tensor))
    return model


def _received(proto: onnx.ModelProto, name: str, files: SharedFiles) -> Model:
    path = files.here() / name
    return Model(proto, path, {locate(t, path).file for t in tensors(proto) if is_external(t)})


_CONVERTERS = {
    "torch.onnx.export": (".pt", ".pth", ".ckpt", ".pt2", ".safetensors", ".bin"),
    "tf2onnx": (".tflite", ".pb", ".h5", ".keras", ".savedmodel"),
    "skl2onnx": (".pkl", ".joblib"),
    "paddle2onnx": (".pdmodel", ".pdiparams"),
}
"""What makes ONNX files of files with these suffixes."""


def _how_to_convert(name: str, otherwise: str = "give a .onnx file") -> str:
    """A hint for a file that is no ONNX model: what converts it, where its suffix tells."""
    suffix = Path(name).suffix.lower()
    tool = next((tool for tool, suffixes in _CONVERTERS.items() if suffix in suffixes), None)
    return otherwise if tool is None else f"export it to ONNX first, with {tool}, say"


def _decode(tensor: TensorProto) -> np.ndarray:
    values: np.ndarray = numpy_helper.to_array(tensor)
    return values


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a file", hint="give the .onnx file in it")
    try:
        if path.exists() and not path.is_file():  # pipes and devices may have no end
            raise InputError(f"{path}: is not a regular file", hint="give the .onnx file")
        if path.stat().st_size > PROTOBUF_LIMIT:
            raise InputError(f"{path}: not an ONNX model (over 2 GB)", hint="weights belong in an external data file")
        return path.read_bytes()
    except FileNotFoundError:
        near = _similar_names(path)
        raise InputError(f"{path}: no such file", hint=f"did you mean {near[0]}?" if near else None) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}", "may you read it?") from error
    except ValueError as error:  # a zero byte in the name
        raise InputError(f"{path}: no such file: {error}", "give the .onnx file") from None


def _similar_names(path: Path) -> list[str]:
    """Returns the most similar name in the same folder, in a list; an empty list if there is none."""
    with contextlib.suppress(OSError):
        return difflib.get_close_matches(path.name, sorted(os.listdir(path.parent)), n=1)
    return []


def _parse(path: Path, data: bytes) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        hint = _how_to_convert(str(path), "is the file complete?")
        if not data:
            hint = "the file is empty"
        elif data.startswith(b"version https://git-lfs"):
            hint = "this is a Git LFS pointer; fetch the file itself with `git lfs pull`"
        elif data[4:8] == b"ORTM":
            hint = "this is onnxruntime's own format; give the .onnx file that it was made from"
        raise InputError(f"{path}: not an ONNX model (cannot be parsed)", hint=hint) from None
    return proto
