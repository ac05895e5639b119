"""The hash that names data files."""

from __future__ import annotations

import hashlib
import io
import zlib

import numpy as np
import pytest

from onnxprune.model.hashed_stream import PIECE, ContentHash, HashedStream

CONTENT = np.random.default_rng(0).bytes(2 * PIECE + 1000)


def hashed(*blocks: bytes) -> str:
    found = ContentHash()
    for block in blocks:
        found.update(memoryview(block))
    return found.hexdigest()


def test_it_is_the_hash_of_the_checksum_and_length_of_each_piece() -> None:
    pieces = [CONTENT[i : i + PIECE] for i in range(0, len(CONTENT), PIECE)]
    sums = b"".join(zlib.crc32(p).to_bytes(4, "little") + len(p).to_bytes(4, "little") for p in pieces)
    assert hashed(CONTENT) == hashlib.sha256(sums).hexdigest()


@pytest.mark.parametrize("size", [1, 999, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_it_does_not_depend_on_the_blocks(size: int) -> None:
    content = CONTENT[:5000] if size == 1 else CONTENT
    assert hashed(*(content[i : i + size] for i in range(0, len(content), size))) == hashed(content)


def test_it_tells_contents_apart() -> None:
    """Other bytes, another order, another length."""
    half = len(CONTENT) // 2
    others = [CONTENT[half:] + CONTENT[:half], CONTENT[:-1], CONTENT + b"\0", bytes(len(CONTENT)), bytes(PIECE), b""]
    flipped = bytearray(CONTENT)
    flipped[PIECE] ^= 1
    assert len({hashed(one) for one in (CONTENT, bytes(flipped), *others)}) == 2 + len(others)


def test_a_stream_writes_and_hashes_arrays_and_bytes() -> None:
    stream = io.BytesIO()
    with HashedStream(stream) as out:
        out.write(np.frombuffer(CONTENT, np.uint8))
        out.write(np.zeros((0, 3), np.uint8))
        out.pad(len(CONTENT) + 5)
    assert stream.getvalue() == CONTENT + bytes(5)
    assert (out.digest, out.size) == (hashed(CONTENT + bytes(5)), len(CONTENT) + 5)
