"""One input of a model: checks whether an array fits it, and casts arrays to its type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.errors import DataError, InputError

Feed = dict[str, np.ndarray]
"""Arrays of one run by input name."""
Shape = tuple[int, ...]
"""Lengths of axes."""


@dataclass(frozen=True)
class ModelInput:
    """One input of a model.

    Attributes:
        name: Name.
        dtype: Element type; object for strings.
        dims: Axes: a length if fixed, a name or "" if free; None if the rank is not declared.
        axis: The batch axis, None if there is none.
    """

    name: str
    dtype: np.dtype[Any]
    dims: tuple[int | str, ...] | None
    axis: int | None

    @property
    def fixed(self) -> int | None:
        """The fixed length of the batch axis, None if it is free."""
        size = self.dims[self.axis] if self.dims and self.axis is not None else None
        return size if isinstance(size, int) else None

    @property
    def declared(self) -> str:
        """The declared shape in messages, such as Nx3x32x32."""
        if self.dims is None:
            return "any shape"
        return "x".join(str(d) if d != "" else "?" for d in self.dims) or "a scalar"

    def check_shape(self, shape: Shape, where: str, *, any_batch: bool = False) -> None:
        """Checks that an array of this shape can be fed.

        Args:
            shape: The shape.
            where: Name of the source in messages.
            any_batch: Whether to ignore the length of the batch axis, along which arrays are cut later.

        Raises:
            InputError: The rank or a fixed length differs.
        """
        if self.dims is None:
            return
        fits = len(shape) == len(self.dims) and all(
            size == dim or isinstance(dim, str) or (any_batch and axis == self.axis)
            for axis, (size, dim) in enumerate(zip(shape, self.dims, strict=False))
        )
        if not fits:
            raise self.mismatch(shape, where)

    def mismatch(self, shape: Shape, where: str) -> InputError:
        """Returns the error for a shape that does not fit."""
        given = "x".join(map(str, shape)) or "a scalar"
        message = f"{where}: '{self.name}' is {given}, but the model takes {self.declared}"
        return InputError(message, self._remedy(shape))

    def _remedy(self, shape: Shape) -> str | None:
        """Returns a hint for a shape that does not fit, if there is one."""
        if self.dims is None or len(shape) not in (len(self.dims), len(self.dims) + 1):
            return f"samples lie along axis {self.axis}" if self.axis is not None else None
        for order in ((0, 3, 1, 2), (0, 2, 3, 1)) if len(shape) == len(self.dims) == 4 else ():
            pairs = [(shape[a], d) for a, d in zip(order, self.dims, strict=True)]
            if all(isinstance(d, str) or s == d or axis == self.axis for axis, (s, d) in enumerate(pairs)):
                return f"the axes are in another order: x.transpose{order}"
        return None

    def cast(self, array: np.ndarray, where: str) -> np.ndarray:
        """Casts an array to the type of this input; returns the same array if it has that type already.

        Floats are cast to other float types, and integers to other integer types, if every value fits. Integers are not
        cast to floats: that mostly needs a scale, which only the caller knows.

        Raises:
            InputError: The types are of different kinds, or a value does not fit.
        """
        if array.dtype == self.dtype and array.dtype != object:
            return array
        given, wanted = kind(array.dtype), kind(self.dtype)
        if self._stored_as(array.dtype):
            return array.view(self.dtype)
        if given == wanted == "text":
            return self._text(array, where)
        if given == wanted == "float":
            with np.errstate(over="ignore"):
                cast = array.astype(self.dtype)
            narrow = self.dtype.itemsize < array.dtype.itemsize
            if narrow and not np.array_equal(np.isfinite(cast), np.isfinite(array)):
                raise DataError(f"{where}: '{self.name}' holds values that {self.dtype} cannot hold")
            return cast
        if wanted == "integer" and given in ("integer", "boolean"):
            cast = array.astype(self.dtype)
            if array.size and not np.array_equal(cast, array):
                raise DataError(f"{where}: '{self.name}' holds values that {self.dtype} cannot hold")
            return cast
        self.check_kind(array.dtype, where)
        return array.astype(self.dtype)

    def check_kind(self, dtype: np.dtype[Any], where: str) -> None:
        """Checks that values of this type can be cast to the type of the input."""
        given, wanted = kind(dtype), kind(self.dtype)
        if given == wanted or (given, wanted) == ("boolean", "integer") or self._stored_as(dtype):
            return
        hint = f"convert it where it is made: x.astype('{self.dtype}')"
        if wanted == "float":
            hint += ", scaled as in training"
        elif wanted == "text":
            hint = "give an array of strings"
        raise InputError(f"{where}: '{self.name}' is {dtype}, but the model takes {self.type_name}", hint)

    def _stored_as(self, dtype: np.dtype[Any]) -> bool:
        """Whether this is the type that .npy files have for the input's type: raw bytes for types of ml_dtypes."""
        return kind(dtype) == "raw" and self.dtype.isbuiltin == 2 and dtype.itemsize == self.dtype.itemsize

    @property
    def type_name(self) -> str:
        """The element type in messages."""
        return "strings" if self.dtype == object else str(self.dtype)

    def _text(self, array: np.ndarray, where: str) -> np.ndarray:
        flat = array.astype(str).astype(object) if array.dtype != object else array
        if not all(isinstance(v, str) for v in flat.ravel()):
            raise DataError(f"{where}: '{self.name}' holds something other than strings")
        return flat


def kind(dtype: np.dtype[Any]) -> str:
    """The family of an element type, within which values may be cast."""
    if dtype.kind in "bc":
        return "boolean" if dtype.kind == "b" else "complex"
    if dtype.kind in "iu" or dtype.name.startswith(("int", "uint")):
        return "integer"
    if dtype.kind == "f" or dtype.name.startswith(("float", "bfloat")):
        return "float"
    return "text" if dtype.kind in "UOST" else "raw"
