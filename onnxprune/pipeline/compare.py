"""Compares models with a reference: cost, time, and outputs on data or on synthetic inputs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx

from onnxprune.calibration import Samples
from onnxprune.cost.measure import Cost, measure
from onnxprune.errors import GIVE_DATA, InputError, option
from onnxprune.extensions.metrics import MetricFunction
from onnxprune.model.model import Model, load
from onnxprune.options import Calibration, Checks, checks
from onnxprune.pipeline.analysis import ModelSource, to_proto_or_path
from onnxprune.pipeline.data import CalibrationSplit, open_undivided
from onnxprune.pipeline.evaluate import evaluate
from onnxprune.pipeline.metric import NO_METRIC, make_evaluator
from onnxprune.planning import plan as planning
from onnxprune.planning.plan import Plan
from onnxprune.report.comparison import ComparedModel, ComparisonReport
from onnxprune.report.report import SYNTHETIC
from onnxprune.runtime.determinism import deterministic_run
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.verification import check
from onnxprune.verification.latency import Timing

ProtoOrPath = onnx.ModelProto | str | os.PathLike[str]

logger = logging.getLogger(__name__)


def compare(
    first: ModelSource,
    *others: ModelSource,
    calib: Any = None,
    samples: int | None = None,
    metric: str | MetricFunction | None = None,
    plan: Plan | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    runs: int = 20,
    seed: int = 0,
) -> ComparisonReport:
    """Compares models with the first one: parameters, MACs, bytes, latency, and how far their outputs are from its.

    With calibration data the outputs are compared on all of them: equal choices, accuracy lost, drift, and with labels
    (or a metric that needs none) the metric of each model with the interval of what is lost.

    Args:
        first: The reference: a path, a `ModelProto` or a `gs.Graph`.
        others: Models with the same inputs and outputs.
        calib: Data that none of the models was fitted to, see `calibration.open_samples`; None for synthetic inputs.
        samples: Samples to use at most.
        metric: See `options.Checks`.
        plan: What the other model, then the only one, lost of inputs and outputs.
        input_shapes: Shapes of graph inputs to count MACs, time and make synthetic inputs at.
        runs: Timed runs of each model.
        seed: Seed of what is drawn at random.

    Raises:
        InputError: A model or the data cannot be read or run, models differ in their outputs, or an option is unusable.
    """
    shapes = checks.shapes("input_shapes", {} if input_shapes is None else input_shapes)
    every = None if calib is None else sys.maxsize
    calibration, asked = Calibration(calib, every if samples is None else samples), Checks(metric=metric)
    runs, seed = checks.whole("runs", runs, 1), checks.whole("seed", seed, 0)
    if not others:
        raise InputError("there is nothing to compare the model with", "give two models or more")
    if metric is not None and calib is None:
        raise InputError(f"{option('metric')} is measured on calibration data", f"{GIVE_DATA}, labelled if you can")
    if plan is not None and len(others) > 1:
        raise InputError("a plan says what one model lost, and there are several", "compare two models with a plan")
    io_slices = WHOLE if plan is None else planning.io_slices(plan)
    sources = [to_proto_or_path(one) for one in (first, *others)]
    names = [os.fspath(s) if isinstance(s, (str, os.PathLike)) else f"model {i + 1}" for i, s in enumerate(sources)]
    with deterministic_run():
        costs = [measure(load(s), (io_slices if i else WHOLE).shapes(shapes)) for i, s in enumerate(sources)]
        found = _Reference(sources[0], shapes, runs, seed)
        data = found.open_data(calibration, asked)
        rest = zip(names[1:], sources[1:], costs[1:], strict=True)
        columns = [found.compared(name, source, cost, io_slices) for name, source, cost in rest]
        columns.insert(0, found.column(names[0], costs[0]))
    on = SYNTHETIC if data is None else "calibration samples"
    return ComparisonReport(columns, on, None if data is None else data.count, found.runs, found.threads)


class _Reference:
    """The first model, and what the others are compared on."""

    def __init__(self, source: ProtoOrPath, shapes: Mapping[str, Sequence[int]], runs: int, seed: int) -> None:
        self._source, self._shapes, self.runs, self._seed = source, shapes, runs, seed
        self._data: Samples | None = None
        self._evaluator = NO_METRIC
        self._time: Timing | None = None
        self.threads = 0

    def open_data(self, calibration: Calibration, asked: Checks) -> Samples | None:
        """Opens the data, and measures the metric of the reference."""
        if calibration.data is not None:
            self._data, _ = open_undivided(self._load(), calibration, self._seed)
            split = CalibrationSplit(self._data, self._data)
            logger.debug("%d samples", self._data.parts)  # a stream is read to its end, where its labels are known
            self._evaluator = make_evaluator(self._load, split, asked, self._seed)
            if self._evaluator.warning is not None:
                logger.warning("%s", self._evaluator.warning)
        return self._data

    def compared(self, name: str, source: ProtoOrPath, cost: Cost, io_slices: IoSlices) -> ComparedModel:
        """Another model beside the reference."""
        found = check.compare(
            self._source, source, input_shapes=self._shapes or None, runs=self.runs, io_slices=io_slices
        )
        self._time, self.threads = self._time or found.latency.before, found.latency.threads
        costs = cost.params, cost.macs, cost.bytes
        column = ComparedModel(name, *costs, found.latency.after, found.latency.ratio, found.drift)
        if self._data is None:
            return column
        original, model = self._load(), load(source)
        _check_outputs(original, model, name, io_slices)
        seen = evaluate(original, model, CalibrationSplit(self._data, self._data), io_slices)
        metric = None if self._evaluator.held is None else self._evaluator.held.of(model, io_slices)
        return replace(
            column, drift=seen.drift, decisions=seen.report.decisions, neighbours=seen.report.neighbours, metric=metric
        )

    def column(self, name: str, cost: Cost) -> ComparedModel:
        """The reference itself, once another model was compared with it."""
        assert self._time is not None
        metric = None if self._evaluator.held is None else self._evaluator.held.unchanged()
        return ComparedModel(name, cost.params, cost.macs, cost.bytes, self._time, 1.0, {}, None, metric)

    def _load(self) -> Model:
        return load(self._source)


def _check_outputs(first: Model, other: Model, name: str, io_slices: IoSlices) -> None:
    """Raises InputError where models have other outputs, so that data give nothing to compare."""
    before, after = ([o.name for o in model.proto.graph.output] for model in (first, other))
    if io_slices.left(before) != after:
        raise InputError(
            f"{name}: has the outputs {', '.join(after)}, and the first model has {', '.join(before)}",
            "compare models with the same outputs",
        )
