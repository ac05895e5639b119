"""Saving of models: whole or not at all, large tensors streamed to data files beside the model."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import TensorProto

from onnxprune.errors import InputError
from onnxprune.model.atomic_write import atomic_write, data_file_path
from onnxprune.model.external_data import aligned_offset, make_external, relocate
from onnxprune.model.hashed_stream import HashedStream
from onnxprune.model.model import PROTOBUF_LIMIT, Model
from onnxprune.model.skeleton import skeleton
from onnxprune.model.tensors import inline_bytes, is_external, overwrite_values, payload_bytes, tensors

EXTERNAL_MIN_BYTES = 1024
"""Size in bytes from which a tensor is written to the data file, if there is one."""
DIRECT_FROM = 2**30
"""Size in bytes from which a data file is written past the page cache; a smaller one may be read from there soon."""
_HEADROOM = 64 * 2**20  # bytes reserved for everything but raw data: names, nodes, typed fields
Pair = tuple[TensorProto, TensorProto]
"""A reference to values, and the tensor that has them."""


def save(model: Model, path: str | os.PathLike[str], *, overwrite: bool = True, data_chunk: int | None = None) -> int:
    """Writes a model atomically; the files that it was loaded from are never modified.

    Weights are stored in the model file, unless the model was loaded with external data or would exceed protobuf's
    limit of 2 GB: then initializers and Constants of 1024 bytes or more are written to data files beside it, block by
    block. The name of a data file, `NAME.HASH.data`, is derived from its content: equal models give equal bytes, and an
    existing model keeps its data until it is replaced (see `atomic_write`).

    Args:
        model: The model; not modified.
        path: The file to write; its folder must exist.
        overwrite: Whether an existing file may be replaced.
        data_chunk: Largest size of a data file in bytes; a tensor that is larger gets a file for itself. By default
            one file, or files no larger than the largest one of a model that was loaded from several.

    Returns:
        The size of the written files in bytes.

    Raises:
        InputError: The folder does not exist, the file exists and must not be replaced, or is a file of the input.
        OutputError: Writing failed, for example because the disk is full; existing files are unchanged.
    """
    target = Path(path)
    _check_target(model, target, overwrite)
    with atomic_write(target, keep=model.data_files) as write:
        files, proto, data_bytes = [], model.proto, 0
        if needs_data_file(model) or data_chunk is not None:
            proto, written = write_external_data(model, write.new, data_chunk or _chunk_of(model), direct=True)
            files, data_bytes = [data_file_path(target, one.digest) for one in written], sum(o.size for o in written)
            for file in files:
                _check_target(model, file, overwrite=True)
            relocate(proto, [file.name for file in files])
        content = proto.SerializeToString(deterministic=True)
        write.new().write(content)
        write.publish(*files, target)
    return len(content) + data_bytes


def _chunk_of(model: Model) -> int | None:
    """Size of the largest data file of a model that was loaded from several; None of any other."""
    return max(file.stat().st_size for file in model.data_files) if len(model.data_files) > 1 else None


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


def write_external_data(
    model: Model, new: Callable[[], BinaryIO], chunk: int | None = None, *, direct: bool = False
) -> tuple[onnx.ModelProto, list[HashedStream]]:
    """Writes the large tensors of a model to one or more streams, block by block.

    Args:
        model: The model; not modified.
        new: Opens the next stream.
        chunk: Largest number of bytes of a stream, see `save`.
        direct: Whether streams of `DIRECT_FROM` bytes or more are written past the page cache; they are new files then.

    Returns:
        A copy of the model that refers to these values as external data, with the number of a stream for a location
        (see `relocate`), and what was written to each stream: at least one.
    """
    proto, written = skeleton(model.proto, EXTERNAL_MIN_BYTES), list[HashedStream]()
    pairs = list(zip(tensors(proto), tensors(model.proto), strict=True))
    for reference, full in pairs:
        if is_external(reference) and payload_bytes(full) < EXTERNAL_MIN_BYTES:
            overwrite_values(reference, model.array(full))
    large = [(reference, full) for reference, full in pairs if is_external(reference)]
    for some in _shared_out(large, chunk):
        large_file = sum(payload_bytes(full) for _, full in some) >= DIRECT_FROM
        with HashedStream(new(), direct=direct and large_file) as out:
            for reference, full in some:
                start = aligned_offset(out.size, payload_bytes(full))
                out.pad(start)
                _write_values(model, full, out)
                make_external(reference, str(len(written)), start, out.size - start)
        written.append(out)
    return proto, written


def _shared_out(pairs: list[Pair], chunk: int | None) -> list[list[Pair]]:
    """The tensors of each stream, in their order."""
    streams: list[list[Pair]] = [[]]
    end = 0
    for pair in pairs:
        size = payload_bytes(pair[1])
        end = aligned_offset(end, size) + size
        if chunk is not None and end > chunk and streams[-1]:
            streams.append([])
            end = size
        streams[-1].append(pair)
    return streams


def _write_values(model: Model, tensor: TensorProto, out: HashedStream) -> None:
    """Writes the values of a tensor as raw data."""
    if not is_external(tensor):
        out.write(inline_bytes(tensor))
    else:
        for part in model.raw_parts(tensor):
            out.write(part)
