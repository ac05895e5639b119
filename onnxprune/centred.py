"""Second moments of samples, which are first moved to where they lie: single precision is for what varies.

Of features whose mean is large against their deviation, the mean of squares less the square of the mean would leave
little but rounding, and a matrix that no longer is one of moments.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Samples = NDArray[np.float32]

CHUNK = 2**14
"""Samples whose products are summed in single precision."""


def products(x: Samples, y: Samples, about_x: Floats | float, about_y: Floats | float) -> Floats:
    """Mean over samples of ``(x - about_x) (y - about_y)^T``; shape (groups, columns of x, columns of y).

    Args:
        x: Shape (groups, n, columns).
        y: Shape (groups, n, columns).
        about_x: What x is moved by; shape (groups, columns), or one number.
        about_y: The same of y.
    """
    move_x, move_y = (np.asarray(a, dtype=np.float32)[..., None, :] if np.ndim(a) else np.float32(a)
                      for a in (about_x, about_y))
    found = np.zeros((x.shape[0], x.shape[2], y.shape[2]))
    for start in range(0, x.shape[1], CHUNK):
        part = x[:, start:start + CHUNK] - move_x
        found += np.matmul(part.transpose(0, 2, 1), y[:, start:start + CHUNK] - move_y)
    found /= max(x.shape[1], 1)
    return found
