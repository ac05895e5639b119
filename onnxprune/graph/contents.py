"""What a small tensor holds, as far as it is known without running the model.

An entry is a number or `Unknown`, a number that only the run will tell.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import onnx
from onnx import TensorProto

from onnxprune.graph.graph import Value
from onnxprune.graph.lengths import of_dim
from onnxprune.graph.polynomials import Length

MAX_ENTRIES = 1024
"""Tensors with more entries than this are weights or masks, not shapes."""
MAX_FLOATS = 32
_MAX_DENOMINATOR = 2**8

Data = np.ndarray
"""Object array of int, float, bool and `Unknown` entries."""

INTEGERS = {
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.BOOL,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT16,
    TensorProto.UINT16,
    TensorProto.UINT32,
    TensorProto.UINT64,
}


FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


class Unknown:
    """A number that only the run will tell; `name` is the text of a `Length`, None for an unknown result."""

    __slots__ = ("name",)

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unknown) and self.name is not None and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


def length_of(entry: object) -> Length | None:
    """An entry as a polynomial of free lengths; None where it is not known, or no exact number.

    Of floats those are exact in single precision that have few binary digits.
    """
    if isinstance(entry, Unknown):
        return of_dim(entry.name)
    if isinstance(entry, float) and math.isfinite(entry) and Fraction(entry).denominator <= _MAX_DENOMINATOR:
        return Length.constant(Fraction(entry))
    return Length.constant(entry) if isinstance(entry, int) and not isinstance(entry, bool) else None


def entry_of(length: Length | None, floating: bool = False) -> object:
    """The other way round: a number of the kind that the tensor holds, or `Unknown`."""
    if length is None:
        return Unknown()
    number = length.number
    if number is None:
        return Unknown(str(length)) if floating or length.whole else Unknown()
    if floating:
        return float(number)
    return number if isinstance(number, int) else Unknown()


def known(entries: Data) -> bool:
    """Whether no entry is `Unknown`."""
    return not any(isinstance(e, Unknown) for e in entries.flat)


def same(a: Data, b: Data) -> bool:
    """Whether both hold the same numbers and the same named free lengths."""
    return a.shape == b.shape and all(
        x is y or (type(x) is not Unknown and type(y) is not Unknown and x == y) or (isinstance(x, Unknown) and x == y)
        for x, y in zip(a.flat, b.flat, strict=True)
    )


def constant_data(value: Value) -> Data | None:
    """Entries of a small constant, None for weights."""
    t = value.tensor
    if t is None or t.data_location == TensorProto.EXTERNAL:
        return None
    size = math.prod(t.dims)
    if size > (MAX_ENTRIES if t.data_type in INTEGERS else MAX_FLOATS) or t.data_type == TensorProto.STRING:
        return None
    try:
        array = onnx.numpy_helper.to_array(t)
    except Exception:  # a tensor of a type that cannot be read holds no shape
        return None
    return array.astype(object)
