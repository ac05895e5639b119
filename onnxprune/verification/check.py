"""Verification of a pruned model: onnx's checker, a run in onnxruntime, and how far the outputs moved.

The original is the reference: what it fails (the checker, loading, a run on guessed inputs) is not asked of the result.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from onnxprune.common.text import first_of
from onnxprune.errors import InputError, RunError, VerificationError, Words, option
from onnxprune.graph.operators import operator_of
from onnxprune.model.inputs import fed_inputs
from onnxprune.model.model import Model, load
from onnxprune.model.tensors import all_nodes
from onnxprune.runtime.axis_lengths import SIZES
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.runtime.piecewise import Pieces, is_large, runnable_pair
from onnxprune.runtime.process import Session
from onnxprune.runtime.sample_inputs import candidate_sizes, input_dims, sample_inputs
from onnxprune.runtime.session import Feeds, Runnable, Source, runnable
from onnxprune.runtime.worker import is_out_of_memory
from onnxprune.verification.as_array import as_array
from onnxprune.verification.checker import checker_error
from onnxprune.verification.drift import Drift, drift
from onnxprune.verification.latency import Latency, latency

logger = logging.getLogger(__name__)

NAMED = 3
"""Inputs and outputs that an error names at most."""


@dataclass(frozen=True)
class Verification:
    """What a check found.

    Attributes:
        verified: Whether both models ran on the same inputs.
        reason: Why they did not; None when verified.
        drift: How far each output moved, by name.
        feeds: The inputs they ran on.
    """

    verified: bool
    reason: str | None
    drift: dict[str, Drift] = field(default_factory=dict)
    feeds: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Two models side by side.

    Attributes:
        drift: How far each output of the second is from the first's, by name.
        latency: Times of both.
    """

    drift: dict[str, Drift]
    latency: Latency


def check(
    original: Source,
    result: Source,
    feeds: Feeds | None = None,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    threads: int = 1,
    io_slices: IoSlices = WHOLE,
) -> Verification:
    """Holds a pruned model against its original: valid, same interface, runs, and how far the outputs moved.

    Args:
        original: The model before pruning; a path is run from its file.
        result: The model after pruning, in memory or as a path.
        feeds: Inputs by name; None makes some, in a few sizes until the original takes them.
        input_shapes: Shapes for synthetic inputs, see `sample_inputs.input_dims`.
        seed: Seed of synthetic inputs.
        threads: Threads for one operator.
        io_slices: What inputs and outputs of the result lost; nothing by default.

    Returns:
        `verified` is False, with the reason, where the original itself cannot be run, or where the run of either model
        exceeds a limit of time or memory, or crashes onnxruntime.

    Raises:
        VerificationError: The result is invalid, has another interface, or is refused by onnxruntime, while the
            original is not.
        InputError: The given shapes do not fit the model.
    """
    before = _proto(original)
    if input_shapes:
        input_dims(before, input_shapes)  # a shape that does not fit is the caller's to know
    _same_interface(before, _proto(result), io_slices)
    with runnable_pair(original, result) as (first, second):
        fault = checker_error(second, result)
        if fault and not checker_error(first, original):
            raise VerificationError(f"the pruned model is not valid ONNX: {fault}")
        tries = [dict(feeds)] if feeds is not None else _feeds_to_try(before, input_shapes, seed)
        outcome = _run_first(first, tries, threads)
        if isinstance(outcome, str):
            return _unverified(outcome)
        used, names, expected = outcome
        names, expected = io_slices.left(names), io_slices.arrays(names, expected)
        try:
            actual = second.session(threads=threads).run(names, io_slices.feeds(used))
        except RunError as error:
            if not (error.fatal or is_out_of_memory(error.message)):
                raise VerificationError(f"the pruned model does not run in onnxruntime: {error}") from error
            return _unverified(f"the run of the pruned model did not end: {error}")
    _same_shapes(before, names, expected, actual)
    moved = {name: drift(a, b) for name, a, b in zip(names, expected, actual, strict=True)}
    logger.info("verified on %s", {name: list(array.shape) for name, array in used.items()})
    return Verification(verified=True, reason=None, drift=moved, feeds=used)


def _unverified(reason: str) -> Verification:
    logger.warning("not verified: %s", reason)
    return Verification(verified=False, reason=reason)


def compare(
    before: Source,
    after: Source,
    *,
    feeds: Feeds | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    runs: int = 20,
    threads: int = 0,
    io_slices: IoSlices = WHOLE,
) -> Comparison:
    """Drift and latency between two models of one interface.

    Runs of both are interleaved, so that a machine that gets slower meanwhile slows both.

    Args:
        before: The first model.
        after: The second model.
        feeds: Inputs by name; None makes some.
        input_shapes: Shapes for synthetic inputs.
        runs: Timed runs of each model.
        threads: Threads for one operator; 0 leaves that to onnxruntime.
        io_slices: What inputs and outputs of the second model lost.

    Raises:
        InputError: One of the models cannot be run on these inputs.
    """
    proto = _proto(before)
    tries = [dict(feeds)] if feeds is not None else _feeds_to_try(proto, input_shapes, 0, batch=1)
    with runnable(before) as first, runnable(after) as second:
        outcome = _run_first(first, tries, threads)
        if isinstance(outcome, str):
            raise InputError(f"the first model cannot be run: {outcome}", hint="give inputs or input shapes")
        used, names, expected = outcome
        names, expected = io_slices.left(names), io_slices.arrays(names, expected)
        try:
            old, new = (one.session(threads=threads, arena=True) for one in (first, second))
            _has_all(new, [*io_slices.feeds(used), *names])
            actual = new.run(names, io_slices.feeds(used))
            times = latency(old, new, names, [used, io_slices.feeds(used)], threads=threads, runs=runs)
        except RunError as error:
            raise InputError(f"the second model cannot be run: {error}") from error
    moved = {name: drift(a, b) for name, a, b in zip(names, expected, actual, strict=True)}
    return Comparison(moved, times)


