"""Gives memory that was freed back to the system."""

from __future__ import annotations

import contextlib
import ctypes


def trim() -> None:
    """Returns free memory of the C library's heaps to the system, with glibc; does nothing elsewhere.

    Each thread that runs a session allocates on a heap of its own, which keeps what was freed (`malloc_trim(3)`).
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
