"""What is zero once channels are masked."""

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


def _statements(item: Zero | Choice) -> list[Zero]:
    if not isinstance(item, Choice):
        return [item]
    zeros = item.taken.zeros if item.taken is not None else []
    return [(out.id, tuple(source.id for source in sources), False) for out, *sources in zeros]
