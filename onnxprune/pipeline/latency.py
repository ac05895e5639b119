"""Times of a model at many widths: read from a file, or measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.common.progress import step
from onnxprune.coupling.groups import Group
from onnxprune.engines.profiles import DEFAULT, Timer, is_timer, timed_here
from onnxprune.engines.times import Times
from onnxprune.errors import InputError, RunError, option
from onnxprune.options import Channels
from onnxprune.pipeline.analysis import Analysis, reanalyze
from onnxprune.planning.fingerprint import fingerprint
from onnxprune.runtime.worker import CPU
from onnxprune.timing.engines import Engine, External, OnnxRuntime, timer
from onnxprune.timing.measure import COPIES, measure_times
from onnxprune.verification.check import working_feeds


@dataclass(frozen=True)
class Timed:
    """The times of a model, and what they can be checked with.

    Attributes:
        times: The times.
        engine: Times pruned models; None where the times come from elsewhere and nothing here can check them.
    """

    times: Times
    engine: Engine | None


def timed(
    analysis: Analysis, groups: Sequence[Group], channels: Channels, shapes: Mapping[str, Sequence[int]]
) -> Timed:
    """Reads the times that the options name, or measures the model: in onnxruntime on one thread, or as `engine` says.

    Args:
        analysis: The analysis of the model.
        groups: The groups that may shrink.
        channels: The options.
        shapes: Shapes of graph inputs.

    Raises:
        InputError: The times are unreadable or of another model, or the model does not run.
    """
    read = None if channels.times is None else read_times(channels.times, analysis, shapes)
    if read is not None and not is_timer(channels.engine):
        return Timed(read, None)
    try:
        used = ready_engine(analysis, shapes, timed_here(channels.engine))
        if read is not None:
            return Timed(read, used.engine)
        return Timed(measure(analysis, groups, used.engine, used.shapes, copies=COPIES), used.engine)
    except RunError as error:
        raise InputError(f"the model cannot be timed: {error.message}", error.hint) from error


@dataclass(frozen=True)
class ReadyEngine:
    """An engine that has loaded a model, and the shapes of the inputs that it feeds."""

    engine: Engine
    shapes: Mapping[str, Sequence[int]]


def ready_engine(
    analysis: Analysis,
    shapes: Mapping[str, Sequence[int]],
    engine: Timer = DEFAULT,
    *,
    providers: Sequence[Any] = (CPU,),
    threads: int = 1,
    batch: int = 1,
) -> ReadyEngine:
    """The engine that times copies of a model: what is given a model file, else onnxruntime; see `stages.measure`.

    Raises:
        InputError: The model does not run on synthetic inputs, or takes no such batch.
        RunError: The engine does not take the model.
    """
    model = analysis.model.copy()
    feeds, names = working_feeds(model, shapes or None, batch)
    if batch > 1 and not any(a.shape[:1] == (batch,) for a in feeds.values()):
        raise InputError(f"the model takes no batch of {batch}", f"{option('input_shapes')} gives its inputs a size")
    fed = {name: a.shape for name, a in feeds.items()}
    if is_timer(engine):
        return ReadyEngine(External(model, *timer(engine)), fed)
    return ReadyEngine(OnnxRuntime(model, feeds, names, threads=threads, providers=providers), fed)


def read_times(
    source: Times | str | os.PathLike[str], analysis: Analysis, shapes: Mapping[str, Sequence[int]] | None = None
) -> Times:
    """Reads times, and checks that they are those of a model, and of inputs of these shapes.

    Raises:
        InputError: The file is unreadable, or the times are of another model or of other inputs.
    """
    if isinstance(source, Times):
        times = source
    else:
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise InputError(f"times {os.fspath(source)!r} cannot be read: {reason}") from None
        times = Times.from_json(text)
    if times.model != fingerprint(analysis.model.proto):
        raise InputError("the times were measured for another model", "they fit checkpoints of one architecture only")
    for name, shape in (shapes or {}).items():
        measured = times.input_shapes.get(name, shape)
        if list(measured) != list(shape):
            raise InputError(
                f"the times were measured with {name} of shape {'x'.join(map(str, measured))}, not of the asked "
                f"{'x'.join(map(str, shape))}",
                f"measure again with {option('input_shapes')}",
            )
    return times


def measure(
    analysis: Analysis,
    groups: Sequence[Group],
    engine: Engine,
    shapes: Mapping[str, Sequence[int]],
    *,
    copies: int = COPIES,
    before: Times | None = None,
    measured: Callable[[Times], None] = lambda times: None,
) -> Times:
    """Measures the times of an analysed model at many widths; see `timing.measure`."""

    def found(times: Times) -> None:
        step(f"copy {len(times.rows)} of {copies + 1}", len(times.rows), copies + 1)
        measured(times)

    return measure_times(
        analysis.model,
        analysis.coupling,
        groups,
        lambda copy: reanalyze(analysis, copy).coupling,
        engine,
        input_shapes=shapes,
        copies=copies,
        before=before,
        measured=found,
    )
