"""What files of tensors have in common."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import InputError
from onnxprune.planning.checkpoints.cuts import Cut

Array = NDArray[Any]

EXTRAS = {"torch": "torch", "h5py": "hdf5"}
"""Extras of this package that have a module."""


class CheckpointFile(Protocol):
    """A checkpoint that was opened."""

    def arrays(self) -> Mapping[str, Array]:
        """The tensors by name; those of types that numpy lacks as bytes of their size, which have the same shape."""
        ...

    def write(self, out: BinaryIO, cuts: Mapping[str, Cut]) -> Sequence[str]:
        """Writes the same file with some of the tensors cut; returns what to warn of."""
        ...


def cut_array(array: Array, cut: Cut) -> Array:
    """What is left of an array."""
    for axis, kept in cut.kept.items():
        array = array.take(kept, axis=axis)
    return array if cut.zero is None else np.where(cut.zero, np.zeros((), array.dtype), array)


def storage(array: Array) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Where and how an array lies in memory."""
    return array.__array_interface__["data"][0], array.shape, array.strides


def imported(module: str, name: str) -> Any:
    """A module of an extra.

    Raises:
        InputError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{name} is needed to read such a file", f"pip install onnxprune[{EXTRAS[module]}]") from error
