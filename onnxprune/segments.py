"""Runs a model over data piece by piece: every node once, with weights that may change between the pieces.

`Walk` cuts the main graph at the values that it is asked for, stage by stage. What one piece hands to later ones is
kept for all batches, in memory or on disk, and dropped as soon as nobody needs it any more.

Two kinds of nodes run in every piece that reads them rather than once: what is computed from constants alone, and
what makes sequences, optionals and the like, which cannot be handed from one run to the next.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnxprune.graph import ordered
from onnxprune.model import Model
from onnxprune.runtime import Feeds, session
from onnxprune.tensors import skeleton, subgraphs

Array = NDArray[Any]

_SPILL_FROM = 4096  # bytes; smaller arrays are not worth a file
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}


class CannotCut(Exception):  # noqa: N818 - not always an error: the caller may do without the value
    """A value was asked for, or has to be handed from piece to piece, and cannot be."""


class Stored(Sequence[Array]):
    """The arrays of one value, one a batch; those that were spilled are mapped from their files when asked for.

    They can be read as long as somebody holds this and the walk that made it is not closed.
    """

    def __init__(self) -> None:
        self._arrays: list[Array | Path] = []
        self._files: list[Path] = []
        self._folder: Path | None = None
        self.nbytes = 0
        """Bytes in memory that a file could take over."""
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
                self.spill(self._folder)

    def spill(self, folder: Path) -> None:
        """Moves what is in memory to files in a folder, now and from now on."""
        self._folder = folder
        for i, array in enumerate(self._arrays):
            if isinstance(array, Path) or not _fits_file(array):
                continue
            path = folder / f"{id(self)}-{i}.npy"
            self._files.append(path)
            np.save(path, array, allow_pickle=False)
            self._arrays[i] = path
        self.nbytes = 0


class Walk:
    """One pass through a model, stopping at each stage.

        with Walk(model, batches, [["a"], ["b", "c"]]) as walk:
            values = walk.step()      # {"a": arrays}; nothing behind "a" has run yet
            ...                       # change weights in model.proto that what is still to come reads
            values = walk.step()      # {"b": arrays, "c": arrays}

    Attributes:
        pieces: The nodes that each stage runs, by their first output, those that run in every piece left out.
    """

    def __init__(self, model: Model, batches: Iterable[Feeds], stages: Sequence[Sequence[str]], *,
                 memory: int = 2**31, threads: int | None = None, optimize: bool = True) -> None:
        """Plans the pieces; nothing runs yet.

        Args:
            model: What to run. Nodes and weights are read from its proto whenever a step needs them.
            batches: Inputs by name, one mapping a batch; gone through once a step, in the same order each time.
            stages: Names of values of the main graph, in topological order of the stages.
            memory: Bytes of kept arrays from which on the largest values go to files.
            threads: Threads for one operator; None leaves that to onnxruntime.
            optimize: Whether onnxruntime may rewrite a piece; rounding differs, and so does a lot the time.

        Raises:
            CannotCut: A stage names a constant, something unknown or no tensor, or a piece would have to end at
                something that is no tensor and cannot be made again.
            TypeError: The batches can be gone through only once.
        """
        if iter(batches) is batches:
            raise TypeError("batches must be iterable more than once")
        self._model = model
        self._batches = batches
        self._stages = [list(dict.fromkeys(stage)) for stage in stages]
        self._memory, self._threads, self._optimize = memory, threads, optimize
        self._route = _Route(model.proto, self._stages, set(next(iter(batches), {})))
        self.pieces = self._route.pieces
        self._at = 0
        self._count: int | None = None
        self._kept: dict[str, Stored] = {}
        self._alive: weakref.WeakSet[_Hashed] = weakref.WeakSet()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of everything kept and removes the files; arrays that were handed out stay valid."""
        self._kept.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def step(self) -> dict[str, Stored]:
        """Runs what the next stage needs and has not run yet.

        Returns:
            The values that the stage names.

        Raises:
            RuntimeError: There is no stage left, or the batches are other ones than before.
            Exception: Whatever onnxruntime raises for a model or inputs that it does not take.
        """
        if self._at == len(self._stages):
            raise RuntimeError("no stage is left")
        stage, wanted = self._at, self._stages[self._at]
        makes = self._route.leaves[stage]
        self._kept |= {name: Stored() for name in makes}
        for name in makes:
            self._alive.add(_Hashed(self._kept[name]))
        return {}
