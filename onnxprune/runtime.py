"""Models in onnxruntime and in front of onnx's checker, whatever form they are in: path, proto, or partly on disk."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from onnxprune.cost import is_heavy
from onnxprune.external import refer, relocate
from onnxprune.isolation import LocalSession, Session
from onnxprune.model import EXTERNAL_FROM, Model, fits_in_message, write_data
from onnxprune.tensors import is_external, make_dense, payload_bytes, skeleton, tensors

Source = Model | onnx.ModelProto | str | os.PathLike[str]
"""A model in memory, or the path of one."""
Feeds = Mapping[str, np.ndarray]
"""Arrays by input name."""


def pieces_session(source: Model, *, optimize: bool = True, threads: int = 1) -> LocalSession:
    """A piece of a model that ran as a whole, loaded in this process; see `session`."""
    with runnable(source) as ready:
        return LocalSession(ready.payload, optimize=optimize, threads=threads, data_folder=ready.data_folder)


def session(source: Source, *, optimize: bool = True, threads: int = 1) -> Session:
    """A model loaded in onnxruntime, on the CPU, in a process of its own.

    Args:
        source: A model, or the path of one; a Model runs as it is in memory.
        optimize: Whether onnxruntime may rewrite the graph.
        threads: Threads for one operator; sums depend on how many there are. 0 leaves that to onnxruntime.

    Raises:
        RunError: onnxruntime does not take the model, crashes on it, or goes beyond a limit.
    """
    with runnable(source) as ready:
        return ready.session(optimize=optimize, threads=threads)


@dataclass(frozen=True)
class Runnable:
    """What onnxruntime and the checker can be given: serialized bytes, or the path of a file."""

    payload: bytes | str
    data_folder: str | None = None

    def session(self, *, optimize: bool = True, threads: int = 1, arena: bool = False) -> Session:
        """See `isolation.Session`."""
        return Session(self.payload, optimize=optimize, threads=threads, data_folder=self.data_folder, arena=arena)


@contextlib.contextmanager
def runnable(source: Source) -> Iterator[Runnable]:
    """Makes a model runnable without writing its weights anywhere, if that can be."""
    if isinstance(source, (str, os.PathLike)):
        yield Runnable(os.fspath(source))
        return
    model = Model(source) if isinstance(source, onnx.ModelProto) else source
    external = any(is_external(t) for t in tensors(model.proto))
    if fits_in_message(model.proto):
        folder = str(model.path.parent.resolve()) if external and model.path else None
        yield Runnable(model.proto.SerializeToString(), folder)
        return
    with tempfile.TemporaryDirectory(prefix="onnxprune-", ignore_cleanup_errors=True) as folder:
        with open(os.path.join(folder, "model.data"), "wb") as stream:
            proto, _ = write_data(model, stream)
        relocate(proto, "model.data")
        path = os.path.join(folder, "model.onnx")
        Path(path).write_bytes(proto.SerializeToString())
        yield Runnable(path)


def traced_shapes(model: Model, feeds: Feeds) -> dict[str, tuple[int, ...]]:
    """Shapes of the values that convolutions and matrix products read and write, as one run shows them.

    For `cost.macs_from_shapes`, where static inference leaves something open.

    Raises:
        RunError: onnxruntime does not take the model or the inputs.
    """
    graph = model.proto.graph
    constant = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    wanted = {v for n in graph.node if is_heavy(n) for v in (*n.input, *n.output) if v and v not in constant}
    extra = sorted(wanted - {v.name for v in (*graph.input, *graph.output)})
    # Serialized messages merge when they are concatenated: these outputs join those that the graph has.
    more = onnx.ModelProto(graph=onnx.GraphProto(output=[onnx.ValueInfoProto(name=v) for v in extra]))
    with runnable(model) as ready:
        if isinstance(ready.payload, str):  # a file of our own, in a folder of its own
            path = Path(ready.payload).with_name("traced.onnx")
            path.write_bytes(Path(ready.payload).read_bytes() + more.SerializeToString())
            one = Runnable(str(path)).session(optimize=False)
        else:
            content = ready.payload + more.SerializeToString()
            one = Runnable(content, ready.data_folder).session(optimize=False)
    found = {name: np.shape(a) for name, a in zip(one.outputs, one.run(None, feeds), strict=True)}
    return found | {name: np.shape(a) for name, a in feeds.items()}


def complaint(ready: Runnable, source: Source) -> str:
    """What onnx's checker says against a model, "" if nothing."""
    try:
        if isinstance(source, Model):  # without the weights' values, which the checker never reads but would copy
            with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
                onnx.checker.check_model(_hollow(source.proto, folder), full_check=True)
        else:
            onnx.checker.check_model(ready.payload, full_check=True)
    except Exception as error:  # the checker raises several kinds, and RuntimeError for what it does not foresee
        return brief(error)
    return ""


def _hollow(proto: onnx.ModelProto, folder: str) -> str:
    """Writes a model whose data file has the right size but takes no space: the checker never reads values."""
    slim, end = skeleton(proto, EXTERNAL_FROM), 0
    make_dense(slim)
    for tensor in tensors(slim):
        if is_external(tensor):
            refer(tensor, "model.data", end, payload_bytes(tensor))
            end += payload_bytes(tensor)
    with open(os.path.join(folder, "model.data"), "wb") as stream:
        stream.truncate(end)
    path = os.path.join(folder, "model.onnx")
    Path(path).write_bytes(slim.SerializeToString())
    return path


def brief(error: Exception) -> str:
    """The first line of a message, shortened."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= 300 else text[:297] + "..."
