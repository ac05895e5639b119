"""Calibration data in arrays of many samples: an .npz or .npy file, or a dict.

Members of an .npz file are read and decompressed sequentially, one batch at a time. A member is loaded as a whole only
if its samples are not contiguous: in Fortran order, or along another axis than 0.
"""

from __future__ import annotations

import contextlib
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from onnxprune.calibration.empty_caches import made_up
from onnxprune.calibration.labels import per_sample
from onnxprune.calibration.model_input import Feed, ModelInput
from onnxprune.calibration.samples import Source
from onnxprune.calibration.selection import Selection
from onnxprune.calibration.signature import Signature
from onnxprune.errors import InputError

SKIP_BYTES = 2**20
"""Number of bytes that are read at a time to skip samples."""
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    tokenize.TokenError,
)
"""Exceptions of numpy and zipfile for files that are damaged or of another format."""


class Table(Protocol):
    """An array that can be read in parts."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Axis lengths."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""

    def load(self) -> np.ndarray:
        """Returns the whole array."""

    def slices(self, axis: int) -> contextlib.AbstractContextManager[Slices]:
        """Opens one sequential pass along an axis."""


class Slices(Protocol):
    """One sequential pass over a table."""

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Returns the indices `start` to `stop` (exclusive) along the axis; `start` must not decrease between calls."""


