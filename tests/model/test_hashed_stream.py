"""Streams that hash what they write, and write past the page cache."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import xxhash

from onnxprune.model import save as saving
from onnxprune.model.direct_write import ALIGNMENT, DirectWriter, aligned_buffer
from onnxprune.model.hashed_stream import BUFFER, HashedStream
from onnxprune.model.model import load
from onnxprune.model.save import save
from tests.support.saved_models import external

CONTENT = np.random.default_rng(0).bytes(4 * BUFFER + 1000)


@pytest.mark.parametrize("size", [999, BUFFER - 1, BUFFER, BUFFER + 1, 5 * BUFFER])
@pytest.mark.parametrize("direct", [False, True])
def test_a_stream_writes_and_hashes_blocks_of_any_size(tmp_path: Path, size: int, direct: bool) -> None:
    file = tmp_path / "content"
    with open(file, "xb") as stream, HashedStream(stream, direct=direct) as out:
        for start in range(0, len(CONTENT), size):
            out.write(CONTENT[start : start + size])
    assert file.read_bytes() == CONTENT
    assert (out.digest, out.size) == (xxhash.xxh3_128(CONTENT).hexdigest(), len(CONTENT))


def test_a_stream_copies_arrays_and_bytes_and_pads_with_zeros() -> None:
    stream, array = io.BytesIO(), np.frombuffer(CONTENT, np.uint8).copy()
    with HashedStream(stream) as out:
        out.write(array)
        array[:] = 0
        out.write(np.zeros(0, np.uint8))
        out.write(b"end")
        out.pad(len(CONTENT) + 5)
    assert stream.getvalue() == CONTENT + b"end" + bytes(2)
    assert (out.digest, out.size) == (xxhash.xxh3_128(stream.getvalue()).hexdigest(), len(CONTENT) + 5)


@pytest.mark.parametrize("blocks", [1, 40])
def test_an_error_of_writing_is_raised_and_ends_it(blocks: int) -> None:
    class Full(io.BytesIO):
        def write(self, block: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"), HashedStream(Full()) as out:
        for _ in range(blocks):
            out.write(bytes(BUFFER))


@pytest.mark.skipif(sys.platform != "linux", reason="O_DIRECT")
def test_direct_writes_are_aligned_and_the_rest_is_written_as_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    written, write = [], os.write

    def noted(file: int, block: memoryview) -> int:
        written.append((len(block), bool(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT)))
        return write(file, block)

    monkeypatch.setattr(os, "write", noted)
    with open(tmp_path / "content", "xb") as stream, HashedStream(stream, direct=True) as out:
        out.write(CONTENT)
    if not written[0][1]:
        pytest.skip("this file system has no direct writes")
    assert written == [(BUFFER, True)] * 4 + [(1000, False)]
    assert aligned_buffer(5 * ALIGNMENT).ctypes.data % ALIGNMENT == 0


@pytest.mark.skipif(sys.platform != "linux", reason="O_DIRECT")
def test_a_file_system_that_refuses_direct_writes_gets_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some take the flag and refuse the first write, and some take part of a block, so that the rest is not aligned."""
    import fcntl

    write, sizes = os.write, []

    def refusing(file: int, block: memoryview) -> int:
        if not fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT:
            return write(file, block)
        if sizes:
            raise OSError(errno.EINVAL, "Invalid argument")
        sizes.append(write(file, block[:ALIGNMENT]))
        return sizes[0]

    monkeypatch.setattr(os, "write", refusing)
    with open(tmp_path / "content", "xb") as stream:
        writer, buffer = DirectWriter(stream), aligned_buffer(BUFFER)
        buffer[:] = np.frombuffer(CONTENT[:BUFFER], np.uint8)
        writer.write(buffer.data)
        writer.write(memoryview(b"end"))
    assert (tmp_path / "content").read_bytes() == CONTENT[:BUFFER] + b"end"


def test_only_large_data_files_are_written_past_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are the same either way."""
    used, writer = [], DirectWriter.write

    def noted(self: DirectWriter, block: memoryview) -> None:
        used.append(len(block))
        writer(self, block)

    monkeypatch.setattr(DirectWriter, "write", noted)
    source = external(tmp_path, width=1100, layers=2)
    files = []
    for name, limit in (("cached", 2**30), ("direct", 1)):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(saving, "DIRECT_FROM", limit)
        save(load(source), tmp_path / name / "net.onnx")
        files.append({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()})
        assert bool(used) == (name == "direct")
    assert files[0] == files[1]
