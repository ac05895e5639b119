"""The options of a run by concern: each stage takes those that it reads."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxprune import engines, extensions, patterns
from onnxprune.engines import EngineProfile
from onnxprune.errors import GIVE_DATA, InputError, option
from onnxprune.extensions import Limit, NamedCost, Scorer, Targets
from onnxprune.metrics import Metric, MetricFunction, as_metric
from onnxprune.options import checks
from onnxprune.options.cost_limits import LATENCY, limit_of
from onnxprune.patterns import Pattern
from onnxprune.registry import one_of
from onnxprune.times import Times

ATTENTION = ("heads", "dims")
AUTO = "auto"
GATES = {"drift": (0.0, math.inf), "cosine": (-1.0, 1.0), "agreement": (0.0, 1.0)}
"""Kinds of gates with the range of their limits."""
SAMPLES = 1024
"""Default number of calibration samples: more hardly make a better model, and all take longer."""
FURTHEST = 0.95
"""Default upper bound of the ratio in a search."""


def _set(part: object, **values: object) -> None:
    """Sets fields of a frozen dataclass in its `__post_init__`."""
    for name, value in values.items():
        object.__setattr__(part, name, value)


@dataclass(frozen=True)
class Channels:
    """Removal of channels: how many, and which.

    Attributes:
        ratio: Share of the units (channels, heads, blocks) of every prunable group that is removed, 0 <= ratio < 1.
        target: What may be left of some costs, in place of a ratio: a fraction (``0.5``) or an amount (``"2G"``). A
            cost is given by its name or its factory (`extensions.cost_model`).
        keep: Regular expression -> share of the units that stay, 0 < share <= 1, of the groups that an initializer or
            node of such a name belongs to; of several that match, the last one holds. What the ratio or target asks
            for is asked of the other groups; with neither, these stay whole.
        importance: A criterion by name, or a function of a group (`extensions.GroupView`); None for the default.
        global_ranking: Whether units of all groups are ranked together, so that `ratio` is the share of them all.
        min_channels: Units that every group keeps.
        round_to: Layers that lose channels keep the nearest multiple of this. ``auto`` rounds for a target, to what
            `engine` computes fast, unless it is latency, whose measured times know better; it rounds no ratio.
        engine: The inference engine that the model is for: its name, or for a target of latency what times models in
            it (`engines.Timer`). A timer also corrects a plan that was made from `times`.
        times: What was measured of the model for a target of latency: `Times`, or a file of them. None
            measures the model in onnxruntime on this machine.
        steps: Rounds of removal, with repair and new statistics in between.

    Raises:
        InputError: A value is of the wrong kind, out of range or unknown, or not exactly one says how much.
    """

    ratio: float | None = None
    target: Targets = field(default_factory=dict)
    keep: Mapping[str, float] = field(default_factory=dict)
    importance: str | Scorer | None = None
    global_ranking: bool = False
    min_channels: int = 1
    round_to: int | str = AUTO
    engine: engines.Timer = engines.DEFAULT
    times: Times | str | os.PathLike[str] | None = None
    steps: int = 1

    def __post_init__(self) -> None:
        given = checks.mapping("target", self.target, "{'macs': 0.5}", callables=True)
        _set(self, target={key: limit_of(extensions.as_cost(key).name, limit) for key, limit in given.items()})
        if len(self.limits) < len(given):
            raise InputError("two targets are of one cost", "give one limit for each cost")
        _set(self, keep=checks.kept_shares("keep", self.keep))
        if self.importance is not None:
            extensions.as_criterion(self.importance)
        _set(self, global_ranking=checks.flag("global_ranking", self.global_ranking))
        for name in ("min_channels", "steps"):
            _set(self, **{name: checks.whole(name, getattr(self, name), 1)})
        if self.round_to != AUTO:
            _set(self, round_to=checks.whole("round_to", self.round_to, 1))
        if engines.is_timer(self.engine):
            if LATENCY not in self.limits:
                raise InputError(
                    "an engine that is given by what times it is for a target of latency",
                    f"give {option('target', {'latency': 0.6})}, or one of {', '.join(engines.PROFILES)}",
                )
        else:
            engines.profile(self.engine)
        if self.times is not None and not isinstance(self.times, Times):
            _set(self, times=checks.path("times", self.times))
        if self.times is not None and LATENCY not in self.limits:
            raise InputError("times are for a target of latency", f"give {option('target', {'latency': 0.6})}, say")
        if self.target and self.ratio is not None:
            raise InputError("target and ratio both say how much", "give one of them")
        if self.ratio is not None:
            _set(self, ratio=checks.fraction("ratio", self.ratio))
        elif self.keep and not self.target:
            _set(self, ratio=0.0)
        elif not self.target:
            raise InputError("nothing says how much to prune", f"give a ratio or a target, say {option('ratio', 0.5)}")

    @property
    def rounding(self) -> int | EngineProfile:
        """What widths are to be multiples of."""
        if self.round_to == AUTO:
            return 1 if self.ratio is not None or LATENCY in self.limits else engines.profile(self.engine)
        return int(self.round_to)

    @property
    def costs(self) -> list[NamedCost]:
        """The costs that the target limits."""
        return [extensions.as_cost(key) for key in self.target]

    @property
    def limits(self) -> dict[str, Limit]:
        """What may be left of each cost, by its name."""
        return {cost.name: limit for cost, limit in zip(self.costs, self.target.values(), strict=True)}


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
        _set(self, pattern=patterns.complete(self.pattern))
        _set(self, permute=checks.flag("permute", self.permute))
        if self.global_ranking is not None:
            _set(self, global_ranking=checks.flag("global_ranking", self.global_ranking))
        if self.permute and self.shape.kept is None:
            raise InputError(NO_PERMUTE, f"give {option('pattern', '2:4')}, say")
        if self.solver is not None and not extensions.as_criterion(self.solver).zeros:
            raise InputError(f"importance {self.solver!r} ranks channels, not zeros", f"{', '.join(choosers())} do")

    @property
    def shape(self) -> Pattern:
        """The pattern, read."""
        assert isinstance(self.pattern, Pattern)
        return self.pattern


NO_PERMUTE = "permute orders channels for an N:M pattern, and none is asked for"


def choosers() -> list[str]:
    """Names of the criteria that choose zeros."""
    return [name for name in extensions.criteria.names() if extensions.criteria.get(name).zeros]


@dataclass(frozen=True)
class Scope:
    """Which parts of a model are open to pruning.

    Attributes:
        only: Regular expressions; only groups with a matching initializer or node are pruned.
        ignore: Regular expressions; groups with a matching initializer or node are left whole.
        mixing: Whether groups of grade *mixing* are pruned too.
        attention: ``heads`` removes whole heads of attention, ``dims`` dimensions within heads.
        shrink: Regular expressions; matching graph inputs and outputs may lose slices too.

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
            _set(self, **{name: checks.expressions(name, getattr(self, name))})
        _set(self, mixing=checks.flag("mixing", self.mixing))
        one_of("attention", self.attention, ATTENTION)


