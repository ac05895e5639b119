"""Creation of onnxruntime sessions from a model in any form: path, ModelProto, or Model with external data."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.model.external_data import relocate
from onnxprune.model.model import Model
from onnxprune.model.save import fits_in_message, write_external_data
from onnxprune.model.tensors import is_external, tensors
from onnxprune.runtime.local_session import LocalSession
from onnxprune.runtime.process import Session, request
from onnxprune.runtime.worker import CPU, first_line

Source = Model | onnx.ModelProto | str | os.PathLike[str]
"""A model in memory, or the path of one."""
Feeds = Mapping[str, np.ndarray]
"""Arrays by input name."""


def local_session(source: Model, *, optimize: bool = True, threads: int = 1, arena: bool = False) -> LocalSession:
    """Loads a piece of a model in this process; the whole model must have run in the worker before (see `session`)."""
    with runnable(source) as ready:
        folder = ready.data_folder
        return LocalSession(ready.payload, optimize=optimize, threads=threads, data_folder=folder, arena=arena)


def session(source: Source, *, optimize: bool = True, threads: int = 1) -> Session:
    """Loads a model in onnxruntime, on the CPU, in the worker process.

    Args:
        source: A model, or the path of one; a `Model` is run with its current values.
        optimize: Whether onnxruntime may optimize the graph.
        threads: Threads per operator; floating-point sums depend on their number. 0 for onnxruntime's default.

    Raises:
        RunError: onnxruntime rejects the model, crashes, or exceeds a limit.
    """
    with runnable(source) as ready:
        return ready.session(optimize=optimize, threads=threads)


@dataclass(frozen=True)
class Runnable:
    """A model in a form that onnxruntime and onnx's checker accept: serialized bytes, or the path of a file.

    Attributes:
        payload: The serialized model, or the path of its file.
        data_folder: Folder of the external data files of a serialized model, if it has any.
    """

    payload: bytes | str
    data_folder: str | None = None

    def session(
        self,
        *,
        optimize: bool = True,
        threads: int = 1,
        arena: bool = False,
        providers: Sequence[Any] = (CPU,),
        prepack: bool = True,
    ) -> Session:
        """Loads the model in the worker process; see `process.Session`."""
        return Session(
            self.payload,
            optimize=optimize,
            threads=threads,
            data_folder=self.data_folder,
            arena=arena,
            providers=providers,
            prepack=prepack,
        )

    def profile(
        self, names: Sequence[str], feeds: Feeds, *, threads: int, runs: int, seconds: float
    ) -> list[tuple[str, float]]:
        """Times the kernels of the model; see `worker.profile`."""
        path = os.path.abspath(self.payload) if isinstance(self.payload, str) else self.payload
        arguments = threads, self.data_folder, list(names), dict(feeds), runs, seconds
        found: list[tuple[str, float]] = request("profile", path, *arguments)
        return found


@contextlib.contextmanager
def runnable(source: Source) -> Iterator[Runnable]:
    """Prepares a model for onnxruntime; writes temporary files only if the weights exceed protobuf's limit."""
    if isinstance(source, (str, os.PathLike)):
        yield Runnable(os.fspath(source))
        return
    model = Model(source) if isinstance(source, onnx.ModelProto) else source
    external = any(is_external(t) for t in tensors(model.proto))
    if fits_in_message(model.proto) and not model.defers:
        folder = str(model.path.parent.resolve()) if external and model.path else None
        yield Runnable(model.proto.SerializeToString(), folder)
        return
    with tempfile.TemporaryDirectory(prefix="onnxprune-", ignore_cleanup_errors=True) as folder:
        with open(os.path.join(folder, "model.data"), "wb") as stream:
            proto, _ = write_external_data(model, lambda: stream)
        relocate(proto, ["model.data"])
        path = os.path.join(folder, "model.onnx")
        Path(path).write_bytes(proto.SerializeToString())
        yield Runnable(path)


def error_line(error: Exception) -> str:
    """Returns the first line of an error's message, of at most 300 characters."""
    text = first_line(error)
    return text if len(text) <= 300 else text[:297] + "..."
