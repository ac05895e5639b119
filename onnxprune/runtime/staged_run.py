"""Executes a model over batches in stages, caching intermediate activations between the stages.

Every node is run once (except those that `partition` repeats), and weights may be changed between two stages. The
activations that later stages need are stored for all batches, in memory or on disk, and released after their last use.
"""

from __future__ import annotations

import itertools
import tempfile
import weakref
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto, helper

from onnxprune.model.model import Model
from onnxprune.runtime.free_memory import heaps
from onnxprune.runtime.local_session import LocalSession
from onnxprune.runtime.partition import Piece, assemble, partition
from onnxprune.runtime.session import Feeds, local_session

Array = NDArray[Any]

_MIN_SPILL_BYTES = 4096  # smaller arrays are never written to a file
_NUMBERS = itertools.count()


class LazyArrays(Sequence[Array]):
    """Arrays that are read when they are asked for."""

    @overload
    def __getitem__(self, index: int) -> Array: ...
    @overload
    def __getitem__(self, index: slice) -> list[Array]: ...
    def __getitem__(self, index: int | slice) -> Array | list[Array]:
        if isinstance(index, slice):
            return [self._at(i) for i in range(*index.indices(len(self)))]
        return self._at(index)

    @abstractmethod
    def _at(self, index: int) -> Array:
        """Reads one array."""


