"""Runs a model over data piece by piece: every node once, with weights that may change between the pieces.

What one piece hands to later ones is kept for all batches, in memory or on disk, and dropped as soon as nobody needs
it any more. Where a graph is cut is the business of `pieces`.
"""

from __future__ import annotations

import itertools
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto, helper

from onnxprune.model.model import Model
from onnxprune.runtime.partition import Piece, assemble, plan
from onnxprune.runtime.process import LocalSession
from onnxprune.runtime.session import Feeds, pieces_session

Array = NDArray[Any]

_SPILL_FROM = 4096  # bytes; smaller arrays are not worth a file
_NUMBERS = itertools.count()


class Stored(Sequence[Array]):
    """The arrays of one value, one a batch; those that were spilled are mapped from their files when asked for.

    They can be read as long as somebody holds this and the walk that made it is not closed.

    Attributes:
        nbytes: Bytes in memory that files could take over.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._arrays: list[Array | Path] = []
        self._files: list[Path] = []
        self._folder: Path | None = None
        weakref.finalize(self, _remove, self._files)

    def __len__(self) -> int:
        return len(self._arrays)

    @overload
    def __getitem__(self, index: int) -> Array: ...
    @overload
    def __getitem__(self, index: slice) -> list[Array]: ...
    def __getitem__(self, index: int | slice) -> Array | list[Array]:
        if isinstance(index, slice):
            return [_read(a) for a in self._arrays[index]]
        return _read(self._arrays[index])

    @property
    def spilled(self) -> bool:
        """Whether arrays go to files."""
        return self._folder is not None

    def append(self, array: Array) -> None:
        """Adds the array of the next batch."""
        self._arrays.append(array)
        if _fits_file(array):
            self.nbytes += array.nbytes
            if self._folder is not None:
                self._to_file(len(self._arrays) - 1, array, self._folder)

    def spill(self, folder: Path) -> None:
        """Moves what is in memory to files in a folder, and sends what is still to come there."""
        self._folder = folder
        for i, array in enumerate(self._arrays):
            if isinstance(array, np.ndarray) and _fits_file(array):
                self._to_file(i, array, folder)

    def _to_file(self, i: int, array: Array, folder: Path) -> None:
        path = folder / f"{next(_NUMBERS)}.npy"
        self._files.append(path)
        np.save(path, array, allow_pickle=False)
        self._arrays[i] = path
        self.nbytes -= array.nbytes


class StagedRun:
    """One pass through a model that stops at each stage.

        with Walk(model, batches, [["a"], ["b", "c"]]) as walk:
            values = walk.step()  # {"a": arrays}; nothing that reads "a" has run yet
            ...  # weights in model.proto that are still to be read may change here
            values = walk.step()  # {"b": arrays, "c": arrays}

    Attributes:
        pieces: What each stage runs and keeps.
    """

    def __init__(
        self,
        model: Model,
        batches: Iterable[Feeds],
        stages: Sequence[Sequence[str]],
        *,
        memory: int = 2**31,
        threads: int = 1,
        optimize: bool = True,
    ) -> None:
        """Plans the pieces; nothing runs yet.

        Args:
            model: What to run. Nodes and weights are read from its proto whenever a step needs them.
            batches: Inputs by name, one mapping a batch; gone through once a step at most, in the same order each time.
                The names that the first one holds are looked at here.
            stages: Names of values of the main graph, the stages in topological order.
            memory: Bytes of stored arrays from which on the largest values go to files.
            threads: Threads for one operator; sums depend on how many there are. 0 leaves that to onnxruntime.
            optimize: Whether onnxruntime may rewrite a piece: much faster on convolutions, other rounding.

        Raises:
            CannotCut: A stage names a stored constant, something unknown or no tensor, or pieces would have to share
                something that is no tensor and that cannot be made again.
            TypeError: The batches can be gone through only once.
        """
        first = iter(batches)
        if first is batches:
            raise TypeError("batches must be iterable more than once")
        self._model, self._batches = model, batches
        self._stages = [list(dict.fromkeys(stage)) for stage in stages]
        self._memory, self._threads, self._optimize = memory, threads, optimize
        self.pieces = plan(model.proto, self._stages, next(first, {}))
        self._at = 0
        self._count: int | None = None
        self._kept: dict[str, Stored] = {}
        self._alive: weakref.WeakSet[Stored] = weakref.WeakSet()  # what the caller still holds takes memory too
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> StagedRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of everything kept and removes the files; arrays that were handed out stay valid."""
        self._kept.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    @property
    def nbytes(self) -> int:
        """Bytes that stored arrays take in memory now, small ones not counted."""
        return sum(s.nbytes for s in self._alive)

    def step(self) -> dict[str, Stored]:
        """Runs what the next stage needs and what has not run yet.

        Returns:
            The values that the stage names. They can be read until the walk is closed, and take memory, or disk, until
            they are let go.

        Raises:
            RuntimeError: No stage is left, or there are more or fewer batches than before.
            RunError: onnxruntime does not take the model or the inputs.
        """
        if self._at == len(self._stages):
            raise RuntimeError("no stage is left")
        piece, stage = self.pieces[self._at], self._stages[self._at]
        made = {name: self._new() for name in piece.leaves}
        given = {name: self._new() for name in stage if name not in made and name not in self._kept}
        batches = self._each(any(name not in self._kept for name in (*piece.reads, *given)))
        first = next(batches, None)
        if first is not None:
            runner = self._session(piece, self._model) if made else None
            inputs = self._inputs(itertools.chain([first], batches), given, runner.inputs if runner else ())
            for arrays in runner.each(inputs, list(made)) if runner else ([] for _ in inputs):
                for stored, array in zip(made.values(), arrays, strict=True):
                    self._append(stored, array)
        self._kept |= made
        result = {name: given[name] if name in given else self._kept[name] for name in stage}
        for name in piece.drops:
            del self._kept[name]
        self._at += 1
        return result

    def ahead(self, changed: Model) -> Iterator[list[Array]]:
        """Runs all that is left at once, with the weights of another version of the model; the walk stays where it is.

        Args:
            changed: A model with the same nodes.

        Yields:
            For each batch, the values of the last stage.
        """
        later = self.pieces[self._at :]
        own = {name for piece in later for name in piece.leaves}
        made = [name for name in self._stages[-1] if name in own]
        reads = dict.fromkeys(name for piece in later for name in piece.reads if name not in own)
        again = dict.fromkeys(key for p in later for key in p.again)
        piece = Piece([key for p in later for key in p.once], list(again), list(reads), made)
        runner = self._session(piece, changed) if made else None
        given = {name: Stored() for name in self._stages[-1] if name not in own and name not in self._kept}
        batches = self._each(any(name not in self._kept for name in (*(runner.inputs if runner else ()), *given)))
        inputs = self._inputs(batches, given, runner.inputs if runner else ())
        for i, arrays in enumerate(runner.each(inputs, made) if runner else ([] for _ in inputs)):
            values = dict(zip(made, arrays, strict=True))
            yield [
                values[name] if name in values else (given if name in given else self._kept)[name][i]
                for name in self._stages[-1]
            ]

    def _inputs(
        self, batches: Iterable[tuple[int, Feeds]], given: Mapping[str, Stored], names: Sequence[str]
    ) -> Iterator[dict[str, Array]]:
        """What a piece reads of each batch; graph inputs that the stage names are stored on the way."""
        for batch, feeds in batches:
            for name, stored in given.items():
                self._append(stored, np.asarray(feeds[name]))
            yield {
                name: self._kept[name][batch] if name in self._kept else feeds[name]
                for name in names
                if name in self._kept or name in feeds
            }

    def _each(self, fed: bool) -> Iterator[tuple[int, Feeds]]:
        """Number and inputs of each batch; no inputs where none are needed and the number of batches is known."""
        if self._count is not None and not fed:
            yield from ((i, {}) for i in range(self._count))
            return
        count = 0
        for count, feeds in enumerate(self._batches, start=1):
            if self._count is not None and count > self._count:
                break
            yield count - 1, feeds
        if self._count is None:
            self._count = count
        if count != self._count:
            raise RuntimeError(f"there were {self._count} batches before, and now there are not")

    def _session(self, piece: Piece, model: Model) -> LocalSession:
        types = {name: _type_of(name, self._kept[name]) for name in piece.reads if name in self._kept}
        part = assemble(model.proto, piece, types)
        return pieces_session(Model(part, model.path, model.data_files), optimize=self._optimize, threads=self._threads)

    def _new(self) -> Stored:
        stored = Stored()
        self._alive.add(stored)
        return stored

    def _append(self, stored: Stored, array: Array) -> None:
        stored.append(array)
        while self.nbytes > self._memory:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="onnxprune-", ignore_cleanup_errors=True)
            max(self._alive, key=lambda s: s.nbytes).spill(Path(self._folder.name))


def _type_of(name: str, stored: Stored) -> ValueInfoProto:
    """The type that a value has in every batch; lengths stay open, since batches differ."""
    kinds, ranks = {a.dtype for a in stored}, {a.ndim for a in stored}
    first = next(iter(kinds))
    kind = TensorProto.STRING if first.kind in "OUS" else helper.np_dtype_to_tensor_dtype(first)
    return helper.make_tensor_value_info(name, kind, [None] * ranks.pop() if len(ranks) == 1 else None)


def _fits_file(array: Array) -> bool:
    """Whether a file is worth it and gives back the same type: strings and the types of ml_dtypes would be lost."""
    return array.nbytes >= _SPILL_FROM and array.dtype.kind in "biufc"


def _read(array: Array | Path) -> Array:
    if isinstance(array, np.ndarray):
        return array
    return np.asarray(np.load(array, mmap_mode="r", allow_pickle=False))


def _remove(files: list[Path]) -> None:
    for path in files:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            continue  # still mapped, where that is in the way; the folder is cleaned up in the end
