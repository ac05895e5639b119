"""When freed memory is returned to the system."""

from __future__ import annotations

import pytest

from onnxprune.runtime import free_memory
from onnxprune.runtime.free_memory import Heaps


def test_memory_is_returned_once_the_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([100, 80, 120, 131, 90, 60, 141, 95])
    returned: list[int] = []

    class Library:
        @staticmethod
        def malloc_trim(left: int) -> None:
            returned.append(left)

    monkeypatch.setattr(free_memory, "resident", lambda: next(sizes))
    monkeypatch.setattr(free_memory.ctypes, "CDLL", lambda name: Library)
    heaps = Heaps()
    done = []
    for _ in range(5):
        before = len(returned)
        heaps.trim(50)
        done.append(len(returned) > before)
    assert done == [True, False, True, False, True]
    assert set(returned) == {0}


def test_a_system_that_does_not_tell_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def untold() -> int:
        raise OSError("no such file")

    monkeypatch.setattr(free_memory, "resident", untold)
    Heaps().trim(0)


@pytest.mark.skipif(not free_memory.os.path.exists("/proc/self/statm"), reason="Linux alone tells")
def test_what_is_resident_grows_with_what_is_written() -> None:
    before = free_memory.resident()
    block = bytearray(2**26)
    block[::4096] = b"1" * (2**26 // 4096)
    assert free_memory.resident() - before > 2**25
    del block
