"""Sensitivity: what the removal of channels of each single group costs and saves."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxprune.common.executor import each
from onnxprune.common.math import share as units_of
from onnxprune.common.progress import ProgressCallback
from onnxprune.cost.cost_model import CostModel, macs, parameters
from onnxprune.cost.measure import counted_shapes
from onnxprune.cost.measure import measure as measure_cost
from onnxprune.cost.time_model import latency
from onnxprune.coupling.group_names import nodes_of
from onnxprune.coupling.groups import Group
from onnxprune.engines.times import Times
from onnxprune.extensions.metrics import MetricFunction
from onnxprune.extensions.points import Scorer
from onnxprune.graph.graph import Value
from onnxprune.importance.damage_curves import fit_to_measurements
from onnxprune.importance.obs import Curve
from onnxprune.model.model import Model
from onnxprune.options import Options
from onnxprune.pipeline.analysis import ModelSource
from onnxprune.pipeline.data import CalibrationSplit
from onnxprune.pipeline.group_trials import (
    LAYERWISE,
    Extent,
    GroupTrials,
    Trial,
    affordable,
    evaluator_of,
    split,
    work_of,
)
from onnxprune.pipeline.latency import read_times
from onnxprune.pipeline.metric import NO_METRIC, MetricEvaluator
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.prepare import Prepared, opened, scored
from onnxprune.pipeline.progress import Clock, work_before
from onnxprune.report.build import rounded
from onnxprune.report.sensitivity import GroupSensitivity, PinnedGroup, SensitivityPoint, SensitivityReport
from onnxprune.runtime.determinism import limited_run
from onnxprune.runtime.distributed.connect import executing

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Shares of a group's channels whose removal is tried."""
MIDDLE = 0.5
"""The share that groups are ranked by."""
LEAST_DAMAGE = 1e-6
"""Damage that counts as none: groups below it are ranked by what they save."""
LEFT = "left aside, as asked for"
"""Why a group stays whole that could be pruned."""
TRIAL_WORK = 4.0
"""Units of work of the trials of a group, see `progress`."""


def sensitivity(
    model: ModelSource,
    *,
    calib: Any = None,
    samples: int | None = None,
    importance: str | Scorer | None = None,
    repair: str = "auto",
    metric: str | MetricFunction | None = None,
    times: Times | str | os.PathLike[str] | None = None,
    only: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
    mixing: bool = False,
    attention: str = "heads",
    shrink: str | Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    memory: int = 10**9,
    run_seconds: float = 600.0,
    run_memory: int | None = None,
    time_limit: float | None = None,
    progress: ProgressCallback | None = None,
    client: Any = None,
) -> SensitivityReport:
    """What each group of coupled channels costs and saves when a share of it is removed, and nothing else.

    Channels are removed from the least important on, what follows the group is refitted as a repair would, and the
    outputs are compared with the original's on held-out samples. Where that would take more than about a minute, fewer
    shares are tried, or half of each group alone, or the damage is predicted; the report says so.

    Args:
        model: A path, a `ModelProto` or a `gs.Graph`; it is not changed.
        calib: Calibration data; without them, convolutional models run on synthetic inputs, and others are not run.
        samples: Calibration samples to use at most; None for 1,024, see `Calibration`.
        importance: A criterion by name, or a function of a group.
        repair: As for `prune`; of ``calibrated`` and ``distilled`` the refit of single layers is made.
        metric: What is measured on held-out samples besides; by default top1 where there are labels.
        times: Times that `measure` found, for the share of the time; or a file of them.
        only: Regular expressions of the names whose groups are tried.
        ignore: Regular expressions of the names whose groups are left aside.
        mixing: Try groups of grade *mixing* too.
        attention: ``heads`` or ``dims``.
        shrink: Regular expressions of graph inputs and outputs that may lose slices.
        input_shapes: Shapes of graph inputs.
        seed: Seed of anything random.
        memory: Bytes of activations to hold.
        run_seconds: The longest that one run of a model may take.
        run_memory: Bytes that onnxruntime may hold.
        time_limit: Seconds that it may take.
        progress: Called with how far it is (`Progress`).
        client: A `dask.distributed.Client`, whose workers try the groups.

    Returns:
        A row a group; `to_json`, `to_dict` and `to_csv` give it as data.

    Raises:
        InputError: The model, the data, the times or an option is unusable.
        TimeLimitError: It takes longer than `time_limit`.
    """
    options = Options.of(
        MIDDLE,
        global_ranking=True,
        importance=importance,
        seed=seed,
        only=only,
        ignore=ignore,
        mixing=mixing,
        attention=attention,
        shrink=shrink,
        calib=calib,
        samples=samples,
        repair=repair,
        metric=metric,
        input_shapes=input_shapes,
        memory=memory,
        run_seconds=run_seconds,
        run_memory=run_memory,
        time_limit=time_limit,
        time=False,
    )
    clock = Clock(progress)
    name = os.fspath(model) if isinstance(model, (str, os.PathLike)) else None
    with limited_run(options.resources), executing(client):
        started = opened(Original.of(model), options, clock)
        clock.expect({**work_before(started.options), "trials": TRIAL_WORK * len(started.groups)})
        extent = affordable(work_of(started), len(started.groups), SHARES, MIDDLE)
        prepared = scored(_without_heights(started) if extent.shares else started)
        return _report(name, prepared, _Savings.of(prepared, times), extent, clock)


