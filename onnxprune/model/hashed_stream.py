"""A stream that hashes what is written to it, on a thread of its own."""

from __future__ import annotations

import queue
import threading
from types import TracebackType
from typing import BinaryIO

import numpy as np
import xxhash

from onnxprune.common.time_limit import starting_threads
from onnxprune.model.direct_write import DirectWriter, aligned_buffer
from onnxprune.model.values import Array

BUFFER = 2**21
"""Bytes that are written at a time."""
_BUFFERS = 3  # one is filled, one written, one waits


class HashedStream:
    """Writes and hashes blocks while the next ones are made.

        with HashedStream(stream) as out:
            out.write(array)
        out.digest

    Attributes:
        size: Bytes written so far.
        digest: XXH3 (128 bits, hexadecimal) of all that was written, once the block has ended. It tells contents apart,
            but does not withstand somebody who looks for two that have the same.
    """

    def __init__(self, stream: BinaryIO, *, direct: bool = False) -> None:
        """Writes nothing yet.

        Args:
            stream: Where to write.
            direct: Whether to write past the page cache where that is possible; the stream must be a new file then.
        """
        self.size = 0
        self.digest = ""
        self._write = DirectWriter(stream).write if direct else stream.write
        self._free: queue.Queue[Array] = queue.LifoQueue()  # the last is in the processor's cache
        self._full: queue.Queue[Array | None] = queue.Queue()  # parts of buffers
        for _ in range(_BUFFERS):
            self._free.put(aligned_buffer(BUFFER))
        self._buffer, self._used = self._free.get(), 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="write")

    def __enter__(self) -> HashedStream:
        with starting_threads():
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._full.put(self._buffer[: self._used])
        self._full.put(None)
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def write(self, block: Array | bytes) -> None:
        """Writes a block of bytes, uint8 and flat if it is an array.

        Raises:
            OSError: A block could not be written, this one or one before it.
        """
        rest = np.frombuffer(block, np.uint8) if isinstance(block, bytes) else block
        self.size += len(rest)
        while len(rest):
            if self._error is not None:
                raise self._error
            some = rest[: BUFFER - self._used]
            self._buffer[self._used : self._used + len(some)] = some
            self._used += len(some)
            rest = rest[len(some) :]
            if self._used == BUFFER:
                self._full.put(self._buffer)
                self._buffer, self._used = self._free.get(), 0

    def pad(self, size: int) -> None:
        """Writes zeros up to a size."""
        if size > self.size:
            self.write(bytes(size - self.size))

    def _run(self) -> None:
        digest = xxhash.xxh3_128()
        while (block := self._full.get()) is not None:
            if self._error is None:
                try:
                    self._write(block.data)
                    digest.update(block.data)
                except BaseException as error:  # told where the blocks come from
                    self._error = error
            self._free.put(block)
        self.digest = digest.hexdigest()
