"""How far an array is from another one, and whether that has a meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.verification.as_array import as_array


@dataclass(frozen=True)
class Drift:
    """How far an array moved; None where that has no meaning (not numbers, not finite, nothing to compare with).

    Classes, indices and strings have no distance (`is_classes`): of them only the share of equal entries is known.

    Attributes:
        max_abs: Largest absolute difference.
        rel_rms: Root mean square of the difference over that of the original.
        cosine: Cosine of the angle between both, as flat vectors.
        equal: Share of equal entries, 0 to 1, of classes; None for quantities.
    """

    max_abs: float | None
    rel_rms: float | None
    cosine: float | None
    equal: float | None = field(default=None, metadata={"omit_none": True})

    def within(self, tolerance: float) -> bool | None:
        """Whether the relative RMS is within a tolerance, or all classes are equal; None where neither is known."""
        if self.equal is not None:
            return self.equal == 1.0
        return None if self.rel_rms is None else self.rel_rms <= tolerance


def drift(before: Any, after: Any) -> Drift:
    """How far `after` is from `before`, computed in double precision; of classes, how many are equal.

    Infinities and NaN at the same positions in both are ignored; anywhere else the drift is undefined.
    """
    nothing = Drift(None, None, None)
    a, b = as_array(before), as_array(after)
    if a.shape == b.shape and is_classes(a) and is_classes(b):
        return Drift(None, None, None, equal=float((a == b).mean()) if a.size else 1.0)
    if a.shape != b.shape or not (is_numeric(a) and is_numeric(b)):
        return nothing
    wide = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    a, b = a.astype(wide).ravel(), b.astype(wide).ravel()
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return nothing
    a, b = a[finite], b[finite]
    if not a.size:
        return Drift(0.0, 0.0, None) if not finite.size else nothing
    return _finite_drift(a, b)


def _finite_drift(a: np.ndarray, b: np.ndarray) -> Drift:
    scale = max(float(np.abs(a).max()), float(np.abs(b).max())) or 1.0
    a, b = a / scale, b / scale  # squares of huge numbers overflow, those of tiny ones vanish
    gap = float(np.linalg.norm(a - b))
    long_a, long_b = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    relative = gap / long_a if long_a else (None if gap else 0.0)
    cosine = float(np.vdot(a, b).real) / (long_a * long_b) if long_a and long_b else None
    return Drift(
        max_abs=float(np.abs(a - b).max()) * scale,
        rel_rms=relative,
        cosine=None if cosine is None else max(-1.0, min(1.0, cosine)),
    )


def is_classes(array: np.ndarray) -> bool:
    """Whether an array holds what can only be equal or not: strings, truth values, and integers of 32 bits or more.

    Smaller integers are quantised numbers or pixels.
    """
    if array.dtype.kind == "O":
        return all(isinstance(entry, (str, bytes)) for entry in array.ravel())
    return array.dtype.kind in "bSU" or (array.dtype.kind in "iu" and array.dtype.itemsize >= 4)


def is_numeric(array: np.ndarray) -> bool:
    """Whether an array holds numbers, those of ml_dtypes included."""
    return array.dtype.kind in "biufc" or array.dtype.name.startswith(("bfloat", "float", "int", "uint"))