def _without_heights(started: Prepared) -> Prepared:
    """With options that measure no heights of damage curves: trials do, and better."""
    loaded, channels = started.loaded, started.options.channels
    assert channels is not None
    alone = replace(loaded.options, channels=replace(channels, global_ranking=False))
    return replace(started, loaded=replace(loaded, options=alone))


def _report(name: str | None, prepared: Prepared, savings: _Savings, extent: Extent, clock: Clock) -> SensitivityReport:
    groups = prepared.groups
    data = split(prepared, extent.samples) if extent.shares and groups else None
    evaluator = NO_METRIC if data is None else evaluator_of(prepared, data)
    with clock.stage("trials"):
        tried = _trials(prepared, data, evaluator, extent)
    assert prepared.damage is not None
    rows = [
        _row(i, group, curve, trials, savings)
        for i, (group, curve, trials) in enumerate(zip(groups, prepared.damage.curves, tried, strict=True))
    ]
    before = None if evaluator.held is None else evaluator.held.unchanged()
    return SensitivityReport(
        name,
        _on(prepared, data),
        0 if data is None else data.held.count or 0,
        data is not None and data.held_out,
        _repair_in_words(prepared, data),
        None if before is None else before.name,
        None if before is None else before.before,
        savings.name,
        _ranked(rows) if _was_run(prepared, data) else rows,
        [PinnedGroup(g.name, g.units, g.reasons or [LEFT]) for g in prepared.analysis.groups if g not in groups],
        _notes(prepared, data, evaluator, extent.shares),
        rounded(clock.seconds),
    )


def _trials(
    prepared: Prepared, data: CalibrationSplit | None, evaluator: MetricEvaluator, extent: Extent
) -> list[dict[int, Trial]]:
    """For each group the trials by how many channels they remove; none without data."""
    damage, found = prepared.damage, [dict[int, Trial]() for _ in prepared.groups]
    if data is None or damage is None:
        return found
    counts = [(i, n) for i, g in enumerate(prepared.groups) for n in sorted(_counts(g, extent.shares))]
    tasks = ((prepared.groups[i].name, (i, np.sort(damage.curves[i].order[:n]))) for i, n in counts)
    for at, trial in each(GroupTrials(prepared, data, evaluator, extent.samples), tasks, len(counts)):
        i, n = counts[at]
        found[i][n] = trial
    return found


def _counts(group: Group, shares: Sequence[float]) -> set[int]:
    return {_units(group, share) for share in shares} - {0}


def _units(group: Group, share: float) -> int:
    return min(units_of(share, group.units), group.most())


def _row(index: int, group: Group, curve: Curve, trials: Mapping[int, Trial], savings: _Savings) -> GroupSensitivity:
    """The row of one group, not ranked yet."""
    measured = [(n, trials[n].damage) for n in sorted(trials) if math.isfinite(trials[n].damage)]
    loss = fit_to_measurements(curve.loss, measured)
    points = []
    for share in SHARES:
        n = _units(group, share)
        trial = trials.get(n)
        damage = float(loss[n]) if trial is None else trial.damage
        points.append(
            SensitivityPoint(
                share,
                n,
                damage if math.isfinite(damage) else None,
                trial is not None or n == 0,
                trial.agreement if trial is not None else None,
                trial.metric if trial is not None else None,
                trial.drop if trial is not None else None,
                *savings.of_removal(index, n),
            )
        )
    weights = list(dict.fromkeys(s.value.key for s in group.slices))
    whole = savings.of_removal(index, group.units)
    layers = len(nodes_of([s.value for s in group.slices if _is_matrix(s.value)]))
    return GroupSensitivity(group.name, group.nodes, layers, weights, group.units, *whole, points)


def _is_matrix(value: Value) -> bool:
    """Whether a constant has two axes or more that are longer than 1, as the weights of layers do."""
    return sum(length != 1 for length in value.shape or []) > 1


