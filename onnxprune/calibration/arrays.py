"""Arrays that hold many samples: an .npz or .npy file, or a dict.

Members of an .npz file are read and unpacked from front to back, as many samples at a time as a batch has. Held whole
are only members whose samples do not lie one behind the other: in Fortran order, or along another axis than 0.
"""

from __future__ import annotations

import contextlib
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from onnxprune.calibration.model_input import Feed, Port
from onnxprune.calibration.samples import Chosen, Source
from onnxprune.calibration.signature import LABELS, Interface
from onnxprune.errors import DataError, InputError

SKIPPED = 2**20
"""Bytes that are read at a time on the way to those that are wanted."""
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
"""What numpy and zipfile raise on files that are damaged or of another format."""


class Table(Protocol):
    """An array whose parts can be read without the rest."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of its axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""

    def load(self) -> np.ndarray:
        """All of it."""

    def slices(self, axis: int) -> contextlib.AbstractContextManager[Slices]:
        """Opens one pass over it, along an axis."""


class Slices(Protocol):
    """One pass over a table."""

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """What lies from `start` to before `stop` along the axis; `start` never goes back."""


class Held:
    """A table in memory, or mapped into it."""

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


class Member:
    """A member of an .npz file; knows shape and type, and reads values when asked.

    Raises:
        InputError: It is no array, or holds Python objects.
    """

    def __init__(self, path: Path, name: str, where: str) -> None:
        self.path, self.name, self.where = path, name, where
        with readable(where), zipfile.ZipFile(path) as archive, archive.open(name) as stream:
            self.shape, self._fortran, self.dtype = _header(stream)
            self._offset = stream.tell()
        if self.dtype.hasobject:
            raise InputError(f"{where}: '{self.key}' holds Python objects", "save plain arrays; strings as dtype=str")

    @property
    def key(self) -> str:
        """Its name in the file, as numpy shows it."""
        return self.name.removesuffix(".npy")

    def load(self) -> np.ndarray:
        """See `Table`."""
        with readable(self.where), np.load(self.path, allow_pickle=False) as data:
            return np.asarray(data[self.key])

    @contextlib.contextmanager
    def slices(self, axis: int) -> Iterator[Slices]:
        """See `Table`."""
        if self._fortran or axis != 0 or not self.shape:
            with Held(self.load()).slices(axis) as whole:
                yield whole
            return
        row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

        def read(start: int, stop: int) -> np.ndarray:
            with readable(self.where):
                while (before := self._offset + start * row - stream.tell()) > 0:  # to seek is to leave sums unchecked
                    if not stream.read(min(before, SKIPPED)):
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
    """Turns what reading a bad file raises into InputError."""
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


def npz_tables(path: Path, where: str) -> dict[str, Table]:
    """The arrays of an .npz file by name.

    Raises:
        InputError: It cannot be read.
    """
    with readable(where), zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.endswith(".npy")]
    return {name.removesuffix(".npy"): Member(path, name, where) for name in names}


def npy_table(path: Path, where: str) -> Held:
    """The array of an .npy file, mapped.

    Raises:
        InputError: It cannot be read.
    """
    with readable(where):
        try:
            return Held(np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)))
        except ValueError:
            return Held(np.load(path, allow_pickle=False))  # what is empty or of no size cannot be mapped


class Arrays(Source):
    """Samples in arrays named as the inputs.

    An array of its input's rank has samples along the input's batch axis. Of one rank more, it holds a whole feed at
    each place along axis 0. An input without a batch axis, or whose fixed lengths are met exactly while other arrays
    have more samples, gets the same array in every feed.

    Args:
        tables: Arrays by name.
        interface: The model's inputs.
        where: What to call the source in messages.

    Raises:
        InputError: Names, shapes or types do not fit the model, or counts differ.
    """

    def __init__(self, tables: Mapping[str, Table], interface: Interface, where: str) -> None:
        self.where = where
        names = interface.names
        lone = [k for k in tables if k != LABELS or k in names]
        if len(names) == 1 and lone == ["arr_0"]:  # numpy's name for an array that was given none
            tables = {**tables, names[0]: tables["arr_0"]}
        self.unused = interface.extra(k for k in tables if k != "arr_0" or lone != ["arr_0"])
        self._ports = interface.ports
        self._tables: dict[str, Table] = interface.pick(tables, where)
        for port in self._ports:
            port.demand_kind(self._tables[port.name].dtype, where)
        self._whole = {p.name: self._is_whole(p) for p in self._ports}
        if interface.axes and not any(self._whole.values()):
            self._along(interface)
        if self.axes is None:
            self._apart()
        self.seen = self.count or 0
        self.labels = self._labels(tables) if LABELS not in names else None

    def _is_whole(self, port: Port) -> bool:
        """Whether each place along axis 0 holds a whole feed of this input; raises where the array fits in no way."""
        shape = self._tables[port.name].shape
        if port.dims is not None and len(shape) == len(port.dims) + 1:
            port.demand(shape[1:], self.where)
            return True
        port.demand(shape, self.where, any_batch=True)
        if port.axis is not None and not shape:
            raise port.misfit(shape, self.where)
        return False

    def _along(self, interface: Interface) -> None:
        """Settles that samples are rows, if all inputs have as many."""
        axes = interface.axes or {}
        counts = {n: self._tables[n].shape[axes[n]] for n in axes}
        if len(set(counts.values())) == 1:
            self.axes, self.count = dict(axes), next(iter(counts.values()))
        elif interface.fixed is None or interface.fixed not in counts.values():
            raise self._differ(counts)

    def _apart(self) -> None:
        """Settles that every sample is a feed of its own, and which arrays are the same in all."""
        counts: dict[str, int] = {}
        self._steps: dict[str, int | None] = {}
        for port in self._ports:
            shape = self._tables[port.name].shape
            step = 1 if self._whole[port.name] else (port.fixed or 1)
            length = shape[0] if self._whole[port.name] else shape[port.axis] if port.axis is not None else None
            self._steps[port.name] = None if length is None else step
            if length is not None:
                counts[port.name] = length // step
        for port in self._ports:
            if port.fixed and not self._whole[port.name] and counts[port.name] == 1 < max(counts.values()):
                self._steps[port.name] = None
                del counts[port.name]
        if len(set(counts.values())) > 1:
            raise self._differ(counts)
        self.count = next(iter(counts.values()), 1)

    def _differ(self, counts: Mapping[str, int]) -> InputError:
        said = ", ".join(f"'{name}' has {n}" for name, n in counts.items())
        return InputError(
            f"{self.where}: inputs have different numbers of samples: {said}",
            "samples lie along the batch axis, or whole feeds along one more axis in front",
        )

    def _labels(self, tables: Mapping[str, Table]) -> np.ndarray | None:
        if LABELS not in tables:
            return None
        labels = tables[LABELS].load()
        if labels.ndim < 1 or len(labels) != self.count:
            raise DataError(f"{self.where}: '{LABELS}' has shape {labels.shape}, but there are {self.count} samples")
        return labels

    def feeds(self, chosen: Chosen, batch: int) -> Iterator[Feed]:
        """See `Source`."""
        with contextlib.ExitStack() as stack:
            reads = {
                p.name: stack.enter_context(self._tables[p.name].slices(self._axis(p)))
                for p in self._ports
                if self.axes or self._steps[p.name] is not None
            }
            same = {p.name: p.cast(self._tables[p.name].load(), self.where) for p in self._ports if p.name not in reads}
            chunk = batch if self.axes else 1
            for start in range(0, self.count or 0, chunk):
                if chosen.ended(start):
                    return
                places = chosen.within(start, min(start + chunk, self.count or 0))
                if len(places):
                    yield self._feed(reads, same, start, places)

    def _feed(self, reads: Mapping[str, Slices], same: Feed, start: int, places: np.ndarray) -> Feed:
        feed: Feed = {}
        first, last = start + int(places[0]), start + int(places[-1]) + 1
        for port in self._ports:
            name = port.name
            if name in same:
                feed[name] = same[name]
                continue
            step = 1 if self.axes else self._steps[name] or 1
            array = reads[name](first * step, last * step)
            if self.axes and len(places) < last - first:
                array = array.take(places - places[0], axis=self._axis(port))
            feed[name] = port.cast(array[0, ...] if self._whole[name] else array, f"{self.where}: sample {first}")
        return feed

    def _axis(self, port: Port) -> int:
        return 0 if self._whole[port.name] or port.axis is None else port.axis
