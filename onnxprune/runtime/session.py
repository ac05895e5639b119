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

from onnxprune.model.external_data import relocate
from onnxprune.model.model import Model, fits_in_message, write_external_data
from onnxprune.model.tensors import is_external, tensors
from onnxprune.runtime.process import LocalSession, Session

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
            proto, _ = write_external_data(model, stream)
        relocate(proto, "model.data")
        path = os.path.join(folder, "model.onnx")
        Path(path).write_bytes(proto.SerializeToString())
        yield Runnable(path)


def brief(error: Exception) -> str:
    """The first line of a message, shortened."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= 300 else text[:297] + "..."
