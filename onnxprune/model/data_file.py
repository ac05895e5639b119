"""Data files that are open for reading: mapped where all of a tensor is asked for, read into memory block by block."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.model.values import Array, Values, Whole


class DataFile:
    """An open file.

    Attributes:
        mapped: Its bytes, mapped; shape (bytes,).
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._file)
        with open(self._file, "rb", closefd=False) as stream:
            self.mapped: NDArray[np.uint8] = np.asarray(np.memmap(stream, dtype=np.uint8, mode="r"))

    def read(self, offset: int, shape: Iterable[int], dtype: np.dtype[Any]) -> Array | None:
        """Reads an array; None where the system cannot read at an offset, or the file has become shorter."""
        if not hasattr(os, "preadv"):
            return None
        found = np.empty(tuple(shape), dtype)
        view, at = memoryview(found.reshape(-1).view(np.uint8).data), 0
        while at < len(view):
            count = os.preadv(self._file, [view[at:]], offset + at)
            if not count:
                return None
            at += count
        return found


class Stored(Values):
    """Values in a data file. Blocks are read, which takes a tenth of the time of mapping their pages."""

    def __init__(self, file: DataFile, offset: int, mapped: Array) -> None:
        """Reads nothing yet.

        Args:
            file: The file.
            offset: Where the values begin, in bytes.
            mapped: The values as a view of the mapped file.
        """
        super().__init__(mapped.shape, mapped.dtype)
        self._file, self._offset, self._mapped = file, offset, mapped

    def parts(self, rows: int) -> Iterator[Array]:
        """See `Values`."""
        at = self._offset
        for view in Whole(self._mapped).parts(rows):
            read = self._file.read(at, view.shape, view.dtype)
            yield view if read is None else read
            at += view.nbytes

    def sample(self, step: int) -> Array:
        """See `Values`; a view of the mapped file, so that no more than its pages are read."""
        return self._mapped.reshape(-1)[::step]

    def array(self) -> Array:
        """See `Values`; a view of the mapped file."""
        return self._mapped
