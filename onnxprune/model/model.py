"""Loading, patching and saving of models whose external weights stay on disk.

The ModelProto is edited in place and never rebuilt, so that fields which are not edited are preserved. External data
files are memory-mapped and read, and written, one tensor at a time.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import math
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import InputError, ModelError
from onnxprune.model.atomic_write import atomic_write, data_file_path
from onnxprune.model.external_data import aligned_offset, locate, make_external, relocate
from onnxprune.model.skeleton import serialized_size, skeleton
from onnxprune.model.tensors import (
    constants,
    inline_bytes,
    is_external,
    is_stripped,
    overwrite_values,
    payload_bytes,
    qualified,
    tensors,
)
from onnxprune.model.validation import check

__all__ = ["Model", "constants", "load", "qualified", "save", "skeleton"]

PROTOBUF_LIMIT = 2**31 - 1
"""Maximum size of a serialized protobuf message in bytes."""
EXTERNAL_MIN_BYTES = 1024
"""Size in bytes from which a tensor is written to the data file, if there is one."""
_HEADROOM = 64 * 2**20  # bytes reserved for everything but raw data: names, nodes, typed fields


class Model:
    """An ONNX model whose external weights are read on demand.

    Attributes:
        proto: The model; edit it in place. External tensors in it are references.
        path: The file that it was loaded from, or None.
        data_files: The external data files of that file, as resolved paths.
    """

    def __init__(self, proto: onnx.ModelProto, path: Path | None = None, data_files: Iterable[Path] = ()) -> None:
        self.proto = proto
        self.path = path
        self.data_files = frozenset(data_files)
        self._maps: dict[Path, np.ndarray] = {}

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
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            raw = self.raw(tensor)
            if sys.byteorder == "little" and dtype.itemsize * math.prod(tensor.dims) == raw.size:
                mapped: np.ndarray = raw.view(dtype).reshape(tuple(tensor.dims))
                return mapped
            return _decode(TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=raw.tobytes()))
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(f"{self._where()}: tensor '{tensor.name}' cannot be read: {error}") from error

    def raw(self, tensor: TensorProto) -> np.ndarray:
        """Returns the bytes of an external tensor as a read-only view of its file: uint8, shape (bytes,)."""
        at = locate(tensor, self.path)
        if at.length == 0:
            return np.empty(0, dtype=np.uint8)
        if at.file not in self._maps:
            self._maps[at.file] = np.memmap(at.file, dtype=np.uint8, mode="r")
        return self._maps[at.file][at.offset : at.offset + at.length]

    def set_array(self, tensor: TensorProto, array: np.ndarray) -> None:
        """Replaces values and dimensions of a tensor of this model; the new values are stored inline.

        Element type, name and doc string are kept; the values are converted to that element type.
        """
        overwrite_values(tensor, array)

    @property
    def nbytes(self) -> int:
        """Size of the model in bytes as `save` stores it, external data and the gaps between them included."""
        end = 0
        for tensor in filter(is_external, tensors(self.proto)):
            length = locate(tensor, self.path).length
            end = aligned_offset(end, length) + length
        return end + serialized_size(self.proto)

    def copy(self) -> Model:
        """Returns an independent copy; external data files are shared, inline values copied."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        return Model(proto, self.path, self.data_files)

    def close(self) -> None:
        """Releases the mapped files; arrays that were returned before remain valid."""
        self._maps.clear()

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
    external = (t for t in tensors(proto) if is_external(t) and (weights or not is_stripped(t)))
    return Model(proto, path, {locate(t, path).file for t in external})


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