def _ranked(rows: Sequence[GroupSensitivity]) -> list[GroupSensitivity]:
    """The rows with their ranks: by the gain per damage when half of the group is removed."""

    def worth(row: GroupSensitivity) -> float:
        point = next(p for p in row.points if p.share == MIDDLE)
        return 0.0 if point.damage is None else point.gain / max(point.damage, LEAST_DAMAGE)

    order = sorted(range(len(rows)), key=lambda i: -worth(rows[i]))
    ranks = {i: rank for rank, i in enumerate(order, start=1)}
    return [replace(row, rank=ranks[i]) for i, row in enumerate(rows)]


@dataclass(frozen=True)
class _Savings:
    """Shares of the model's costs that removals save.

    Attributes:
        models: Parameters, MACs and time as functions of what is removed; None for what is not known.
        count: How many groups there are.
    """

    models: tuple[CostModel | None, CostModel | None, CostModel | None]
    count: int

    @classmethod
    def of(cls, prepared: Prepared, times: Times | str | os.PathLike[str] | None) -> _Savings:
        """The costs of a prepared model.

        Raises:
            InputError: The times are unreadable, or of another model.
        """
        coupling, groups, cost = prepared.analysis.coupling, prepared.groups, prepared.loaded.cost
        model = Model(coupling.graph.proto)
        counted: CostModel | None = None
        if cost.macs:
            shapes = counted_shapes(model, prepared.options.checks.input_shapes) | dict(cost.shapes)
            counted = macs(coupling, groups, shapes)
        timed: CostModel | None = None
        if times is not None:
            read = read_times(times, prepared.analysis)
            timed = latency(coupling, groups, measure_cost(model, read.input_shapes, run=True).shapes, read)
        return cls((parameters(coupling, groups), counted, timed), len(groups))

    @property
    def name(self) -> str:
        """What a gain is a share of."""
        _, counted, timed = self.models
        return "time" if timed is not None else "MACs" if counted is not None else "parameters"

    def of_removal(self, group: int, count: int) -> tuple[float, float | None, float | None]:
        """Shares of the parameters, MACs and time that are saved when so many channels of one group are removed."""
        params, counted, timed = (None if m is None else self._share(m, group, count) for m in self.models)
        assert params is not None
        return params, counted, timed

    def _share(self, model: CostModel, group: int, count: int) -> float:
        nothing = np.zeros(self.count, dtype=np.int64)
        return round(float(model.saving(nothing, group, count)) / max(float(model.left(nothing)), 1e-12), 6)


def _was_run(prepared: Prepared, data: CalibrationSplit | None) -> bool:
    """Whether damage is that of outputs: of trials, or of a model whose layers compensate for what they do not read."""
    assert prepared.damage is not None
    return data is not None or prepared.damage.measured


def _on(prepared: Prepared, data: CalibrationSplit | None) -> str:
    if prepared.loaded.data is None:
        return "synthetic inputs" if _was_run(prepared, data) else "weights alone"
    return ("held-out " if data is not None and data.held_out else "") + "calibration samples"


def _repair_in_words(prepared: Prepared, data: CalibrationSplit | None) -> str:
    method = prepared.options.repair.method
    if data is None and _was_run(prepared, data):
        return "once the layers that read the group compensate"
    if data is None or method == "none":
        return "without repair"
    return "after a refit of what follows" if method in LAYERWISE else f"after the repair {method}"


def _notes(
    prepared: Prepared, data: CalibrationSplit | None, evaluator: MetricEvaluator, shares: Sequence[float]
) -> list[str]:
    """What the numbers are worth."""
    notes = []
    if not _was_run(prepared, data) and (prepared.loaded.data is None or not shares):
        why = "Without calibration data nothing was run" if prepared.loaded.data is None else "The model is large"
        what = "damage is the share of the squared scores that is removed, which cannot be compared between groups"
        notes.append(f"{why}: {what}.")
    elif prepared.loaded.data is None:
        notes.append("Synthetic inputs are not the model's own: damage on real ones may differ, and so may the ranks.")
    elif data is not None and not data.held_out:
        notes.append("Too few samples to hold any out: the damage is of samples that the repair has seen, and too low.")
    if data is not None and len(shares) < len(SHARES):
        removed = ", ".join(f"{100 * share:g}%" for share in shares)
        tried = f"only the removal of {removed} was tried"
        notes.append(f"The model is large: {tried}; other damage is predicted from the layers that read a group.")
    elif not shares and _was_run(prepared, data):
        notes.append("The model is large: no removal was tried with the repair of a run, which does less damage.")
    if prepared.options.repair.trains and data is not None:
        notes.append("The training of the repair distilled was left out: the damage is that after a refit.")
    if evaluator.warning is not None:
        notes.append(evaluator.warning)
    return notes
