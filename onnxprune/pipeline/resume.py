"""Runs that go on where an earlier one with the same input, options and seed was ended."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime

from onnxprune import __version__
from onnxprune.common.checkpoint import Checkpoints, keeping
from onnxprune.engines.profiles import is_timer
from onnxprune.errors import InputError, option
from onnxprune.options import LATENCY, Options, checks
from onnxprune.pipeline.checksums import checksum, data_checksums, has_objects, model_checksum
from onnxprune.pipeline.original import Original

ONLY_LIMITS = ("run_seconds", "run_memory", "time_limit")
"""Options that end a run and change nothing of its result."""


def resumable(
    work: str | os.PathLike[str] | None, original: Original, options: Options
) -> contextlib.AbstractContextManager[None]:
    """Keeps the steps of a run in a folder, see `keeping_steps`."""

    def depends() -> dict[str, str]:
        asked = {name: value for name, value in options.to_dict().items() if name not in ONLY_LIMITS}
        return {
            "model": model_checksum(original.source),
            "calibration data": checksum(data_checksums(asked)),
            "options": checksum(asked),
        }

    return keeping_steps(work, depends, _why_not(options))


@contextlib.contextmanager
def keeping_steps(
    work: str | os.PathLike[str] | None, depends: Callable[[], dict[str, str]], why_not: str | None
) -> Iterator[None]:
    """Keeps the steps of a run in a folder, and takes those that are there already.

    Args:
        work: The folder; None to keep none.
        depends: Makes checksums of what the run depends on besides versions, by what that is.
        why_not: Why such a run does not take the same steps each time; None where it does.

    Raises:
        InputError: The folder is of another run, or there is a reason why not.
        OutputError: The folder cannot be written to.
    """
    if work is None:
        yield
        return
    folder = Path(checks.path("work", work))
    if why_not is not None:
        raise InputError(f"{option('work')} is for runs that take the same steps each time, and {why_not}", NO_WORK)
    version = f"onnxprune {__version__}, numpy {np.__version__}, onnxruntime {onnxruntime.__version__}"
    with keeping(Checkpoints(folder, {**depends(), "version": version})):
        yield


NO_WORK = f"leave {option('work')} away"


OBJECTS = "arrays or functions of the caller may be others then: files can be told apart"


def ends_elsewhere() -> str:
    """Why a training that ends by the clock keeps no steps."""
    return f"{option('minutes')} ends the training at another epoch"


def _why_not(options: Options) -> str | None:
    channels = options.channels
    if has_objects(options.to_dict()):
        return OBJECTS
    if options.repair.minutes is not None:
        return ends_elsewhere()
    if options.calibration.stats is not None:
        return f"{option('stats')} names statistics that may be others then"
    if channels is not None and LATENCY in channels.limits and (channels.times is None or is_timer(channels.engine)):
        return f"measured times differ: {option('times')} gives some that stay"
    return None
