"""Cache of feeds for further passes over a one-shot source: in memory up to a limit, then in a temporary folder."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np

from onnxprune.calibration.model_input import Feed
from onnxprune.calibration.signature import Signature
from onnxprune.errors import OutputError


class DiskCache:
    """A growing list of feeds with bounded memory; its files are removed with it, or when the program ends.

    Args:
        signature: The model's inputs; every feed has an array for each, in its type.
        memory: Maximum size in bytes of the feeds in memory. Later feeds are written to .npy files and read on demand.
    """

    def __init__(self, signature: Signature, memory: int) -> None:
        self._inputs = signature.inputs
        self._memory = memory
        self._in_memory: list[Feed] = []
        self._full = False
        self._written = 0
        self._folder: Path | None = None

    def __len__(self) -> int:
        return len(self._in_memory) + self._written

    def __getitem__(self, index: int) -> Feed:
        if index < len(self._in_memory):
            return self._in_memory[index]
        return {model_input.name: self._load(index, position) for position, model_input in enumerate(self._inputs)}

    def append(self, feed: Feed) -> None:
        """Appends a feed.

        Raises:
            OutputError: It cannot be written, for example because the disk is full.
        """
        size = sum(array.nbytes for array in feed.values())
        self._full = self._full or size > self._memory  # from the first feed that does not fit, all are written
        if not self._full:
            self._memory -= size
            self._in_memory.append(feed)
            return
        try:
            for position, model_input in enumerate(self._inputs):
                self._save(len(self), position, feed[model_input.name])
        except OSError as error:
            raise OutputError(
                f"calibration samples cannot be kept for a second pass: {error.strerror or error}",
                "set TMPDIR to a folder with more room, or give data that can be read twice",
            ) from error
        self._written += 1

    def _path(self, index: int, position: int) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="onnxprune-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder / f"{index}.{position}.npy"

    def _save(self, index: int, position: int, array: np.ndarray) -> None:
        if array.dtype.hasobject:
            array = array.astype(str)
        elif array.dtype.isbuiltin == 2:  # .npy files do not support bfloat16 and other types of ml_dtypes
            array = np.ascontiguousarray(array).reshape(array.shape).view(f"u{array.dtype.itemsize}")
        np.save(self._path(index, position), array, allow_pickle=False)

    def _load(self, index: int, position: int) -> np.ndarray:
        array = np.load(self._path(index, position), allow_pickle=False)
        dtype = self._inputs[position].dtype
        if dtype.hasobject:
            return np.asarray(array.astype(object))
        return np.asarray(array if array.dtype == dtype else array.view(dtype))
