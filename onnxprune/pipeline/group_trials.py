"""Trials of single groups: removes channels of one group, repairs what follows, and evaluates the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration import Samples
from onnxprune.edit.remove import remove
from onnxprune.graph.graph import Graph
from onnxprune.layers.find import linear_layers
from onnxprune.options.repair import DISTILLED
from onnxprune.pipeline.analysis import reanalyze
from onnxprune.pipeline.data import HELD_OUT_SHARE, CalibrationSplit, _divided, _Synthetic
from onnxprune.pipeline.evaluate import evaluate
from onnxprune.pipeline.float_repair import with_floats
from onnxprune.pipeline.kept_indices import kept_indices
from onnxprune.pipeline.metric import NO_METRIC, MetricEvaluator, make_evaluator
from onnxprune.pipeline.prepare import Prepared, opened
from onnxprune.pipeline.progress import Clock
from onnxprune.pipeline.refit import RepairJob, refit
from onnxprune.pipeline.sent import SentRun
from onnxprune.planning import plan
from onnxprune.repair import layerwise
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.statistics.moments import Rows, rows_for

Index = NDArray[np.int64]

WORK = 2.5e12
"""Multiplications that all trials together may take: about a minute of one core."""
SAMPLES, FEWEST = 256, 32
"""Samples that a trial is repaired with, and evaluated on, at most; and at least, where work is limited."""
BATCHES = 10
"""Batches that the samples of a refit are divided into: layers hold out whole batches."""
PASSES = 6
"""How often a trial runs the model on a sample: original and pruned model in repair, errors, choices."""
LAYERWISE = ("calibrated", DISTILLED)
"""Repairs that a trial makes the layer-wise part of: joint refits and a training would take too long for each."""
TRIAL_ROWS = Rows(50, 4096)
"""Positions that a layer is fitted on: a quarter of what a repair takes, which is enough to compare damage."""
TRIAL_PENALTIES = (1e-3, 1e-1, 10.0)
"""Ridges that a layer is fitted with, fewer than in a repair."""
FITS = 4
"""What the fits of a trial take for each product of two columns at a position: in half of the layers, those behind the
group, several sums of products, and less efficiently than a model runs."""
START = 4e10
"""What a trial takes before that, in multiplications: about a second, to cut the model and to start its runs."""


@dataclass(frozen=True)
class Trial:
    """What was measured after the removal of some channels.

    Attributes:
        damage: Squared error of the outputs relative to their variance; infinite where they are not finite.
        agreement: Share of the choices that equal the original's; None where no output chooses.
        metric: The metric; None where there is none.
        drop: How much of it is lost.
    """

    damage: float
    agreement: float | None
    metric: float | None
    drop: float | None


@dataclass(frozen=True)
class Extent:
    """What trials are made of.

    Attributes:
        shares: The shares of a group's channels that are removed in a trial.
        samples: Samples to repair with, and samples to evaluate on, of each trial.
    """

    shares: Sequence[float]
    samples: int


def affordable(work: Callable[[int], float], groups: int, shares: Sequence[float], middle: float) -> Extent:
    """How much is tried, so that all trials take no more than `WORK`.

    Every share, with `SAMPLES` samples or with fewer of them; else all but the smallest and the largest; else the
    middle share alone; else none.

    Args:
        work: Multiplications of a trial with so many samples.
        groups: How many groups there are.
        shares: The shares to try, ascending.
        middle: The most important of them.
    """
    for tried, fewest in ((shares, SAMPLES // 2), (shares[1:-1], SAMPLES // 2), ((middle,), FEWEST)):
        for samples in range(SAMPLES, fewest - 1, -FEWEST // 2):
            if work(samples) * groups * len(tried) <= WORK:
                return Extent(tried, samples)
    return Extent((), 0)


def work_of(prepared: Prepared) -> Callable[[int], float]:
    """Multiplications of a trial by how many samples it has, as far as shapes are known."""
    cost, fits = prepared.loaded.cost, list[tuple[int, int, int]]()
    for layer in linear_layers(prepared.analysis.coupling.graph) if prepared.options.repair.method != "none" else ():
        shape = cost.shapes.get(layer.output.name)
        if shape:
            positions = math.prod(shape) // max(shape[layer.out_axis], 1)
            fits.append((positions, rows_for(layer.columns, 1, TRIAL_ROWS), layer.groups * layer.columns**2))

    def work(samples: int) -> float:
        products = sum(min(most, positions * samples) * columns for positions, most, columns in fits)
        return START + PASSES * (cost.macs or 0) * samples + FITS * products

    return work


def split(prepared: Prepared, samples: int) -> CalibrationSplit | None:
    """Calibration samples, or the synthetic inputs of a data-free repair, cut to a number of samples a part."""
    data = prepared.loaded.data
    if data is None:
        if prepared.options.repair.method != "data-free":
            return None
        data = CalibrationSplit(*_divided(_Synthetic(prepared.synthetic_feeds()), HELD_OUT_SHARE))
    fit = cut(data.fit, samples)
    return replace(data, fit=fit, held=cut(data.held, samples) if data.held_out else fit)


def cut(samples: Samples | _Synthetic, most: int) -> Samples | _Synthetic:
    """As many of some samples, drawn at random."""
    count = samples.count or 0
    return samples.split(most / count)[1] if 0 < most < count and samples.parts > 1 else samples


class GroupTrials:
    """Removes channels of single groups of a prepared model; in another process it prepares the model there."""

    def __init__(self, prepared: Prepared, data: CalibrationSplit, evaluator: MetricEvaluator, samples: int) -> None:
        """Keeps what trials share.

        Args:
            prepared: The model, its analysis and options; not changed.
            data: Samples to repair with, and held-out ones.
            evaluator: Measures the metric on the held-out samples.
            samples: How many samples each of the two parts has at most.
        """
        self._prepared, self._data, self._evaluator, self._samples = prepared, data, evaluator, samples

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (SentRun.of(self._prepared.original, self._prepared.options), self._samples)

    def __call__(self, task: tuple[int, Index]) -> Trial:
        """Removes channels of one group, and measures what that does.

        Args:
            task: Number of the group, and positions of the channels in it.
        """
        prepared, units = self._prepared, task[1]
        group = prepared.groups[task[0]]
        whole = prepared.analysis
        removed = np.zeros(whole.coupling.classes.elements, dtype=bool)
        removed[group.channels[units]] = True
        slices = plan.io_slices(plan.make(whole.coupling, removed))
        pruned = reanalyze(whole, whole.model.copy())
        remove(pruned.model, pruned.coupling, removed)
        if prepared.options.repair.method != "none":
            kept = following(kept_indices(whole.coupling, removed), whole.coupling.graph)
            self._repair(
                RepairJob.of(
                    prepared.options,
                    prepared.original.dense(),
                    pruned.model,
                    kept,
                    self._data if prepared.loaded.data is not None else None,
                    slices,
                    lambda: [dict(feeds) for feeds in self._data.fit.batches()],
                )
            )
        found = evaluate(prepared.original.load(), pruned.model, self._data, slices).report
        metric = self._evaluator.measure(pruned.model, slices, changed=True)
        return Trial(
            math.inf if found.relative_error is None else found.relative_error,
            None if found.decisions is None else found.decisions.agreement.mean,
            None if metric is None else metric.after,
            None if metric is None or metric.drop is None else metric.drop.mean,
        )

    def _repair(self, job: RepairJob) -> None:
        """Of the repairs in `LAYERWISE` the layer-wise part, of any other the whole."""
        if job.method not in LAYERWISE:
            refit(job)
            return
        fit = self._data.fit
        assert isinstance(fit, Samples)
        batches = fit.in_batches(max(1, fit.parts // BATCHES))
        repair = partial(
            layerwise.repair,
            batches=batches,
            count=sum(1 for _ in batches),
            seed=job.seed,
            memory=job.memory,
            io_slices=job.io_slices,
            fitter=layerwise.Ridge(TRIAL_PENALTIES),
            rows=TRIAL_ROWS,
        )
        with_floats(job.original, job.pruned, job.kept, job.memory, repair)


def _received(run: SentRun, samples: int) -> GroupTrials:
    original, options = run.received()
    prepared = opened(original, options, Clock())
    data = split(prepared, samples)
    assert data is not None
    return GroupTrials(prepared, data, evaluator_of(prepared, data), samples)


def evaluator_of(prepared: Prepared, data: CalibrationSplit) -> MetricEvaluator:
    """What measures the metric on some held-out samples: of synthetic inputs there is none."""
    if prepared.loaded.data is None:
        return NO_METRIC
    return make_evaluator(prepared.original.load, data, prepared.options.checks, prepared.options.seed)


def following(kept: KeptIndices, graph: Graph) -> KeptIndices:
    """The same for the layers alone that a removal reaches: what the others compute is what it was.

    Args:
        kept: What the pruned model has of the original's values.
        graph: The original.
    """
    changed, reached = set(kept.axes), set[str]()
    for node in graph.main.nodes:
        names = {*node.proto.input, *node.proto.output} - {""}
        if node.bodies or changed & names:  # a body may read any value
            made = set(node.proto.output) - {""}
            reached |= made
            changed |= made
    return replace(kept, layers=kept.layers & reached)
