"""Writing past the system's page cache, where system and file system can."""

from __future__ import annotations

import errno
import os
import sys
from typing import BinaryIO

import numpy as np

from onnxprune.model.values import Array

ALIGNMENT = 4096
"""What address, length and position of a direct write are multiples of; no common file system asks for more."""


def aligned_buffer(size: int) -> Array:
    """Memory that a direct write may take; uint8, shape (size,)."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


class DirectWriter:
    """Writes blocks to the end of a new file, past the page cache as long as they are aligned (``O_DIRECT``).

    What is synced to the disk anyway and is too large to stay in the cache takes a fraction of the processor time
    this way, and the cache keeps what other programs need. Where it is impossible, blocks are written as usual.
    """

    def __init__(self, stream: BinaryIO) -> None:
        """Takes over a file to which nothing has been written yet; close the stream when all is written."""
        self._file = stream.fileno()
        self._direct = _set_direct(self._file, True)

    def write(self, block: memoryview) -> None:
        """Writes all of a block.

        Raises:
            OSError: The disk is full, for example.
        """
        if self._direct and len(block) % ALIGNMENT:
            self._buffered()
        while block:
            try:
                block = block[os.write(self._file, block) :]
            except OSError as error:
                if not self._direct or error.errno != errno.EINVAL:
                    raise
                self._buffered()  # a file system that takes the flag, but no such write

    def _buffered(self) -> None:
        self._direct = _set_direct(self._file, False)


def _set_direct(file: int, on: bool) -> bool:
    """Turns ``O_DIRECT`` of an open file on or off; returns whether it is on."""
    if sys.platform != "linux":
        return False
    import fcntl

    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
    except OSError:  # a file system that cannot
        return False
    return on
