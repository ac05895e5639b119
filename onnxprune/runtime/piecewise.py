"""Runs of models that are larger than memory should be: cut into pieces, each loaded when it is its turn."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxprune.model.inputs import fed_inputs
from onnxprune.model.model import Model, load
from onnxprune.model.tensors import is_external, payload_bytes, tensors
from onnxprune.model.topology import read_names, topological_order
from onnxprune.runtime.partition import CannotCut, Piece, assemble, partition
from onnxprune.runtime.session import Feeds, Runnable, Source, runnable

LARGE = 10**9
"""Bytes of weights in data files from which a model is run piece by piece."""
PIECE = 2**28
"""Bytes of weights of a piece, unless one node reads more."""


class Pieces:
    """A model that runs piece by piece in onnxruntime's process, with the weights of one piece in memory.

    Graphs are not optimized and weights not packed, since both would copy them.

    Attributes:
        payload: The path of its file; empty for a model in memory.
        outputs: Names of the outputs.
    """

    def __init__(self, model: Model, path: str = "") -> None:
        """Cuts the graph; nothing is run yet.

        Args:
            model: The model.
            path: The file that it came from, if it was not changed since.

        Raises:
            CannotCut: See `partition`.
        """
        self.payload: bytes | str = path
        self.outputs = [output.name for output in model.proto.graph.output]
        self._model, self._threads = model, 1
        fed = [value.name for value in fed_inputs(model.proto.graph)]
        self._pieces = partition(model.proto, stages(model.proto, PIECE), fed)

    def session(self, *, threads: int = 1) -> Pieces:
        """The model itself, to be run with a number of threads per operator; see `session.Runnable.session`."""
        self._threads = threads
        return self

    def run(self, names: Sequence[str], feeds: Feeds) -> list[Any]:
        """Returns the outputs of these names for one batch of inputs.

        Raises:
            RunError: onnxruntime rejects a piece or the inputs, crashes, or exceeds a limit.
        """
        values: dict[str, Any] = dict(feeds)
        for piece in self._pieces:
            if piece.outputs:
                values |= self._made(piece, values)
            for name in piece.released:
                if name not in names:
                    values.pop(name, None)
        return [values[name] for name in names]

    def _made(self, piece: Piece, values: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """The outputs of one piece."""
        given = {value.name for value in self._model.proto.graph.input}
        types = {name: _type_of(name, values[name]) for name in piece.inputs if name not in given}
        part = self._model.part(assemble(self._model.proto, piece, types))
        with runnable(part) as ready:
            one = ready.session(optimize=False, threads=self._threads, prepack=False)
            made = one.run(piece.outputs, {name: values[name] for name in one.inputs if name in values})
        return dict(zip(piece.outputs, made, strict=True))


@contextmanager
def runnable_pair(original: Source, result: Source) -> Iterator[tuple[Runnable | Pieces, Runnable | Pieces]]:
    """Prepares two models for runs on the same inputs: both piece by piece if the first is large and both can be cut.

    Raises:
        InputError: A model cannot be read.
    """
    pair = _pair_of_pieces(original, result)
    if pair is not None:
        yield pair
        return
    with runnable(original) as first, runnable(result) as second:
        yield first, second


def _pair_of_pieces(original: Source, result: Source) -> tuple[Pieces, Pieces] | None:
    if not is_large(original):
        return None
    try:
        return _pieces_of(original), _pieces_of(result)
    except CannotCut:
        return None


def is_large(source: Source) -> bool:
    """Whether a model is run piece by piece to verify it."""
    if isinstance(source, onnx.ModelProto):
        return False
    proto = source.proto if isinstance(source, Model) else load(source).proto
    return sum(payload_bytes(tensor) for tensor in tensors(proto) if is_external(tensor)) >= LARGE


def _pieces_of(source: Source) -> Pieces:
    if isinstance(source, Model):
        return Pieces(source)
    return Pieces(load(source), "" if isinstance(source, onnx.ModelProto) else os.fspath(source))


def stages(proto: onnx.ModelProto, size: int) -> list[list[str]]:
    """Values to cut a graph at, so that each piece reads weights of about this size in bytes; see `partition`."""
    sizes = {tensor.name: payload_bytes(tensor) for tensor in proto.graph.initializer}
    piece_of: dict[str, int] = {}
    last_read = {output.name: len(proto.graph.node) for output in proto.graph.output}
    at, read = 0, set[str]()
    for node in topological_order(proto.graph):
        names = set(read_names(node))
        if read and sum(sizes.get(name, 0) for name in read | names) > size:
            at, read = at + 1, set()
        read |= names & sizes.keys()
        piece_of |= {name: at for name in node.output if name}
        last_read |= {name: max(at, last_read.get(name, 0)) for name in names}
    found: list[list[str]] = [[] for _ in range(at + 1)]
    for name, piece in piece_of.items():
        if last_read.get(name, -1) > piece:
            found[piece].append(name)
    found[-1] += [output.name for output in proto.graph.output if output.name not in piece_of]
    return [stage for stage in found if stage]


def _type_of(name: str, array: NDArray[Any]) -> onnx.ValueInfoProto:
    kind = TensorProto.STRING if array.dtype.kind in "OUS" else helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, array.shape)  # some operators are inferred wrongly without