def _has_all(other: Session, names: Sequence[str]) -> None:
    """Raises where a model lacks inputs or outputs of the one that it is compared with."""
    lost = [name for name in names if name not in {*other.inputs, *other.outputs}]
    if lost:
        raise InputError(
            f"the second model has no input or output {first_of(lost, NAMED, repr)}",
            f"{option('plan', ...)} says what went, where it was pruned from the first",
        )


def time_models(
    before: Source,
    after: Source,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    io_slices: IoSlices = WHOLE,
) -> Latency | str:
    """Latency of a model and its pruned version with one thread, on synthetic inputs; a text says why there is none."""
    if is_large(before):
        return "both models would have to be in memory"
    tries = _feeds_to_try(_proto(before), input_shapes, 0, batch=1)
    with runnable(before) as first, runnable(after) as second:
        outcome = _run_first(first, tries, threads=1)
        if isinstance(outcome, str):
            return outcome
        used, names, _ = outcome
        try:
            old, new = (one.session(threads=1, arena=True) for one in (first, second))
            return latency(old, new, io_slices.left(names), [used, io_slices.feeds(used)], threads=1)
        except RunError as error:
            return error.message


def working_feeds(
    source: Source, input_shapes: Mapping[str, Sequence[int]] | None = None, batch: int = 1
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Synthetic inputs that a model takes, of a batch size where that is free, and the names of its outputs.

    Raises:
        InputError: It takes none.
    """
    with runnable(source) as ready:
        outcome = _run_first(ready, _feeds_to_try(_proto(source), input_shapes, 0, batch=batch), threads=1)
    if isinstance(outcome, str):
        raise InputError(outcome)
    return outcome[:2]


def _proto(source: Source) -> onnx.ModelProto:
    if isinstance(source, onnx.ModelProto):
        return source
    return source.proto if isinstance(source, Model) else load(source).proto


def _same_interface(before: onnx.ModelProto, after: onnx.ModelProto, io_slices: IoSlices) -> None:
    """Raises where names, types or ranks of inputs or outputs differ, but for those that went."""
    for what, old, new in (
        ("inputs", fed_inputs(before.graph), fed_inputs(after.graph)),
        ("outputs", list(before.graph.output), list(after.graph.output)),
    ):
        old = [value for value in old if value.name not in io_slices.gone]
        if [v.name for v in old] != [v.name for v in new]:
            raise VerificationError(f"the {what} changed: {[v.name for v in old]} became {[v.name for v in new]}")
        for a, b in zip(old, new, strict=True):
            x, y = a.type.tensor_type, b.type.tensor_type
            ranked = x.HasField("shape") and y.HasField("shape")
            if x.elem_type != y.elem_type or (ranked and len(x.shape.dim) != len(y.shape.dim)):
                raise VerificationError(f"the {what} changed: '{a.name}' has another type or rank")


def _feeds_to_try(
    proto: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]] | None, seed: int, batch: int = 2
) -> Iterator[dict[str, np.ndarray]]:
    """Synthetic inputs in one size after another, each set of shapes once.

    A free batch axis is tried with 2 first: a model that became fixed to 1 would not be noticed otherwise.
    """
    for sizes in candidate_sizes(proto, input_shapes, (replace(SIZES[0], batch=batch), *SIZES)):
        yield sample_inputs(proto, seed=seed, input_shapes=input_shapes, sizes=sizes)


def _run_first(
    ready: Runnable | Pieces, tries: Iterable[dict[str, np.ndarray]], threads: int
) -> tuple[dict[str, np.ndarray], list[str], list[Any]] | str:
    """Runs the original on the first inputs that it takes; else what was against it."""
    try:
        one = ready.session(threads=threads)
    except RunError as error:
        return f"onnxruntime does not load the original: {error}"
    problem = ""
    try:
        for feeds in tries:
            try:
                return feeds, one.outputs, one.run(one.outputs, feeds)
            except RunError as error:
                logger.debug("inputs that the original does not take: %s", error)
                problem = problem or error.message
                if error.fatal:
                    break
    except InputError as error:
        return f"inputs cannot be made: {error}"
    shapes = option("input_shapes")
    return Words(f"onnxruntime does not run the original ({shapes} gives it inputs of other sizes): {problem}")


def _same_shapes(proto: onnx.ModelProto, names: list[str], expected: list[Any], actual: list[Any]) -> None:
    """Raises where an output got another shape, unless shapes depend on values in this model."""
    if any(operator_of(n).shape_from_values for n in all_nodes(proto.graph)):
        return
    for name, a, b in zip(names, expected, actual, strict=True):
        if (before := as_array(a).shape) != (after := as_array(b).shape):
            raise VerificationError(f"output '{name}' had shape {before} and now has {after}")
