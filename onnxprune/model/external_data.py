"""External data: where the values of a tensor lie when they are not in the model file.

References come from files that anybody may have written, so each is checked before it is followed: inside the
model's folder, existing, long enough, and of the length that the tensor's type and dimensions ask for.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, TensorProto

from onnxprune.errors import InputError, ModelError
from onnxprune.model.tensors import is_external, is_left_out, payload_bytes, tensors


@dataclass(frozen=True)
class Place:
    """Where the values of an external tensor lie: `length` bytes from `offset` on in `file`."""

    file: Path
    offset: int
    length: int


def place(tensor: TensorProto, path: Path | None) -> Place:
    """Where an external tensor lies, after checking that it may and does lie there.

    Args:
        tensor: A tensor whose data location is external.
        path: The model file that it belongs to; None for a model that did not come from a file.

    Raises:
        InputError: The reference leads outside the model's folder, to no file, or past the end of one, or its length
            disagrees with the tensor's dimensions.
    """
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    what = f"{path or 'model'}: external data of '{tensor.name}'"
    if is_left_out(tensor):
        raise ModelError(f"{what} was left out", "onnxprune inspect takes such a model; all else needs the weights")
    if path is None:
        raise InputError(
            f"{what} cannot be found: the model was not given as a file",
            hint="load it with its external data, or give its path",
        )
    try:
        file = _inside(path, location, what)
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
    return Place(file, offset, length)


def _inside(path: Path, location: str, what: str) -> Path:
    """The data file at `location` beside the model; never one outside the model's folder."""
    # A model that is itself a link (download caches do that) has its data beside the link or beside what it points to.
    folders = {path.parent.resolve(), path.resolve().parent}
    file = path.parent.resolve() / location
    with contextlib.suppress(RuntimeError):  # a link to itself, which is no file
        file = file.resolve()
    parts = Path(location.replace("\\", "/")).parts
    absolute = Path(location).is_absolute() or location.startswith(("/", "\\"))
    if not location or absolute or ".." in parts or not any(file.is_relative_to(f) for f in folders):
        raise InputError(f"{what} is outside the model's folder: '{location}'", hint="put it beside the model")
    if not file.is_file():
        raise InputError(f"{what} is missing: no file '{location}'", hint="copy the data file beside the model")
    return file


def refer(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Points a tensor at its values in a data file; entries such as a checksum stay."""
    fresh = {"location": location, "offset": str(offset), "length": str(length)}
    others = [(e.key, e.value) for e in tensor.external_data if e.key not in (*fresh, "basepath")]
    del tensor.external_data[:]
    for key, value in [*fresh.items(), *others]:
        tensor.external_data.add(key=key, value=value)
    tensor.data_location = TensorProto.EXTERNAL


def relocate(proto: ModelProto, location: str) -> None:
    """Points all external tensors of a model at one data file; offsets and lengths stay."""
    for tensor in filter(is_external, tensors(proto)):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location


def aligned(offset: int, length: int) -> int:
    """The next offset for `length` bytes: on a page for what is worth mapping, on 64 bytes otherwise."""
    step = 4096 if length >= 2**20 else 64
    return -(-offset // step) * step