@dataclass(frozen=True)
class Calibration:
    """Unlabelled inputs that scores and repair learn from.

    Attributes:
        data: The data, see `calibration.open_samples`; None for none.
        samples: Samples to use at most.
        stats: File of statistics of the data: used where it exists, else written.

    Raises:
        InputError: A value is of the wrong kind or out of range, or samples are asked for of no data.
    """

    data: Any = None
    samples: int = SAMPLES
    stats: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.data is not None:
            _set(self, data=checks.data(self.data))
        _set(self, samples=checks.whole("samples", self.samples, 1))
        if self.stats is not None:
            _set(self, stats=checks.path("stats", self.stats))
        if self.samples != SAMPLES and self.data is None and self.stats is None:
            raise InputError("samples are those of calibration data, and none are given", GIVE_DATA)


@dataclass(frozen=True)
class Repair:
    """Compensation for removed channels and weights.

    Attributes:
        method: ``none``; ``data-free``, on synthetic inputs; ``calibrated``, which needs calibration data; a method
            that was added (`onnxprune.repair_method`); or ``auto``: ``calibrated`` where there are data, else
            ``data-free`` for models that consist mainly of convolutions and run on synthetic inputs, else ``none``.

    Raises:
        InputError: The method is unknown.
    """

    method: str = AUTO

    def __post_init__(self) -> None:
        one_of("repair", self.method, [AUTO, *extensions.repairs.names()])

    @property
    def refits_zeros(self) -> bool:
        """Whether the method refits layers that zeros are chosen in on the way; ``auto`` does, with data."""
        return self.method in (AUTO, "data-free", "calibrated")

    @property
    def needs_data(self) -> bool:
        """Whether the method takes calibration data."""
        return self.method != AUTO and extensions.repairs.get(self.method).needs_data


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
            _set(self, **{name: checks.flag(name, getattr(self, name))})
        _set(self, input_shapes=checks.shapes("input_shapes", self.input_shapes))
        given = checks.mapping("gate", self.gate, "{'drift': 0.05}")
        for name, limit in given.items():
            low, high = GATES[split_gate(name)[0]]
            given[name] = value = checks.number(f"gate {name}", limit)
            if not low <= value <= high or not math.isfinite(value):
                raise InputError(f"gate {name} must be between {low:g} and {high:g}, not {value:g}")
        _set(self, gate=given)
        if self.strict and self.keep_anyway:
            raise InputError(
                "keep_anyway and strict contradict each other: a gate that is missed is a warning", "give one of them"
            )
        if self.metric is not None:
            as_metric(self.metric)
        if self.max_drop is not None:
            _set(self, max_drop=checks.number("max_drop", self.max_drop))
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
        _set(self, memory=checks.whole("memory", self.memory, 1))
        _set(self, run_seconds=checks.positive("run_seconds", self.run_seconds))
        if self.time_limit is not None:
            _set(self, time_limit=checks.positive("time_limit", self.time_limit))
        if self.run_memory is not None:
            _set(self, run_memory=checks.whole("run_memory", self.run_memory, 1))
