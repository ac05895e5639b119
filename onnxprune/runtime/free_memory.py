"""What the C library does with memory that was freed."""

from __future__ import annotations

import contextlib
import ctypes
import os

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Parameters of `mallopt(3)`."""
LARGEST = 2**25
"""Bytes up to which an array is made of memory that was freed: the most that glibc sets by itself."""


class Heaps:
    """The heaps of the C library. Each thread that runs a session has one of its own, which keeps what was freed.

    Keeping it saves time: memory that was returned comes back page by page.
    """

    def __init__(self) -> None:
        self._before = 0

    def trim(self, room: int) -> None:
        """Returns free memory to the system (`malloc_trim(3)`) with glibc; does nothing elsewhere.

        Args:
            room: Bytes that the process may have grown by since the last time; with less nothing is done.
        """
        with contextlib.suppress(AttributeError, OSError, TypeError):
            if resident() - self._before >= room:
                ctypes.CDLL(None).malloc_trim(0)
                self._before = resident()


heaps = Heaps()
"""Those of this process."""


def resident() -> int:
    """Bytes of the process that are in memory, without what only files have.

    Raises:
        OSError: The system does not tell.
    """
    with open("/proc/self/statm") as file:
        _, whole, shared, *_ = map(int, file.read().split())
    return (whole - shared) * os.sysconf("SC_PAGE_SIZE")


def reuse() -> None:
    """Lets glibc keep freed memory for the next array, as it does by itself; does nothing elsewhere.

    Dask starts its workers with ``MALLOC_TRIM_THRESHOLD_=65536``: each array is then made of new pages, and a run
    spends a third of its time in the kernel.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(MMAP_THRESHOLD, LARGEST)
        library.mallopt(TRIM_THRESHOLD, 2 * LARGEST)
