"""The weights of a model that take a pattern of zeros."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.coupling.coupling import Coupling
from onnxprune.layers.weight_layout import Weight, readings
from onnxprune.model.tensors import FLOATS

__all__ = ["Weight", "weights"]


def weights(coupling: Coupling) -> list[Weight]:
    """Constants that a product operator multiplies with, straight or through layout and type changes."""
    found: dict[str, list[Weight]] = {}
    for value in coupling.graph.constants():
        quantised = value in coupling.ties.quantised
        if any(d != 1 for d in value.shape or []) and (value.elem_type in FLOATS or quantised):
            found.setdefault(value.key, []).extend(readings(value))
    return [_agreed(readings) for readings in found.values() if readings]


def _agreed(readings: Sequence[Weight]) -> Weight:
    """What all readers of one constant have in common."""
    first = readings[0]
    if all(r.layout == first.layout for r in readings):
        return first
    return Weight(first.value, None, first.recurrent, first.node, "it is read along different axes")
