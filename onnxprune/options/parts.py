"""The options of a run by concern: each stage takes those that it reads."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxprune.errors import GIVE_DATA, InputError, option
from onnxprune.extensions import patterns, points
from onnxprune.extensions.metrics import Metric, MetricFunction, as_metric
from onnxprune.extensions.patterns import Pattern
from onnxprune.extensions.registry import one_of
from onnxprune.options import checks
from onnxprune.options.checks import set_fields

ATTENTION = ("heads", "dims")
GATES = {"drift": (0.0, math.inf), "cosine": (-1.0, 1.0), "agreement": (0.0, 1.0)}
"""Kinds of gates with the range of their limits."""
SAMPLES = 1024
"""Default number of calibration samples: more hardly make a better model, and all take longer."""
FURTHEST = 0.95
"""Default upper bound of the ratio in a search."""


@dataclass(frozen=True)
class Zeros:
    """Weights set to zero in a pattern.

    Attributes:
        pattern: The pattern, or its text: ``"2:4"``, ``"weights=0.7"``, ``"4x1=0.5"``.
        solver: Criterion that chooses the zeros; None for the default.
        global_ranking: Whether the elements or blocks of all weights are ranked together; None for the default: where
            calibration data choose and a refit follows.
        permute: Whether channels are reordered first, so that an N:M pattern keeps more.

    Raises:
        InputError: A value is of the wrong kind or unknown, or the pattern does not say how much.
    """

    pattern: Pattern | str
    solver: str | None = None
    global_ranking: bool | None = None
    permute: bool = False

    def __post_init__(self) -> None:
        set_fields(self, pattern=patterns.complete(self.pattern))
        set_fields(self, permute=checks.flag("permute", self.permute))
        if self.global_ranking is not None:
            set_fields(self, global_ranking=checks.flag("global_ranking", self.global_ranking))
        if self.permute and self.shape.kept is None:
            raise InputError(NO_PERMUTE, f"give {option('pattern', '2:4')}, say")
        if self.solver is not None and not points.as_criterion(self.solver).zeros:
            raise InputError(f"importance {self.solver!r} ranks channels, not zeros", f"{', '.join(choosers())} do")

    @property
    def shape(self) -> Pattern:
        """The pattern, read."""
        assert isinstance(self.pattern, Pattern)
        return self.pattern


NO_DEPTH = f"leave {option('depth')} away"
NO_PERMUTE = "permute orders channels for an N:M pattern, and none is asked for"


def choosers() -> list[str]:
    """Names of the criteria that choose zeros."""
    return [name for name in points.criteria.names() if points.criteria.get(name).zeros]


@dataclass(frozen=True)
class Scope:
    """Which parts of a model are open to pruning.

    Attributes:
        only: Regular expressions; only groups with a matching initializer or node are pruned.
        ignore: Regular expressions; groups with a matching initializer or node are left whole.
        mixing: Whether groups of grade *mixing* are pruned too.
        attention: ``heads`` removes whole heads of attention, ``dims`` dimensions within heads.
        shrink: Regular expressions; matching graph inputs and outputs may lose slices, or go with a block.

    Raises:
        InputError: A value is of the wrong kind or unknown.
    """

    only: Sequence[str] = ()
    ignore: Sequence[str] = ()
    mixing: bool = False
    attention: str = "heads"
    shrink: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("only", "ignore", "shrink"):
            set_fields(self, **{name: checks.expressions(name, getattr(self, name))})
        set_fields(self, mixing=checks.flag("mixing", self.mixing))
        one_of("attention", self.attention, ATTENTION)


@dataclass(frozen=True)
class Calibration:
    """Unlabelled inputs that scores and repair learn from.

    Attributes:
        data: The data, see `calibration.open_samples`; None for none.
        samples: Samples to use at most; None for `SAMPLES`, or for a batch of the model where that is larger, besides
            those that a limit on the accuracy is judged by.
        stats: File of statistics of the data: used where it exists, else written.

    Raises:
        InputError: A value is of the wrong kind or out of range, or samples are asked for of no data.
    """

    data: Any = None
    samples: int | None = None
    stats: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.data is not None:
            set_fields(self, data=checks.data(self.data))
        if self.samples is not None:
            set_fields(self, samples=checks.whole("samples", self.samples, 1))
        if self.stats is not None:
            set_fields(self, stats=checks.path("stats", self.stats))
        if self.samples is not None and self.data is None and self.stats is None:
            raise InputError("samples are those of calibration data, and none are given", GIVE_DATA)


@dataclass(frozen=True)
class Checks:
    """Checks of the result.

    Attributes:
        verify: Whether both models are run in onnxruntime and compared.
        input_shapes: Shapes of graph inputs to count MACs at and to run with.
        gate: Limits to how far outputs may be from the original's: ``drift`` (relative RMS, at most), ``cosine`` or
            ``agreement`` (share of equal top-1 choices; both at least), of any output, or ``drift:OUTPUT`` of one.
        keep_anyway: Whether a model that misses a gate may be written.
        search: Whether the smallest model within the gates is looked for.
        time: Whether both models are timed in onnxruntime.
        strict: Whether a model that comes with a warning may not be written.
        metric: What is measured on held-out samples: a name, ``NAME:OUTPUT``, ``module:function`` or a function
            (`metrics.MetricFunction`); None for top1 where there are labels.
        max_drop: How much of the metric may be lost, in its unit (0.01 is a point of top1, or a hundredth of a dB of
            psnr); without labels or a metric, of the accuracy as it is estimated. None for no limit.

    Raises:
        InputError: A value is of the wrong kind, out of range or unknown.
    """

    verify: bool = True
    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    gate: Mapping[str, float] = field(default_factory=dict)
    keep_anyway: bool = False
    search: bool = False
    time: bool = True
    strict: bool = False
    metric: str | MetricFunction | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        for name in ("verify", "keep_anyway", "search", "time", "strict"):
            set_fields(self, **{name: checks.flag(name, getattr(self, name))})
        set_fields(self, input_shapes=checks.shapes("input_shapes", self.input_shapes))
        given = checks.mapping("gate", self.gate, "{'drift': 0.05}")
        for name, limit in given.items():
            low, high = GATES[split_gate(name)[0]]
            given[name] = value = checks.number(f"gate {name}", limit)
            if not low <= value <= high or not math.isfinite(value):
                raise InputError(f"gate {name} must be between {low:g} and {high:g}, not {value:g}")
        set_fields(self, gate=given)
        if self.strict and self.keep_anyway:
            raise InputError(
                "keep_anyway and strict contradict each other: a gate that is missed is a warning", "give one of them"
            )
        if self.metric is not None:
            as_metric(self.metric)
        if self.max_drop is not None:
            set_fields(self, max_drop=checks.number("max_drop", self.max_drop))
            if not (math.isfinite(self.max_drop) and self.max_drop >= 0):
                raise InputError(
                    f"{option('max_drop')} must be at least 0, not {self.max_drop:g}", "0.01 is a point of top1"
                )
        if self.search and not self.gate and self.max_drop is None:
            limits = f"{option('max_drop', 0.01)} or {option('gate', {'drift': 0.05})}"
            raise InputError("a search needs something to stay within", f"{limits}, say")

    @property
    def asked_metric(self) -> Metric | None:
        """The metric; None for the default."""
        return None if self.metric is None else as_metric(self.metric)

    @property
    def limited(self) -> bool:
        """Whether a gate or a limit on the drop of the metric holds."""
        return bool(self.gate) or self.max_drop is not None


def split_gate(name: str) -> tuple[str, str]:
    """Kind of a gate, and its output or "": ``drift:logits`` is ``drift`` of ``logits``."""
    kind, _, output = name.partition(":")
    return one_of("gate", kind, list(GATES)), output


@dataclass(frozen=True)
class Resources:
    """Limits of memory and time.

    Attributes:
        memory: Bytes of activations to hold before they go to files.
        run_seconds: The longest that one load or run of a model in onnxruntime may take.
        run_memory: Bytes that onnxruntime may hold; None for all that there are.
        time_limit: Seconds that the whole run may take until it writes; None for any number.

    Raises:
        InputError: A value is of the wrong kind or out of range.
    """

    memory: int = 10**9
    run_seconds: float = 600.0
    run_memory: int | None = None
    time_limit: float | None = None

    def __post_init__(self) -> None:
        set_fields(self, memory=checks.whole("memory", self.memory, 1))
        set_fields(self, run_seconds=checks.positive("run_seconds", self.run_seconds))
        if self.time_limit is not None:
            set_fields(self, time_limit=checks.positive("time_limit", self.time_limit))
        if self.run_memory is not None:
            set_fields(self, run_memory=checks.whole("run_memory", self.run_memory, 1))
