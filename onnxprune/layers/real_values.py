"""Real values of the weights of a model, block by block where they are large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.graph import Value
from onnxprune.layers.dequantize import dequantised, unpacked
from onnxprune.model.model import Model
from onnxprune.model.values import Made, Values

Parameters = Mapping[Value, tuple[Value, "Value | None", int]]
"""Weight -> its scale, its zero point, and an axis or a number of bits."""


def real_values(model: Model, value: Value, quantised: Parameters, packed: Parameters) -> Values:
    """The values of a weight as an operator multiplies with them: dequantised, unpacked.

    Args:
        model: The model.
        value: The weight.
        quantised: Whole numbers, see `dequantize.dequantised`.
        packed: Numbers of a few bits, see `dequantize.unpacked`.

    Returns:
        The stored values of what is neither; float32 of all else.
    """
    assert value.tensor is not None
    stored = model.values(value.tensor)
    if value not in quantised and value not in packed:
        return stored
    kind = np.dtype(np.float32)
    if value in quantised:
        return Made(stored.shape, kind, lambda: real_numbers(model, stored.array(), *quantised[value]))
    scale, zero, bits = packed[value]
    if scale.tensor is None:
        return Made(stored.shape, kind, lambda: stored.array().astype(np.float32))
    return Unpacked(stored, model.array(scale.tensor), _points(model, zero), bits)


def real_numbers(
    model: Model, stored: NDArray[Any], scale: Value, zero: Value | None, axis: int
) -> NDArray[np.float32]:
    """Whole numbers as an operator multiplies with them; where only the run tells their scale, without that."""
    scales = np.ones((), np.float32) if scale.tensor is None else model.array(scale.tensor)
    found: NDArray[np.float32] = dequantised(stored, scales, _points(model, zero), axis)
    return found


def _points(model: Model, zero: Value | None) -> NDArray[Any] | None:
    return model.array(zero.tensor) if zero is not None and zero.tensor is not None else None


class Unpacked(Values):
    """Packed numbers of a few bits, unpacked block by block; see `dequantize.unpacked`."""

    def __init__(self, stored: Values, scales: NDArray[Any], points: NDArray[Any] | None, bits: int) -> None:
        super().__init__((*stored.shape, 8 // bits), np.dtype(np.float32))
        self._stored, self._bits = stored, bits
        self._scales = scales.reshape(stored.shape[0], -1)
        self._points = points.reshape(stored.shape[0], -1) if points is not None and points.ndim < 3 else points

    def parts(self, rows: int) -> Iterator[NDArray[Any]]:
        """See `Values`."""
        at = 0
        for block in self._stored.blocks():
            own = slice(at, at := at + len(block))
            points = None if self._points is None else self._points[own]
            yield unpacked(block, self._scales[own], points, self._bits)
