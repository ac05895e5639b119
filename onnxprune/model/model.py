"""A model on its way through the program: loaded with its weights left where they are, patched, saved.

The ModelProto is the truth and is patched in place; nothing is rebuilt, so nothing that was not touched can
get lost. Values in external data files are mapped and read tensor by tensor; a model is written as it is read.
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
from onnxprune.model.atomic_write import data_file, drafts
from onnxprune.model.external_data import aligned, place, refer, relocate
from onnxprune.model.skeleton import serialized_size, skeleton
from onnxprune.model.tensors import (
    constants,
    inline_bytes,
    is_external,
    is_left_out,
    overwrite_values,
    payload_bytes,
    qualified,
    tensors,
)
from onnxprune.model.validation import check

__all__ = ["Model", "constants", "load", "qualified", "save", "skeleton"]

PROTOBUF_LIMIT = 2**31 - 1
"""Bytes that one serialized message may have."""
EXTERNAL_FROM = 1024
"""Bytes from which on a tensor goes to the data file, where there is one."""
_PAGE = 4096
_HEADROOM = 64 * 2**20  # for everything that is not raw data: names, nodes, typed fields


class Model:
    """An ONNX model whose external weights stay on disk until they are asked for.

    Attributes:
        proto: The model; patch it in place. External tensors in it are references.
        path: The file it came from, or None.
        data_files: The external data files it came with, resolved.
    """

    def __init__(self, proto: onnx.ModelProto, path: Path | None = None, data_files: Iterable[Path] = ()) -> None:
        self.proto = proto
        self.path = path
        self.data_files = frozenset(data_files)
        self._maps: dict[Path, np.ndarray] = {}

    def array(self, tensor: TensorProto) -> np.ndarray:
        """The values of a tensor of this model; treat them as read-only.

        External values are a view of the mapped file, without a copy (types below a byte are unpacked).

        Raises:
            InputError: The values cannot be read, say because dimensions and data disagree.
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
        """The bytes of an external tensor as a read-only view of its file, uint8 of shape (bytes,)."""
        at = place(tensor, self.path)
        if at.length == 0:
            return np.empty(0, dtype=np.uint8)
        if at.file not in self._maps:
            self._maps[at.file] = np.memmap(at.file, dtype=np.uint8, mode="r")
        return self._maps[at.file][at.offset : at.offset + at.length]

    def set_array(self, tensor: TensorProto, array: np.ndarray) -> None:
        """Replaces values and dimensions of a tensor of this model; they are inline from then on.

        Element type, name and doc string stay; values are converted to that element type.
        """
        overwrite_values(tensor, array)

    @property
    def nbytes(self) -> int:
        """Size in bytes of the whole model as a file, external data included."""
        outside = sum(place(t, self.path).length for t in tensors(self.proto) if is_external(t))
        return outside + serialized_size(self.proto)

    @property
    def has_external_data(self) -> bool:
        """Whether any tensor still refers to a data file."""
        return any(is_external(t) for t in tensors(self.proto))

    def copy(self) -> Model:
        """An independent model; values in external files are shared, inline ones copied."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        return Model(proto, self.path, self.data_files)

    def close(self) -> None:
        """Lets go of mapped files; arrays that were handed out stay valid."""
        self._maps.clear()

    def _where(self) -> str:
        return str(self.path) if self.path else "model"


def load(source: str | os.PathLike[str] | onnx.ModelProto, *, weights: bool = True) -> Model:
    """Loads a model: from a file, or from a ModelProto, which is copied and never changed.

    Args:
        source: The model.
        weights: Whether they must be there; an analysis can do without those that `anonymous` leaves out.

    Raises:
        InputError: There is no such file, it is not an ONNX model, or data that it refers to is missing, too short
            or outside the folder of the model.
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
        raise InputError(f"{where}: not an ONNX model (it has no {lacking})", hint="give a .onnx file")
    try:
        check(proto)
    except ModelError as error:
        raise ModelError(f"{where}: {error.message}", error.hint) from None
    outside = (t for t in tensors(proto) if is_external(t) and (weights or not is_left_out(t)))
    return Model(proto, path, {place(t, path).file for t in outside})


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
        near = _neighbours(path)
        raise InputError(f"{path}: no such file", hint=f"did you mean {near[0]}?" if near else None) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}", "may you read it?") from error
    except ValueError as error:  # a zero byte in the name
        raise InputError(f"{path}: no such file: {error}", "give the .onnx file") from None


