"""External data: values of tensors that are stored in a file beside the model.

A model file is untrusted input, so each reference is checked before it is followed: the data file must exist inside the
model's folder, be long enough, and the length must match the tensor's type and dimensions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, TensorProto

from onnxprune.errors import InputError, ModelError
from onnxprune.model.tensors import PAYLOAD_FIELDS, is_external, is_stripped, payload_bytes, tensors

DEFERRED = "*deferred*"
"""Location of values that are made when they are read; never written to a file."""


@dataclass(frozen=True)
class DataLocation:
    """The position of an external tensor's values: `length` bytes from byte `offset` of `file`."""

    file: Path
    offset: int
    length: int


def locate(tensor: TensorProto, path: Path | None) -> DataLocation:
    """Returns the checked location of an external tensor's values.

    Args:
        tensor: A tensor whose data location is external.
        path: The model file that it belongs to; None for a model that was not loaded from a file.

    Raises:
        InputError: The reference points outside the model's folder, to a missing file, or past the end of the file.
        ModelError: The values were stripped, or their length does not match the tensor's type and dimensions.
    """
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    what = f"{path or 'model'}: external data of '{tensor.name}'"
    if is_stripped(tensor):
        raise ModelError(
            f"{what} was left out", "onnxprune inspect shows the groups of such a model; all else needs the weights"
        )
    if path is None:
        raise InputError(
            f"{what} cannot be found: the model was not given as a file",
            hint="load it with its external data, or give its path",
        )
    try:
        file = _resolve_location(path, location, what)
    except (OSError, ValueError) as error:  # a name too long, or with a zero byte
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{what} has no usable location: {why}", hint="put it beside the model") from None
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or payload_bytes(tensor))
    except ValueError:
        raise ModelError(f"{what} has an offset or length that is not a number") from None
    size = file.stat().st_size
    if min(offset, length) < 0 or offset + length > size:
        raise InputError(
            f"{what} ends at byte {offset + length}, but {location} has {size} bytes", hint="is the data file complete?"
        )
    if length != (payload_bytes(tensor) or length):
        raise ModelError(f"{what} has {length} bytes; its type and dimensions ask for {payload_bytes(tensor)}")
    return DataLocation(file, offset, length)


def _resolve_location(path: Path, location: str, what: str) -> Path:
    """Returns the data file at `location`; raises `InputError` if it is not inside the model's folder."""
    # The data of a symbolic link to a model (as in download caches) is beside the link or beside its target.
    folders = {path.parent.resolve(), path.resolve().parent}
    file = path.parent.resolve() / location
    with contextlib.suppress(RuntimeError):  # a link to itself
        file = file.resolve()
    parts = Path(location.replace("\\", "/")).parts
    absolute = Path(location).is_absolute() or location.startswith(("/", "\\"))
    if not location or absolute or ".." in parts or not any(file.is_relative_to(f) for f in folders):
        raise InputError(f"{what} is outside the model's folder: '{location}'", hint="put it beside the model")
    if not file.is_file():
        raise InputError(f"{what} is missing: no file '{location}'", hint="copy the data file beside the model")
    return file


def locations(proto: ModelProto) -> list[str]:
    """Names of the data files of a model, from its folder, as they are in it."""
    external = [t for t in tensors(proto) if is_external(t) and deferred_number(t) is None]
    return list(dict.fromkeys(e.value for t in external for e in t.external_data if e.key == "location"))


def make_external(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Makes a tensor refer to its values in a data file; other entries are kept, but for the old checksum."""
    fresh = {"location": location, "offset": str(offset), "length": str(length)}
    others = [(e.key, e.value) for e in tensor.external_data if e.key not in (*fresh, "basepath", "checksum")]
    del tensor.external_data[:]
    for key, value in [*fresh.items(), *others]:
        tensor.external_data.add(key=key, value=value)
    tensor.data_location = TensorProto.EXTERNAL


def relocate(proto: ModelProto, locations: Sequence[str]) -> None:
    """Gives the data files of a model their names; until then the location of a tensor is the number of its file."""
    for tensor in filter(is_external, tensors(proto)):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = locations[int(entry.value)]


def make_deferred(tensor: TensorProto, number: int, dims: Sequence[int]) -> None:
    """Makes a tensor stand for values that are made when they are read; other entries are kept."""
    make_external(tensor, DEFERRED, number, 0)
    for field in PAYLOAD_FIELDS:
        tensor.ClearField(field)
    tensor.dims[:] = dims


def deferred_number(tensor: TensorProto) -> int | None:
    """The number of the values that a tensor stands for; None for one that is stored."""
    entries = {e.key: e.value for e in tensor.external_data}
    return int(entries["offset"]) if entries.get("location") == DEFERRED else None


def aligned_offset(offset: int, length: int) -> int:
    """Returns the next aligned offset for `length` bytes: on a memory page from 1 MiB on, else on 64 bytes."""
    step = 4096 if length >= 2**20 else 64
    return -(-offset // step) * step
