"""The options of the removal of channels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxprune.engines import profiles
from onnxprune.engines.profiles import EngineProfile, Timer
from onnxprune.engines.times import Times
from onnxprune.errors import InputError, option
from onnxprune.extensions import points
from onnxprune.extensions.points import Limit, NamedCost, Scorer, Targets
from onnxprune.options import checks
from onnxprune.options.checks import AUTO, set_fields
from onnxprune.options.cost_limits import LATENCY, limit_of


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
        importance: A criterion by name, or a function of a group (`criterion_views.GroupView`); None for the default.
        global_ranking: Whether units of all groups are ranked together, so that `ratio` is the share of them all.
        min_channels: Units that every group keeps.
        round_to: Layers that lose channels keep the nearest multiple of this. ``auto`` rounds for a target, to what
            `engine` computes fast, unless it is latency, whose measured times know better; it rounds no ratio.
        engine: The inference engine that the model is for: its name, or for a target of latency what times models in
            it (`Timer`). A timer also corrects a plan that was made from `times`.
        times: What was measured of the model for a target of latency: `Times`, or a file of them. None
            measures the model in onnxruntime on this machine.
        steps: Rounds of removal, with repair and new statistics in between.
        depth: Blocks (residual branches) that go as a whole before channels do: the number of them that does least
            damage, or ``auto`` for as many as meet the target at less damage than channels alone.

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
    engine: Timer = profiles.DEFAULT
    times: Times | str | os.PathLike[str] | None = None
    steps: int = 1
    depth: int | str = 0

    def __post_init__(self) -> None:
        given = checks.mapping("target", self.target, "{'macs': 0.5}", callables=True)
        set_fields(self, target={key: limit_of(points.as_cost(key).name, limit) for key, limit in given.items()})
        if len(self.limits) < len(given):
            raise InputError("two targets are of one cost", "give one limit for each cost")
        set_fields(self, keep=checks.kept_shares("keep", self.keep))
        if self.importance is not None:
            points.as_criterion(self.importance)
        set_fields(self, global_ranking=checks.flag("global_ranking", self.global_ranking))
        self._check_depth()
        for name in ("min_channels", "steps"):
            set_fields(self, **{name: checks.whole(name, getattr(self, name), 1)})
        if self.round_to != AUTO:
            set_fields(self, round_to=checks.whole("round_to", self.round_to, 1))
        if profiles.is_timer(self.engine):
            if LATENCY not in self.limits:
                raise InputError(
                    "an engine that is given by what times it is for a target of latency",
                    f"give {option('target', {'latency': 0.6})}, or one of {', '.join(profiles.PROFILES)}",
                )
        else:
            profiles.profile(self.engine)
        if self.times is not None and not isinstance(self.times, Times):
            set_fields(self, times=checks.path("times", self.times))
        if self.times is not None and LATENCY not in self.limits:
            raise InputError("times are for a target of latency", f"give {option('target', {'latency': 0.6})}, say")
        if self.target and self.ratio is not None:
            raise InputError("target and ratio both say how much", "give one of them")
        if self.ratio is not None:
            set_fields(self, ratio=checks.fraction("ratio", self.ratio))
        elif (self.keep or self.depth) and not self.target:
            set_fields(self, ratio=0.0)
        elif not self.target:
            raise InputError("nothing says how much to prune", f"give a ratio or a target, say {option('ratio', 0.5)}")

    def _check_depth(self) -> None:
        """Raises InputError for a depth that is no number of blocks, or that nothing decides."""
        if self.depth != AUTO:
            set_fields(self, depth=checks.whole("depth", self.depth, 0))
        elif not self.target:
            raise InputError(
                "depth 'auto' takes as many blocks as suit a target, and there is none",
                f"give {option('target', {'latency': 0.6})}, or a number of blocks",
            )
        if self.depth and self.times is not None:
            raise InputError("times are of the model with all its blocks", f"leave {option('times')} away")
        if self.depth and self.steps != 1:
            raise InputError("blocks go in one step", f"leave {option('steps')} or {option('depth')} away")

    @property
    def rounding(self) -> int | EngineProfile:
        """What widths are to be multiples of."""
        if self.round_to == AUTO:
            return 1 if self.ratio is not None or LATENCY in self.limits else profiles.profile(self.engine)
        return int(self.round_to)

    @property
    def compares_groups(self) -> bool:
        """Whether the damage of one group is weighed against that of another."""
        return bool(self.target) or self.global_ranking

    @property
    def costs(self) -> list[NamedCost]:
        """The costs that the target limits."""
        return [points.as_cost(key) for key in self.target]

    @property
    def limits(self) -> dict[str, Limit]:
        """What may be left of each cost, by its name."""
        return {cost.name: limit for cost, limit in zip(self.costs, self.target.values(), strict=True)}
