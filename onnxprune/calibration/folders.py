"""Calibration data in items of one sample or one batch: a folder of .npy and .npz files, or a list of dicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.calibration.arrays import npy_table, npz_tables, readable
from onnxprune.calibration.labels import joined, per_sample
from onnxprune.calibration.model_input import Feed, Shape
from onnxprune.calibration.samples import Source, select_rows
from onnxprune.calibration.selection import Selection
from onnxprune.calibration.signature import Signature
from onnxprune.errors import DataError, InputError


class Item(ABC):
    """One feed, read on demand."""

    where: str

    @abstractmethod
    def shapes(self) -> dict[str, Shape]:
        """Returns the shapes of its arrays by name, without reading values if possible."""

    @abstractmethod
    def arrays(self) -> dict[str, Any]:
        """Returns its arrays by name."""


class File(Item):
    """A file with one array (.npy, for the only input) or several (.npz)."""

    def __init__(self, path: Path, signature: Signature) -> None:
        self.where = str(path)
        self._path, self._names, self._signature = path, signature.names, signature
        if path.suffix.lower() == ".npy" and len(self._names) > 1:
            raise InputError(
                f"{path}: one array, but the model has inputs {', '.join(self._names)}",
                "save .npz files with an array for each, by name",
            )

    def shapes(self) -> dict[str, Shape]:
        """See `Item`."""
        if self._path.suffix.lower() == ".npy":
            return {self._names[0]: npy_table(self._path, self.where).shape}
        return self._renamed({name: t.shape for name, t in npz_tables(self._path, self.where).items()})

    def arrays(self) -> dict[str, Any]:
        """See `Item`."""
        if self._path.suffix.lower() == ".npy":
            return {self._names[0]: npy_table(self._path, self.where).array}
        with readable(self.where), np.load(self._path, allow_pickle=False) as data:
            return self._renamed({name: data[name] for name in data.files})

    def _renamed(self, given: dict[str, Any]) -> dict[str, Any]:
        """Gives an unnamed array the name of the only input."""
        if len(self._names) == 1 and set(given) - {self._signature.label_name(given, self.where)} == {"arr_0"}:
            given[self._names[0]] = given.pop("arr_0")
        return given


class Entry(Item):
    """A dict of arrays in memory, or the array of the only input."""

    def __init__(self, given: Any, signature: Signature, where: str) -> None:
        self.where = where
        self._arrays = dict(signature.named(given, where))

    def shapes(self) -> dict[str, Shape]:
        """See `Item`."""
        try:
            return {str(name): np.shape(value) for name, value in self._arrays.items()}
        except ValueError as error:  # nested lists of different lengths
            raise DataError(f"{self.where}: cannot be made arrays: {error}") from error

    def arrays(self) -> dict[str, Any]:
        """See `Item`."""
        return self._arrays


class Items(Source):
    """Samples in items; all shapes are read at the start, values one item at a time.

    Args:
        items: The items, in the order of samples.
        signature: The model's inputs.
        where: Name of the source in messages.

    Raises:
        InputError: An item does not fit the model.
    """

    def __init__(self, items: Sequence[Item], signature: Signature, where: str) -> None:
        self.where = where
        self.axes = signature.axes if signature.certain else None
        self._items, self._signature = items, signature
        counts: list[int | None] = []
        names: list[str | None] = []
        for item in items:
            shapes = item.shapes()
            counts.append(signature.rows(signature.pick(shapes, item.where), item.where) if shapes else 0)
            names.append(signature.label_name(shapes, item.where))
            self.unused = self.unused or signature.extra(shapes)
        self._counts = [1 if n is None else n for n in counts]
        self.count = self.seen = sum(self._counts)
        self.labels = self._read_labels([name for name in names if name is not None]) if all(names) and items else None
        if items and self.count:  # reports a wrong type at the start
            next(self.feeds(Selection(), 1))

    def _read_labels(self, names: Sequence[str]) -> np.ndarray:
        """The labels of all items, given the name of the array of each."""
        parts = [
            per_sample(item.arrays()[name], count, name, item.where)
            for item, count, name in zip(self._items, self._counts, names, strict=True)
        ]
        return joined(parts, self.where)

    def feeds(self, selection: Selection, batch: int) -> Iterator[Feed]:
        """See `Source`."""
        start = 0
        for item, count in zip(self._items, self._counts, strict=True):
            if selection.exhausted(start):
                return
            positions = selection.within(start, start + count)
            start += count
            if len(positions):
                feed, rows = self._signature.read(item.arrays(), item.where)
                if (1 if rows is None else rows) != count:
                    raise DataError(f"{item.where}: changed while it was used")
                yield select_rows(feed, self.axes, positions) if self.axes else feed