def _neighbours(path: Path) -> list[str]:
    """Names in the same folder that are spelled nearly the same."""
    with contextlib.suppress(OSError):
        return difflib.get_close_matches(path.name, sorted(os.listdir(path.parent)), n=1)
    return []


def _parse(path: Path, data: bytes) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        hint = "is the file complete?"
        if not data:
            hint = "the file is empty"
        elif data.startswith(b"version https://git-lfs"):
            hint = "this is a Git LFS pointer; fetch the file itself with `git lfs pull`"
        elif data[4:8] == b"ORTM":
            hint = "this is onnxruntime's own format; give the .onnx file that it was made from"
        raise InputError(f"{path}: not an ONNX model (cannot be parsed)", hint=hint) from None
    return proto


def save(model: Model, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
    """Writes a model whole or not at all; the files that it was loaded from are never touched.

    Weights stay in the model file, except where the model came with external data or would pass protobuf's 2 GB: then
    initializers and Constants of 1024 bytes or more go to a data file beside it, one at a time. Its name,
    `NAME.HASH.data`, follows from its content: the same model gives the same bytes, and an older model keeps its data
    until the new one takes its place (see `replacing`).

    Args:
        model: What to write; not changed.
        path: The file to write; its folder must exist.
        overwrite: Whether files of an earlier run may be replaced.

    Raises:
        InputError: The folder does not exist, the file exists and must not be replaced, or is one of the input's.
        OutputError: Writing failed, say because the disk is full; what was there before is still there.
    """
    target = Path(path)
    _refuse(model, target, overwrite)
    with drafts(target, keep=model.data_files) as made:
        files, proto = [target], model.proto
        if goes_outside(model):
            proto, digest = write_data(model, made.new())
            data = data_file(target, digest)
            _refuse(model, data, overwrite=True)
            relocate(proto, data.name)
            files.insert(0, data)
        made.new().write(proto.SerializeToString(deterministic=True))
        made.publish(*files)


def goes_outside(model: Model) -> bool:
    """Whether saving puts weights into a data file: because they came in one, or are too big for a model file."""
    return bool(model.data_files) or not fits_in_message(model.proto)


def fits_in_message(proto: onnx.ModelProto) -> bool:
    """Whether a model with the values that are inline now can be serialized as one protobuf message."""
    inline = sum(payload_bytes(t) for t in tensors(proto) if not is_external(t))
    return inline <= PROTOBUF_LIMIT - _HEADROOM


def _refuse(model: Model, file: Path, overwrite: bool) -> None:
    """Raises where writing this file would be a mistake."""
    try:
        file.name.encode()
    except UnicodeEncodeError:
        raise InputError(f"{file}: the name is not UTF-8", hint="choose another output name") from None
    if not file.parent.is_dir():
        raise InputError(f"{file}: the folder {file.parent} does not exist", hint="create it first")
    there = _look(file)  # once: another run may replace it, and remove it, at any moment
    if there is None:
        return
    if not stat.S_ISREG(there.st_mode):
        raise InputError(f"{file}: is not a regular file", hint="name a file to write")
    own = (_look(one) for one in {*model.data_files, *([model.path] if model.path else [])})
    if any(one is not None and os.path.samestat(there, one) for one in own):
        raise InputError(f"{file}: is a file of the input, which is never changed", hint="choose another output name")
    if not overwrite:
        raise InputError(f"{file}: exists already", hint="choose another output name, or allow replacing it")


def _look(file: Path) -> os.stat_result | None:
    """What the file system says of a file; None where it says nothing, and writing will tell what else is wrong."""
    try:
        return file.stat()
    except OSError:
        return None


def write_data(model: Model, stream: BinaryIO) -> tuple[onnx.ModelProto, str]:
    """Writes the big tensors of a model to a stream, tensor by tensor.

    Returns:
        The rest, a copy of the model that refers to these values as external data (see `relocate`), and the SHA-256 of
        what was written.
    """
    proto, digest = skeleton(model.proto, EXTERNAL_FROM), hashlib.sha256()
    for slim, full in zip(tensors(proto), tensors(model.proto), strict=True):
        if not is_external(slim):
            continue
        if payload_bytes(full) < EXTERNAL_FROM:
            overwrite_values(slim, model.array(full))
            continue
        raw = memoryview(model.raw(full).data) if is_external(full) else memoryview(inline_bytes(full))
        start = aligned(stream.tell(), raw.nbytes)
        for part in (bytes(start - stream.tell()), raw):
            stream.write(part)
            digest.update(part)
        refer(slim, "", start, raw.nbytes)
    return proto, digest.hexdigest()
