"""A stream that hashes what is written to it, on a thread of its own."""

from __future__ import annotations

import hashlib
import queue
import threading
from types import TracebackType
from typing import BinaryIO

from onnxprune.common.time_limit import starting_threads
from onnxprune.model.values import Array

AHEAD = 16
"""Blocks that wait to be written at most."""


class HashedStream:
    """Writes and hashes blocks while the next ones are made.

        with HashedStream(stream) as out:
            out.write(array)
        out.digest

    Attributes:
        size: Bytes written so far.
        digest: Hexadecimal SHA-256 of all that was written, once the block has ended.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.size = 0
        self.digest = ""
        self._stream = stream
        self._blocks: queue.Queue[memoryview | None] = queue.Queue(AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="write")

    def __enter__(self) -> HashedStream:
        with starting_threads():
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._blocks.put(None)
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def write(self, block: Array | bytes) -> None:
        """Writes a block of bytes, uint8 if it is an array, which must not change afterwards.

        Raises:
            OSError: A block could not be written, this one or one before it.
        """
        if self._error is not None:
            raise self._error
        view = memoryview(block if isinstance(block, bytes) else block.data)
        self._blocks.put(view)
        self.size += view.nbytes

    def pad(self, size: int) -> None:
        """Writes zeros up to a size."""
        if size > self.size:
            self.write(bytes(size - self.size))

    def _run(self) -> None:
        digest = hashlib.sha256()
        while (block := self._blocks.get()) is not None:
            if self._error is None:
                try:
                    self._stream.write(block)
                    digest.update(block)
                except BaseException as error:  # told where the blocks come from
                    self._error = error
        self.digest = digest.hexdigest()
