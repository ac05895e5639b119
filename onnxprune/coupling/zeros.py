"""What is zero once channels are masked, and what follows for sums, means and refills over it."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune.model.tensors import WEIGHT_TYPES
from onnxprune.ops.ties import Choice, Ties, Zero


def zero_axes(ties: Ties, shrinking: Collection[str]) -> NDArray[np.bool_]:
    """Which axes are zero at what is masked (f(0) = 0 all the way); by the number of the axis.

    A loop's state depends on itself: every statement is assumed first, then statements are refuted until
    none is refuted any more. What is left holds by induction over the iterations.
    """
    zero = np.zeros(ties.axis_count + 1, dtype=bool)
    sliced = [v for v in ties.graph.constants() if v.elem_type in WEIGHT_TYPES or v.elem_type == TensorProto.INT32]
    for value in [*sliced, *(v for v in ties.graph.main.inputs if v.name in shrinking)]:
        zero[value.first_axis : value.first_axis + len(value.shape or [])] = True
    statements = [s for item in ties.zeros for s in _statements(item)]
    zero[[out_id for out_id, _, _ in statements]] = True
    before = None
    while before is None or not np.array_equal(before, zero):
        before = zero.copy()
        for out_id, sources, any_of in statements:
            flags = zero[list(sources)]
            zero[out_id] = bool(flags.any()) if any_of and len(flags) else bool(flags.all())
    return zero


def grade_by_zeros(ties: Ties, zero: NDArray[np.bool_]) -> None:
    """Makes sums mix where no summand is zero, and refills where what they pad is not; in place.

    Of means, refills and divisors those are left that are zero.
    """
    for axis, sources, reason in ties.sums:
        if not zero[list(sources)].any():
            ties.mixes.append((axis, None, reason))
    ties.mixes += [(one.axis, None, one.reason) for one in ties.refills if not zero[list(one.zero)].all()]
    ties.refills = [one for one in ties.refills if zero[list(one.zero)].all()]
    ties.means = [mean for mean in ties.means if zero[mean.axis.id]]
    ties.divisors = [axis for axis in ties.divisors if zero[axis.id]]


def _statements(item: Zero | Choice) -> list[Zero]:
    if not isinstance(item, Choice):
        return [item]
    zeros = item.taken.zeros if item.taken is not None else []
    return [(out.id, tuple(source.id for source in sources), False) for out, *sources in zeros]
