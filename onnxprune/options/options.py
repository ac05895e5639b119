"""`Options` composes the options of all concerns and checks that they do not contradict each other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxprune.engines.profiles import DEFAULT, Timer
from onnxprune.engines.times import Times
from onnxprune.errors import GIVE_DATA, InputError, option
from onnxprune.extensions import patterns, points
from onnxprune.extensions.metrics import MetricFunction
from onnxprune.extensions.patterns import CHANNELS, Pattern
from onnxprune.extensions.points import Criterion, Scorer, Targets
from onnxprune.options import checks, json_data
from onnxprune.options.channels import Channels
from onnxprune.options.checks import AUTO
from onnxprune.options.cost_limits import LATENCY
from onnxprune.options.criteria import BY_DATA, BY_WEIGHTS, NO_STEPS, by_moments, check_importance, from_data, or_empty
from onnxprune.options.parts import FURTHEST, NO_DEPTH, NO_PERMUTE, Calibration, Checks, Resources, Scope, Zeros
from onnxprune.options.repair import EPOCHS, Repair


@dataclass(frozen=True)
class Options:
    """Options of one pruning run.

    Attributes:
        channels: Which channels are removed; None for none.
        zeros: Which weights are set to zero; None for none. Channels go first.
        scope: Which parts of the model are open to pruning.
        calibration: Data that scores and repair learn from.
        repair: How the remaining weights compensate for the removed ones.
        checks: What is checked of the result.
        resources: What the run may use.
        seed: Seed of anything random.
        sparse_storage: Whether weights with many zeros are stored as sparse initializers where that is smaller.

    Raises:
        InputError: Two parts contradict each other.
    """

    channels: Channels | None = None
    zeros: Zeros | None = None
    scope: Scope = field(default_factory=Scope)
    calibration: Calibration = field(default_factory=Calibration)
    repair: Repair = field(default_factory=Repair)
    checks: Checks = field(default_factory=Checks)
    resources: Resources = field(default_factory=Resources)
    seed: int = 0
    sparse_storage: bool = False

    def __post_init__(self) -> None:
        if self.channels is None and self.zeros is None:
            raise InputError("nothing says how much to prune", f"give a ratio or a target, say {option('ratio', 0.5)}")
        object.__setattr__(self, "seed", checks.whole("seed", self.seed, 0))
        object.__setattr__(self, "sparse_storage", checks.flag("sparse_storage", self.sparse_storage))
        self._check_zeros()
        self._check_gates()
        self._check_data()
        self._check_depth()

    @classmethod
    def of(
        cls,
        ratio: float | None = None,
        *,
        target: Targets | None = None,
        keep: Mapping[str, float] | None = None,
        pattern: str | Pattern | Sequence[str | Pattern] = CHANNELS,
        global_ranking: bool | None = None,
        importance: str | Scorer | None = None,
        min_channels: int = 1,
        round_to: int | str = AUTO,
        engine: Timer = DEFAULT,
        times: Times | str | os.PathLike[str] | None = None,
        steps: int = 1,
        depth: int | str = 0,
        permute: bool = False,
        seed: int = 0,
        only: str | Sequence[str] = (),
        ignore: str | Sequence[str] = (),
        mixing: bool = False,
        attention: str = "heads",
        shrink: str | Sequence[str] = (),
        calib: Any = None,
        samples: int | None = None,
        stats: str | os.PathLike[str] | None = None,
        repair: str = AUTO,
        epochs: int = EPOCHS,
        minutes: float | None = None,
        gate: Mapping[str, float] | None = None,
        metric: str | MetricFunction | None = None,
        max_drop: float | None = None,
        keep_anyway: bool = False,
        search: bool = False,
        drift_search: bool = False,
        verify: bool = True,
        time: bool = True,
        strict: bool = False,
        input_shapes: Mapping[str, Sequence[int]] | None = None,
        sparse_storage: bool = False,
        memory: int = 10**9,
        run_seconds: float = 600.0,
        run_memory: int | None = None,
        time_limit: float | None = None,
    ) -> Options:
        """The options under the names that `onnxprune.prune` and the command line have for them.

        Args:
            ratio: Share of the units (channels, heads, blocks) of every prunable group that is removed; where no
                channels are, share of a pattern that has none.
            target: What may be left of ``macs``, ``params``, ``bytes`` or ``latency`` in place of a ratio: ``{"macs":
                0.5}``, ``{"latency": "4ms"}``; or of a cost that was added, by its name or its factory.
            keep: Regular expression -> share of the units that stay of matching groups, see `Channels`.
            pattern: ``channels``, a pattern of zeros (see `patterns`), or a list with both.
            global_ranking: Rank across groups (or weights, or their blocks) instead of within each; by default only
                for zeros that data choose and a refit follows.
            importance: A criterion by name, or a function of a group (`criterion_views.GroupView`); by default ``obs``
                with calibration data, or synthetic inputs for a data-free repair (where the model consists mainly of
                convolutions), else ``l2``.
            min_channels: Units that every group keeps.
            round_to: Layers that lose channels keep the nearest multiple of this; ``auto``: see `Channels`.
            engine: The inference engine that the model is for, see `engines`.
            times: Measured times for a target of latency, see `Channels`.
            steps: Rounds of removal, with repair and new statistics in between; needs calibration data.
            depth: Blocks that go as a whole before channels do: a number, or ``auto`` for a target; see `Channels`.
            permute: Reorder channels first, so that an N:M pattern keeps more.
            seed: Seed of anything random.
            only: Regular expressions; only groups with a matching initializer or node are pruned.
            ignore: Regular expressions; groups with a matching initializer or node are left whole.
            mixing: Prune groups of grade *mixing* too.
            attention: ``heads`` removes whole heads of attention, ``dims`` dimensions within heads.
            shrink: Regular expressions; matching graph inputs and outputs may lose slices, or go with a block.
            calib: Calibration data, see `calibration.open_samples`.
            samples: Calibration samples to use at most; None for 1,024, see `Calibration`.
            stats: File of statistics from calibration data: used where it exists, else written.
            repair: See `Repair`, and so for the next two.
            epochs: See there.
            minutes: See there.
            gate: Limits to how far outputs may move, see `Checks`.
            metric: What is measured on held-out samples, see `Checks`.
            max_drop: How much of the metric may be lost, see `Checks`.
            keep_anyway: Write a model that misses a gate.
            search: Take the smallest model within the gates; ratio or target is the furthest to go.
            drift_search: The old name of `search`.
            verify: Check the result in onnxruntime.
            time: Time both models in onnxruntime.
            strict: Write no model that comes with a warning.
            input_shapes: Shapes of graph inputs to count MACs at and to verify with.
            sparse_storage: Store weights with many zeros as sparse initializers, where that is smaller.
            memory: Bytes of activations to hold before they go to files.
            run_seconds: The longest that one load or run of a model in onnxruntime may take.
            run_memory: Bytes that onnxruntime may hold; None for all that there are.
            time_limit: Seconds that the run may take until it writes; None for any number.

        Raises:
            InputError: A value is of the wrong kind, out of range, unknown, or contradicts another.
        """
        given = Checks(
            verify=verify,
            input_shapes=or_empty(input_shapes),
            gate=or_empty(gate),
            keep_anyway=keep_anyway,
            search=checks.flag("search", search) or checks.flag("drift_search", drift_search),
            time=time,
            strict=strict,
            metric=metric,
            max_drop=max_drop,
        )
        targets, kept = or_empty(target), or_empty(keep)
        share = None if ratio is None else checks.fraction("ratio", ratio)
        removes, zeros = patterns.read(pattern, share)
        if targets and not removes:
            raise InputError("target and pattern both say how much", "give one of them")
        if kept and not removes:
            raise InputError("keep is for channels, and none are removed", f"give {option('ratio', 0.5)}, say")
        wanted = None if importance is None else points.as_criterion(importance)
        check_importance(wanted, removes, zeros)
        permute = checks.flag("permute", permute)
        if permute and zeros is None:
            raise InputError(NO_PERMUTE, f"give {option('pattern', '2:4')}, say")
        across = None if global_ranking is None else checks.flag("global_ranking", global_ranking)
        for name, value in (("min_channels", min_channels), ("steps", steps)):
            checks.whole(name, value, 1)
        channels = (
            Channels(
                ratio=FURTHEST if given.search and share is None and not targets else share,
                target=targets,
                keep=kept,
                importance=importance if wanted is not None and wanted.channels else None,
                global_ranking=bool(across),
                min_channels=min_channels,
                round_to=round_to,
                engine=engine,
                times=times,
                steps=steps,
                depth=depth,
            )
            if removes
            else None
        )
        if steps > 1 and channels is None:
            raise InputError(NO_STEPS, f"give a ratio or a target, and data with {option('calib', ...)}")
        if depth and channels is None:
            raise InputError("depth removes blocks, and the pattern leaves all shapes", NO_DEPTH)
        solver = wanted.name if wanted is not None and wanted.zeros else None
        return cls(
            channels=channels,
            zeros=None if zeros is None else Zeros(zeros, solver, across, permute),
            scope=Scope(only, ignore, mixing, attention, shrink),
            calibration=Calibration(calib, samples, stats),
            repair=Repair(repair, epochs, minutes),
            checks=given,
            resources=Resources(memory, run_seconds, run_memory, time_limit),
            seed=seed,
            sparse_storage=sparse_storage,
        )

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Options:
        """The options of a mapping with the parameters of `of` as keys: the inverse of `to_dict`.

        Raises:
            InputError: A key is unknown (the hint has the closest match), or as `of`.
        """
        return json_data.from_dict(cls, given)

    def to_dict(self) -> dict[str, Any]:
        """The options as strict JSON data, under the names of the parameters of `of`.

        An object that JSON cannot hold (arrays, a function that is not registered) is ``{"python": NAME}``, which is
        refused when it is read.
        """
        return json_data.to_dict(self)

    @property
    def criterion(self) -> Criterion:
        """The criterion that ranks channels."""
        asked = None if self.channels is None else self.channels.importance
        has_data = self.calibration.data is not None or self.calibration.stats is not None
        default = BY_DATA if has_data or self.repair.method == "data-free" else BY_WEIGHTS
        return points.as_criterion(default if asked is None else asked)

    @property
    def solver(self) -> str:
        """Name of the criterion that chooses zeros.

        What `obs` chooses is good once the rest is refitted; where nothing is, that is `wanda`.
        """
        asked = self.zeros.solver if self.zeros is not None else None
        default = BY_DATA if self._chooses_zeros(BY_DATA) else BY_WEIGHTS
        best = asked if asked is not None and self._chooses_zeros(asked) else default
        return "wanda" if best == BY_DATA and not self.repair.refits_zeros else best

    def _chooses_zeros(self, name: str) -> bool:
        """Whether there is what a criterion needs to choose zeros."""
        if not from_data(name):
            return True
        stored = self.calibration.stats is not None and self.channels is None and by_moments(name)
        return self.repair.method != "data-free" and (self.calibration.data is not None or stored)

    @property
    def spreads_zeros(self) -> bool:
        """Whether shares of zeros are allocated to layers by their measured effect on the outputs."""
        if self.zeros is None or self.zeros.shape.local or self.calibration.data is None or not by_moments(self.solver):
            return False
        across = self.zeros.global_ranking
        return self.repair.refits_zeros if across is None else across

    @property
    def targets_macs(self) -> bool:
        """Whether MACs must be counted, by a run of the model if there is no other way: latency follows from them."""
        return self.channels is not None and bool({"macs", LATENCY} & set(self.channels.limits))

    def _check_zeros(self) -> None:
        """Raises InputError for options that contradict the pattern of zeros."""
        if self.zeros is None:
            return
        unable = self.repair.trains or not self.repair.refits_zeros
        if self.channels is None and self.repair.method != "none" and unable:
            raise InputError(
                f"repair {self.repair.method!r} refits what is left of channels, and none are removed",
                f"give {option('pattern', 'channels')} too, or {option('repair', 'none')}",
            )
        alone, asked, across = self.channels is None, self.zeros.solver, self.zeros.global_ranking
        for_zeros = asked is not None and (alone or not points.criteria.get(asked).channels)
        if asked is not None and for_zeros and not self._chooses_zeros(asked):
            without = ", which repair 'data-free' goes without" if self.repair.method == "data-free" else ""
            raise InputError(f"importance {asked!r} needs calibration data{without}", GIVE_DATA)
        if alone and across and self.zeros.shape.local:
            raise InputError(
                f"pattern {str(self.zeros.shape)!r} takes as much of every weight, so that there is nothing to "
                "rank across them",
                f"leave {option('global_ranking')} away",
            )
        if across and self.calibration.data is None and from_data(self.solver):
            raise InputError(
                "how much each weight can spare is measured with calibration data",
                f"give some with {option('calib', ...)}, or leave {option('global_ranking')} away",
            )
        stats = self.calibration.stats is not None and self.calibration.data is not None
        if alone and stats and self.repair.refits_zeros and not self.spreads_zeros:
            raise InputError(
                "zeros that are refitted use no statistics",
                f"leave {option('stats')} away, or give {option('repair', 'none')}",
            )

    def _check_gates(self) -> None:
        """Raises InputError for gates that cannot be measured."""
        if self.checks.gate and not self.checks.verify and self.calibration.data is None:
            raise InputError(
                "gates are measured by the verification, which is switched off",
                f"leave {option('verify', False)} away, or give data with {option('calib', ...)}",
            )
        for name, value in (("max_drop", self.checks.max_drop), ("metric", self.checks.metric)):
            if value is not None and self.calibration.data is None:
                raise InputError(f"{option(name)} is measured on calibration data", f"{GIVE_DATA}, labelled if you can")
        if self.checks.search and self.channels is None:
            raise InputError(
                "a search looks for channels, not zeros",
                f"leave {option('pattern')} away, or add {option('pattern', 'channels')}",
            )

    def _check_depth(self) -> None:
        """Raises InputError for options that the removal of blocks does not go with."""
        depth = 0 if self.channels is None else self.channels.depth
        if depth == AUTO and (self.calibration.data is None or self.repair.method not in (AUTO, "calibrated")):
            hint = GIVE_DATA if self.calibration.data is None else f"leave {option('repair')} away"
            raise InputError("depth 'auto' weighs blocks against channels by a calibrated repair", hint)
        if depth and self.zeros is not None and self.zeros.permute:
            raise InputError("channels of a model that lost blocks are not reordered", NO_DEPTH)

    def _check_data(self) -> None:
        """Raises InputError for calibration data or statistics that are missing or not used."""
        missing, stats, name = self.calibration.data is None, self.calibration.stats, self.criterion.name
        if missing and self.repair.needs_data:
            raise InputError(f"repair {self.repair.method!r} needs calibration data", GIVE_DATA)
        given = not missing or (stats is not None and by_moments(name))
        synthetic = self.repair.method == "data-free"  # inputs made for the repair serve the scores as well
        if self.channels is not None and self.criterion.from_data and not given and not synthetic:
            raise InputError(f"importance {name!r} needs calibration data", GIVE_DATA)
        if stats is not None and not by_moments(name if self.channels is not None else self.solver):
            known = ", ".join(n for n in points.criteria.names() if by_moments(n))
            raise InputError(f"importance {name!r} uses no statistics", f"{known} do")
        if self.channels is not None and self.channels.steps > 1 and (missing or not self.criterion.sequential):
            raise InputError(NO_STEPS, f"give a ratio or a target, and data with {option('calib', ...)}")