def save(model: Model, path: str | os.PathLike[str], *, overwrite: bool = True) -> int:
    """Writes a model atomically; the files that it was loaded from are never modified.

    Weights are stored in the model file, unless the model was loaded with external data or would exceed protobuf's
    limit of 2 GB: then initializers and Constants of 1024 bytes or more are written to a data file beside it, one at a
    time. The name of the data file, `NAME.HASH.data`, is derived from its content: equal models give equal bytes, and
    an existing model keeps its data until it is replaced (see `atomic_write`).

    Args:
        model: The model; not modified.
        path: The file to write; its folder must exist.
        overwrite: Whether an existing file may be replaced.

    Returns:
        The size of the written files in bytes.

    Raises:
        InputError: The folder does not exist, the file exists and must not be replaced, or is a file of the input.
        OutputError: Writing failed, for example because the disk is full; existing files are unchanged.
    """
    target = Path(path)
    _check_target(model, target, overwrite)
    with atomic_write(target, keep=model.data_files) as write:
        files, proto, data_bytes = [target], model.proto, 0
        if needs_data_file(model):
            stream = write.new()
            proto, digest = write_external_data(model, stream)
            data_bytes = stream.tell()
            data = data_file_path(target, digest)
            _check_target(model, data, overwrite=True)
            relocate(proto, data.name)
            files.insert(0, data)
        content = proto.SerializeToString(deterministic=True)
        write.new().write(content)
        write.publish(*files)
    return len(content) + data_bytes


def needs_data_file(model: Model) -> bool:
    """Whether `save` writes a data file: the model was loaded with one, or is too large for a single file."""
    return bool(model.data_files) or not fits_in_message(model.proto)


def fits_in_message(proto: onnx.ModelProto) -> bool:
    """Whether a model with its current inline values can be serialized as one protobuf message."""
    inline = sum(payload_bytes(t) for t in tensors(proto) if not is_external(t))
    return inline <= PROTOBUF_LIMIT - _HEADROOM


def _check_target(model: Model, file: Path, overwrite: bool) -> None:
    """Raises `InputError` if this file must not or cannot be written."""
    try:
        file.name.encode()
    except UnicodeEncodeError:
        raise InputError(f"{file}: the name is not UTF-8", hint="choose another output name") from None
    if not file.parent.is_dir():
        raise InputError(f"{file}: the folder {file.parent} does not exist", hint="create it first")
    existing = _stat(file)  # once: another run may replace or remove it at any time
    if existing is None:
        return
    if not stat.S_ISREG(existing.st_mode):
        raise InputError(f"{file}: is not a regular file", hint="name a file to write")
    inputs = (_stat(one) for one in {*model.data_files, *([model.path] if model.path else [])})
    if any(one is not None and os.path.samestat(existing, one) for one in inputs):
        raise InputError(f"{file}: is a file of the input, which is never changed", hint="choose another output name")
    if not overwrite:
        raise InputError(f"{file}: exists already", hint="choose another output name, or allow replacing it")


def _stat(file: Path) -> os.stat_result | None:
    """Returns the status of a file, or None if it cannot be read; writing then reports any further error."""
    try:
        return file.stat()
    except OSError:
        return None


def write_external_data(model: Model, stream: BinaryIO) -> tuple[onnx.ModelProto, str]:
    """Writes the large tensors of a model to a stream, one at a time.

    Returns:
        A copy of the model that refers to these values as external data without a location (see `relocate`), and the
        hexadecimal SHA-256 of the written bytes.
    """
    proto, digest = skeleton(model.proto, EXTERNAL_MIN_BYTES), hashlib.sha256()
    for reference, full in zip(tensors(proto), tensors(model.proto), strict=True):
        if not is_external(reference):
            continue
        if payload_bytes(full) < EXTERNAL_MIN_BYTES:
            overwrite_values(reference, model.array(full))
            continue
        raw = memoryview(model.raw(full).data) if is_external(full) else memoryview(inline_bytes(full))
        start = aligned_offset(stream.tell(), raw.nbytes)
        for part in (bytes(start - stream.tell()), raw):
            stream.write(part)
            digest.update(part)
        make_external(reference, "", start, raw.nbytes)
    return proto, digest.hexdigest()
