"""What the C library does with memory that was freed."""

from __future__ import annotations

import contextlib
import ctypes

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Parameters of `mallopt(3)`."""
LARGEST = 2**25
"""Bytes up to which an array is made of memory that was freed: the most that glibc sets by itself."""


def trim() -> None:
    """Returns free memory of the C library's heaps to the system, with glibc; does nothing elsewhere.

    Each thread that runs a session allocates on a heap of its own, which keeps what was freed (`malloc_trim(3)`).
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def reuse() -> None:
    """Lets glibc keep freed memory for the next array, as it does by itself; does nothing elsewhere.

    Dask starts its workers with ``MALLOC_TRIM_THRESHOLD_=65536``: each array is then made of new pages, and a run
    spends a third of its time in the kernel.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(MMAP_THRESHOLD, LARGEST)
        library.mallopt(TRIM_THRESHOLD, 2 * LARGEST)
