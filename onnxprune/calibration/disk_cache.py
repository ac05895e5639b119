"""Feeds kept for a second pass: in memory up to a limit, beyond it in a temporary folder."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np

from onnxprune.calibration.model_input import Feed
from onnxprune.calibration.signature import Interface
from onnxprune.errors import OutputError


class Spill:
    """A list of feeds that grows without filling memory; its files go when it does, or when the program ends.

    Args:
        interface: The model's inputs; every feed has an array for each, in its type.
        memory: Bytes to hold in memory. What comes later is written as .npy files and read when asked for.
    """

    def __init__(self, interface: Interface, memory: int) -> None:
        self._ports = interface.ports
        self._memory = memory
        self._held: list[Feed] = []
        self._full = False
        self._written = 0
        self._folder: Path | None = None

    def __len__(self) -> int:
        return len(self._held) + self._written

    def __getitem__(self, index: int) -> Feed:
        if index < len(self._held):
            return self._held[index]
        return {port.name: self._load(index, place) for place, port in enumerate(self._ports)}

    def append(self, feed: Feed) -> None:
        """Adds a feed.

        Raises:
            OutputError: It cannot be written, say because the disk is full.
        """
        size = sum(array.nbytes for array in feed.values())
        self._full = self._full or size > self._memory  # once over, all go to disk: the order stays simple
        if not self._full:
            self._memory -= size
            self._held.append(feed)
            return
        try:
            for place, port in enumerate(self._ports):
                self._save(len(self), place, feed[port.name])
        except OSError as error:
            raise OutputError(
                f"calibration samples cannot be kept for a second pass: {error.strerror or error}",
                "set TMPDIR to a folder with more room, or give data that can be read twice",
            ) from error
        self._written += 1

    def _path(self, index: int, place: int) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="onnxprune-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder / f"{index}.{place}.npy"

    def _save(self, index: int, place: int, array: np.ndarray) -> None:
        if array.dtype.hasobject:
            array = array.astype(str)
        elif array.dtype.isbuiltin == 2:  # .npy files have no name for bfloat16 and its like
            array = np.ascontiguousarray(array).reshape(array.shape).view(f"u{array.dtype.itemsize}")
        np.save(self._path(index, place), array, allow_pickle=False)

    def _load(self, index: int, place: int) -> np.ndarray:
        array = np.load(self._path(index, place), allow_pickle=False)
        dtype = self._ports[place].dtype
        if dtype.hasobject:
            return np.asarray(array.astype(object))
        return np.asarray(array if array.dtype == dtype else array.view(dtype))