class ArrayTable:
    """A table in memory, or memory-mapped."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype

    def load(self) -> np.ndarray:
        """See `Table`."""
        return self.array

    @contextlib.contextmanager
    def slices(self, axis: int) -> Iterator[Slices]:
        """See `Table`."""
        yield lambda start, stop: self.array[(slice(None),) * axis + (slice(start, stop),)]


class NpzMember:
    """A member of an .npz file; its header is read at once, its values on demand.

    Args:
        path: The file.
        name: Name of the member.
        where: Name of the file in messages.
        memory: A member of no more bytes is read once, and kept for later passes.

    Raises:
        InputError: It is not an array, or contains Python objects.
    """

    def __init__(self, path: Path, name: str, where: str, memory: int = 0) -> None:
        self.path, self.name, self.where, self._memory = path, name, where, memory
        with readable(where), zipfile.ZipFile(path) as archive, archive.open(name) as stream:
            self.shape, self._fortran, self.dtype = _header(stream)
            self._offset = stream.tell()
        if self.dtype.hasobject:
            raise InputError(f"{where}: '{self.key}' holds Python objects", "save plain arrays; strings as dtype=str")

    @property
    def key(self) -> str:
        """Name of the array, as in numpy."""
        return self.name.removesuffix(".npy")

    def load(self) -> np.ndarray:
        """See `Table`."""
        with readable(self.where), np.load(self.path, allow_pickle=False) as data:
            return np.asarray(data[self.key])

    @cached_property
    def _kept(self) -> ArrayTable | None:
        """All of it, where that is little enough to be kept."""
        size = self.dtype.itemsize * math.prod(self.shape)
        return ArrayTable(self.load()) if size <= self._memory else None

    @contextlib.contextmanager
    def slices(self, axis: int) -> Iterator[Slices]:
        """See `Table`."""
        whole = self._kept
        if whole is None and (self._fortran or axis != 0 or not self.shape):
            whole = ArrayTable(self.load())
        if whole is not None:
            with whole.slices(axis) as read_whole:
                yield read_whole
            return
        row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

        def read(start: int, stop: int) -> np.ndarray:
            with readable(self.where):
                while (before := self._offset + start * row - stream.tell()) > 0:  # seeking would skip the checksum
                    if not stream.read(min(before, SKIP_BYTES)):
                        raise EOFError("no more data")
                data = stream.read((stop - start) * row)
                return np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:])

        with contextlib.ExitStack() as stack:
            with readable(self.where):
                archive = stack.enter_context(zipfile.ZipFile(self.path))
                stream = stack.enter_context(archive.open(self.name))
            yield read


@contextlib.contextmanager
def readable(where: str) -> Iterator[None]:
    """Converts the exceptions of reading a bad file to `InputError`."""
    try:
        yield
    except UNREADABLE as error:
        what = error.strerror if isinstance(error, OSError) else None
        raise InputError(f"{where}: cannot be read: {what or error}", "is the file complete?") from error


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    return shape, fortran, dtype


def npz_tables(path: Path, where: str, memory: int = 0) -> dict[str, Table]:
    """Returns the arrays of an .npz file by name.

    Args:
        path: The file.
        where: Its name in messages.
        memory: Bytes of arrays to keep for later passes.

    Raises:
        InputError: It cannot be read.
    """
    with readable(where), zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.endswith(".npy")]
    return {name.removesuffix(".npy"): NpzMember(path, name, where, memory // len(names)) for name in names}


def npy_table(path: Path, where: str) -> ArrayTable:
    """Returns the memory-mapped array of an .npy file.

    Raises:
        InputError: It cannot be read.
    """
    with readable(where):
        try:
            return ArrayTable(np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)))
        except ValueError:
            return ArrayTable(np.load(path, allow_pickle=False))  # an empty array cannot be mapped


class Arrays(Source):
    """Samples in arrays that are named like the inputs.

    An array with the rank of its input has samples along the input's batch axis. An array with one more axis has one
    feed per index of axis 0. An array is the same for all feeds if its input has no batch axis, or if it has the
    input's fixed shape while other arrays have more samples. A decoder's caches may be left away (`empty_caches`).

    Args:
        tables: Arrays by name.
        signature: The model's inputs.
        where: Name of the source in messages.

    Raises:
        InputError: Names, shapes or types do not fit the model, or counts differ.
    """

    def __init__(self, tables: Mapping[str, Table], signature: Signature, where: str) -> None:
        self.where = where
        names, label = signature.names, signature.label_name(tables, where)
        data = [k for k in tables if k != label]
        if len(names) == 1 and data == ["arr_0"]:  # numpy's name for an array without one
            tables = {**tables, names[0]: tables["arr_0"]}
        self.unused = signature.extra(k for k in tables if k != "arr_0" or data != ["arr_0"])
        self._inputs = signature.inputs
        more = made_up({name: table.shape for name, table in tables.items()}, self._inputs)
        tables = {**tables, **{name: ArrayTable(array) for name, array in more.items()}}
        self._tables: dict[str, Table] = signature.pick(tables, where)
        for model_input in self._inputs:
            model_input.check_kind(self._tables[model_input.name].dtype, where)
        self._is_feed = {p.name: self._has_feed_axis(p) for p in self._inputs}
        if signature.axes and not any(self._is_feed.values()):
            self._set_batched(signature)
        if self.axes is None:
            self._set_feeds()
        self.seen = self.count or 0
        self.labels = None if label is None else per_sample(tables[label].load(), self.seen, label, where)

    def _has_feed_axis(self, model_input: ModelInput) -> bool:
        """Whether axis 0 of the array counts feeds of this input; raises if the array does not fit the input."""
        shape = self._tables[model_input.name].shape
        if model_input.dims is not None and len(shape) == len(model_input.dims) + 1:
            model_input.check_shape(shape[1:], self.where)
            return True
        model_input.check_shape(shape, self.where, any_batch=True)
        if model_input.axis is not None and not shape:
            raise model_input.mismatch(shape, self.where)
        return False

    def _set_batched(self, signature: Signature) -> None:
        """Takes samples along the batch axes, if all inputs have the same number."""
        axes = signature.axes or {}
        counts = {n: self._tables[n].shape[axes[n]] for n in axes}
        if len(set(counts.values())) == 1:
            self.axes, self.count = dict(axes), next(iter(counts.values()))
        elif signature.fixed is None or signature.fixed not in counts.values():
            raise self._differ(counts)

    def _set_feeds(self) -> None:
        """Takes every sample as a feed of its own, and finds the arrays that are the same for all feeds."""
        counts: dict[str, int] = {}
        self._steps: dict[str, int | None] = {}
        for p in self._inputs:
            shape = self._tables[p.name].shape
            step = 1 if self._is_feed[p.name] else (p.fixed or 1)
            length = shape[0] if self._is_feed[p.name] else shape[p.axis] if p.axis is not None else None
            self._steps[p.name] = None if length is None else step
            if length is not None:
                counts[p.name] = length // step
        for p in self._inputs:
            if p.fixed and not self._is_feed[p.name] and counts[p.name] == 1 < max(counts.values()):
                self._steps[p.name] = None
                del counts[p.name]
        if len(set(counts.values())) > 1:
            raise self._differ(counts)
        self.count = next(iter(counts.values()), 1)

    def _differ(self, counts: Mapping[str, int]) -> InputError:
        listed = ", ".join(f"'{name}' has {n}" for name, n in counts.items())
        return InputError(
            f"{self.where}: inputs have different numbers of samples: {listed}",
            "samples lie along the batch axis, or whole feeds along one more axis in front",
        )

    def feeds(self, selection: Selection, batch: int) -> Iterator[Feed]:
        """See `Source`."""
        with contextlib.ExitStack() as stack:
            reads = {
                p.name: stack.enter_context(self._tables[p.name].slices(self._axis(p)))
                for p in self._inputs
                if self.axes or self._steps[p.name] is not None
            }
            same = {
                p.name: p.cast(self._tables[p.name].load(), self.where) for p in self._inputs if p.name not in reads
            }
            chunk = batch if self.axes else 1
            for start in range(0, self.count or 0, chunk):
                if selection.exhausted(start):
                    return
                positions = selection.within(start, min(start + chunk, self.count or 0))
                if len(positions):
                    yield self._feed(reads, same, start, positions)

    def _feed(self, reads: Mapping[str, Slices], same: Feed, start: int, positions: np.ndarray) -> Feed:
        feed: Feed = {}
        first, last = start + int(positions[0]), start + int(positions[-1]) + 1
        for p in self._inputs:
            name = p.name
            if name in same:
                feed[name] = same[name]
                continue
            step = 1 if self.axes else self._steps[name] or 1
            array = reads[name](first * step, last * step)
            if self.axes and len(positions) < last - first:
                array = array.take(positions - positions[0], axis=self._axis(p))
            feed[name] = p.cast(array[0, ...] if self._is_feed[name] else array, f"{self.where}: sample {first}")
        return feed

    def _axis(self, model_input: ModelInput) -> int:
        return 0 if self._is_feed[model_input.name] or model_input.axis is None else model_input.axis