class BatchValues(LazyArrays):
    """The arrays of one value, one per batch; arrays that were spilled to files are memory-mapped when read.

    The files are removed with this object, or when the run that created it is closed.

    Attributes:
        nbytes: Bytes in memory that could be spilled.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._arrays: list[Array | Path] = []
        self._files: list[Path] = []
        self._folder: Path | None = None
        weakref.finalize(self, _remove, self._files)

    def __len__(self) -> int:
        return len(self._arrays)

    def _at(self, index: int) -> Array:
        return _read(self._arrays[index])

    @property
    def spilled(self) -> bool:
        """Whether arrays are written to files."""
        return self._folder is not None

    def append(self, array: Array) -> None:
        """Appends the array of the next batch."""
        self._arrays.append(array)
        if _fits_file(array):
            self.nbytes += array.nbytes
            if self._folder is not None:
                self._to_file(len(self._arrays) - 1, array, self._folder)

    def spill(self, folder: Path) -> None:
        """Writes the arrays in memory, and all that are appended later, to files in a folder."""
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
    """One pass of all batches through a model, which pauses after each stage.

        with StagedRun(model, batches, [["a"], ["b", "c"]]) as run:
            values = run.step()  # {"a": arrays}; no consumer of "a" has run yet
            ...  # weights of nodes that have not run yet may be changed in model.proto here
            values = run.step()  # {"b": arrays, "c": arrays}

    Attributes:
        pieces: The piece of the graph that each stage runs.
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
        """Partitions the graph; nothing is run yet.

        Args:
            model: The model. Nodes and weights are read from its proto when a step needs them.
            batches: Inputs by name, one mapping per batch; iterated at most once per step, in the same order each time.
                The names in the first batch are read here.
            stages: Names of values of the main graph, the stages in topological order.
            memory: Maximum size in bytes of the stored arrays in memory; beyond it the largest values are spilled.
            threads: Threads per operator; floating-point sums depend on their number. 0 for onnxruntime's default.
            optimize: Whether onnxruntime may optimize a piece: much faster for convolutions, with different rounding.

        Raises:
            CannotCut: See `partition`.
            TypeError: The batches are an iterator, which can be iterated only once.
        """
        first = iter(batches)
        if first is batches:
            raise TypeError("batches must be iterable more than once")
        self._model, self._batches = model, batches
        self._stages = [list(dict.fromkeys(stage)) for stage in stages]
        self._memory, self._threads, self._optimize = memory, threads, optimize
        self.pieces = partition(model.proto, self._stages, next(first, {}))
        self._at = 0
        self._count: int | None = None
        self._stored: dict[str, BatchValues] = {}
        self._alive: weakref.WeakSet[BatchValues] = weakref.WeakSet()  # those that the caller still references too
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> StagedRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases all stored values and removes the files; arrays that were returned before remain valid."""
        self._stored.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    @property
    def nbytes(self) -> int:
        """Current size in bytes of the stored arrays in memory, without small ones."""
        return sum(s.nbytes for s in self._alive)

    def step(self) -> dict[str, BatchValues]:
        """Runs the piece of the next stage.

        Returns:
            The values of the stage by name. They can be read until the run is closed, and take memory or disk space as
            long as they are referenced.

        Raises:
            RuntimeError: No stage is left, or the number of batches has changed.
            RunError: onnxruntime rejects the model or the inputs.
        """
        if self._at == len(self._stages):
            raise RuntimeError("no stage is left")
        piece, stage = self.pieces[self._at], self._stages[self._at]
        outputs = {name: self._new() for name in piece.outputs}
        graph_inputs = {name: self._new() for name in stage if name not in outputs and name not in self._stored}
        batches = self._each(any(name not in self._stored for name in (*piece.inputs, *graph_inputs)))
        first = next(batches, None)
        if first is not None:
            runner = self._session(piece, self._model) if outputs else None
            inputs = self._inputs(itertools.chain([first], batches), graph_inputs, runner.inputs if runner else ())
            made = runner.each(inputs, list(outputs), memory=self._memory // 2) if runner else ([] for _ in inputs)
            for arrays in made:
                for values, array in zip(outputs.values(), arrays, strict=True):
                    self._append(values, array)
        self._stored |= outputs
        result = {name: graph_inputs[name] if name in graph_inputs else self._stored[name] for name in stage}
        for name in piece.released:
            del self._stored[name]
        self._at += 1
        heaps.trim(self._memory // 2)
        return result

    def ahead(self, changed: Model) -> Iterator[list[Array]]:
        """Runs all remaining stages at once, with the weights of another version of the model.

        The state of this run does not change.

        Args:
            changed: A model with the same nodes.

        Yields:
            The values of the last stage, for each batch.
        """
        later, last = self.pieces[self._at :], self._stages[-1]
        own = {name for piece in later for name in piece.outputs}
        outputs = [name for name in last if name in own]
        reads = dict.fromkeys(name for piece in later for name in piece.inputs if name not in own)
        repeated = dict.fromkeys(key for p in later for key in p.repeated)
        piece = Piece([key for p in later for key in p.nodes], list(repeated), list(reads), outputs)
        runner = self._session(piece, changed) if outputs else None
        names = runner.inputs if runner else ()
        graph_inputs = {name: BatchValues() for name in last if name not in own and name not in self._stored}
        batches = self._each(any(name not in self._stored for name in (*names, *graph_inputs)))
        inputs = self._inputs(batches, graph_inputs, names)
        for i, arrays in enumerate(runner.each(inputs, outputs) if runner else ([] for _ in inputs)):
            values = dict(zip(outputs, arrays, strict=True))
            yield [
                values[name] if name in values else (graph_inputs if name in graph_inputs else self._stored)[name][i]
                for name in last
            ]

    def _inputs(
        self, batches: Iterable[tuple[int, Feeds]], graph_inputs: Mapping[str, BatchValues], names: Sequence[str]
    ) -> Iterator[dict[str, Array]]:
        """Yields the inputs of a piece for each batch, and stores the graph inputs that belong to the stage."""
        for batch, feeds in batches:
            for name, values in graph_inputs.items():
                self._append(values, np.asarray(feeds[name]))
            yield {
                name: self._stored[name][batch] if name in self._stored else feeds[name]
                for name in names
                if name in self._stored or name in feeds
            }

    def _each(self, fed: bool) -> Iterator[tuple[int, Feeds]]:
        """Yields index and inputs of each batch; empty inputs if none are needed and the number of batches is known."""
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
        types = {name: _type_of(name, self._stored[name]) for name in piece.inputs if name in self._stored}
        part = assemble(model.proto, piece, types)
        part_model = model.part(part)
        return local_session(part_model, optimize=self._optimize, threads=self._threads)

    def _new(self) -> BatchValues:
        values = BatchValues()
        self._alive.add(values)
        return values

    def _append(self, values: BatchValues, array: Array) -> None:
        values.append(array)
        while self.nbytes > self._memory:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="onnxprune-", ignore_cleanup_errors=True)
            max(self._alive, key=lambda s: s.nbytes).spill(Path(self._folder.name))


def _type_of(name: str, values: BatchValues) -> ValueInfoProto:
    """Returns the type of a value; lengths that differ between batches are unknown.

    The others are given: for some operators (Attention) onnx infers a wrong output shape from unknown lengths.
    """
    kinds, shapes = {a.dtype for a in values}, [a.shape for a in values]
    first = next(iter(kinds))
    kind = TensorProto.STRING if first.kind in "OUS" else helper.np_dtype_to_tensor_dtype(first)
    if len(set(map(len, shapes))) != 1:
        return helper.make_tensor_value_info(name, kind, None)
    lengths = [axis[0] if len(set(axis)) == 1 else None for axis in zip(*shapes, strict=True)]
    return helper.make_tensor_value_info(name, kind, lengths)


def _fits_file(array: Array) -> bool:
    """Whether an array is large enough and of a type that .npy files preserve (not strings or types of ml_dtypes)."""
    return array.nbytes >= _MIN_SPILL_BYTES and array.dtype.kind in "biufc"


def _read(array: Array | Path) -> Array:
    if isinstance(array, np.ndarray):
        return array
    return np.asarray(np.load(array, mmap_mode="r", allow_pickle=False))


def _remove(files: list[Path]) -> None:
    for path in files:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            continue  # a mapped file cannot be removed on Windows; the folder is removed later
