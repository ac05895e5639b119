"""Fine-tuning of a model on labels, on a teacher, or on both: the stages of `onnxprune.finetune`."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import onnx

from onnxprune.calibration import Samples
from onnxprune.common.progress import ProgressCallback
from onnxprune.common.text import plural
from onnxprune.errors import WITH_WARNINGS, DataError, GateError, InputError, Words, option
from onnxprune.extensions.metrics import MetricFunction
from onnxprune.extensions.patterns import Pattern
from onnxprune.graph.graph import Graph, Value
from onnxprune.graph.shape_inference import infer
from onnxprune.losses.functions import FunctionLoss, LossFunction, as_loss
from onnxprune.model.model import Model
from onnxprune.model.save import save
from onnxprune.model.sparse_initializers import densify, resparsify
from onnxprune.options import Calibration, Checks, Resources, checks
from onnxprune.options.gradual import GradualOptions
from onnxprune.pipeline.analysis import ModelSource, inline_functions
from onnxprune.pipeline.checksums import checksum, data_checksums, model_checksum
from onnxprune.pipeline.data import CalibrationSplit, open_data
from onnxprune.pipeline.inputs_seen import inputs_seen, unused
from onnxprune.pipeline.metric import MetricEvaluator, make_evaluator
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.progress import Clock
from onnxprune.pipeline.result import Result
from onnxprune.pipeline.resume import OBJECTS, ends_elsewhere, keeping_steps
from onnxprune.pipeline.verify import verify
from onnxprune.report.finetune import FineTuningReport
from onnxprune.report.metric import MetricReport
from onnxprune.report.warnings import doubtful_inputs
from onnxprune.runtime.determinism import limited_run
from onnxprune.runtime.io_slices import WHOLE
from onnxprune.training.finetune import EPOCHS, Settings
from onnxprune.training.finetune import finetune as train
from onnxprune.training.gradual import ChannelPruner, Pruner, Ramp, ZeroPruner

JUDGE_SHARE, MOST_JUDGES = 0.15, 250
"""Share of the samples to train on that weights are chosen by instead, and how many they are at most."""
FEWEST = 4
"""With fewer samples than this nothing is trained."""


class FineTuned:
    """A fine-tuned model and the report on it.

    Attributes:
        report: What was done.
    """

    def __init__(self, model: Model, report: FineTuningReport, strict: bool) -> None:
        self._model, self.report, self._strict = model, report, strict

    def __repr__(self) -> str:
        training = self.report.training
        return f"FineTuned(loss {training.before} -> {training.after}, epochs={training.epochs})"

    @property
    def model(self) -> onnx.ModelProto:
        """The model."""
        return self._model.proto

    @property
    def stopped(self) -> str | None:
        """Why the model is not to be written: warnings of a strict run; None where there are none."""
        return "; ".join(self.report.warnings if self._strict else []) or None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model, whole or not at all.

        Raises:
            InputError: The folder does not exist, or the path is that of the input.
            GateError: A warning came of a run that was `strict`.
            OutputError: Writing failed.
        """
        if self.stopped is not None:
            raise GateError(self.stopped, WITH_WARNINGS)
        save(self._model, path)


def finetune(
    model: Result | ModelSource,
    calib: Any,
    *,
    teacher: ModelSource | None = None,
    loss: str | LossFunction | None = None,
    epochs: int = EPOCHS,
    minutes: float | None = None,
    rate: float | None = None,
    schedule: str | None = None,
    start: float | None = None,
    end: float | None = None,
    steps: int | None = None,
    pattern: str | Pattern | None = None,
    importance: str | None = None,
    metric: str | MetricFunction | None = None,
    samples: int | None = None,
    seed: int = 0,
    strict: bool = False,
    time_limit: float | None = None,
    progress: ProgressCallback | None = None,
    work: str | os.PathLike[str] | None = None,
) -> FineTuned:
    """Trains all weights of a model, and takes those that are surely better on samples that were held back.

    Shapes stay as they are, and so do zeros of weights that have many of them. A BatchNormalization is trained with its
    stored statistics.

    Args:
        model: The model: a path, a `ModelProto`, a `gs.Graph` or the result of a run; it is not changed.
        calib: The training data, with labels or without, as for `prune`.
        teacher: A model with the same inputs and outputs, say the one before pruning, whose outputs are learnt too.
        loss: ``cross-entropy`` (labels are ids of classes or a probability a class), ``bce`` (classes that stand
            alone), ``mse`` (quantities), ``ctc`` (sequences of classes that are not aligned; ``ctc:N`` says that the
            blank is class N), or a function of outputs by name and labels, or its name ``module:function``, that
            returns the loss and its gradients by name; None for the one that the output and the labels tell.
        epochs: Passes over the samples.
        minutes: Time after which no further pass begins; how many there are then depends on the machine.
        rate: The highest rate, as a share of the size of the weights; by default 0.004 where a teacher is learnt, 0.001
            where labels are, and in between where both are.
        schedule: ``cubic`` or ``linear``, to prune while the model is trained: the share rises over the first two
            thirds of the training.
        start: Share that is pruned at once; 0 by default.
        end: Share that is pruned in the end, of the channels of each group, or of the elements of each weight.
        steps: In how many steps it is reached; 10 by default.
        pattern: ``channels`` (the default), or a pattern of zeros, see `prune`.
        importance: What scores channels or zeros: a criterion of weights (by default ``l2``), or ``movement``.
        metric: What is measured before and after, see `prune`.
        samples: Samples to use at most; None for all.
        seed: Seed of anything random.
        strict: Write no model that comes with a warning.
        time_limit: Seconds that it may take until it writes.
        progress: Called with the progress of the run.
        work: A folder that keeps the state after the latest epoch: the same call goes on from there where it was
            killed, and makes the same bytes. The data have to be files.

    Raises:
        InputError: A model or the data cannot be read, or do not fit, or an option is unusable.
        TimeLimitError: It takes longer than `time_limit`.
    """
    gradual = GradualOptions.of(schedule, start, end, steps, pattern, importance)
    epochs = checks.whole("epochs", epochs, 1)
    minutes, rate = (
        None if number is None else checks.positive(name, number)
        for name, number in (("minutes", minutes), ("rate", rate))
    )
    limit = sys.maxsize if samples is None else samples
    calibration, asked = Calibration(calib, limit), Checks(metric=metric, strict=strict)
    asked_loss = as_loss(loss)
    named = asked_loss.name if isinstance(asked_loss, FunctionLoss) else asked_loss
    seed = checks.whole("seed", seed, 0)
    ramp, pruner = _ramp(gradual), _pruner(gradual, seed)
    settings = Settings(epochs, minutes, rate, asked_loss, seed, ramp=ramp, pruner=pruner)
    source = Original.of(model.proto if isinstance(model, Result) else model)
    teaching = None if teacher is None else Original.of(teacher)
    clock, options = Clock(progress), {"loss": named, "epochs": epochs, "minutes": minutes, "rate": rate, "seed": seed}
    options |= gradual.to_dict()
    objects = not isinstance(calib, str) or callable(loss) or callable(metric) or isinstance(pattern, Pattern)
    why_not = OBJECTS if objects else ends_elsewhere() if minutes is not None else None
    depends = partial(_depends, source, teaching, {**options, "calib": calib, "samples": samples, "metric": metric})
    with limited_run(Resources(time_limit=time_limit)), keeping_steps(work, depends, why_not):
        return _run(source, teaching, calibration, asked, settings, clock, options)


def _depends(source: Original, teaching: Original | None, asked: dict[str, Any]) -> dict[str, str]:
    """Checksums of what the steps of a run depend on."""
    models = {"model": source, "teacher": teaching}
    return {
        **{name: "none" if one is None else model_checksum(one.source) for name, one in models.items()},
        "training data": checksum(data_checksums(asked)),
        "options": checksum(asked),
    }


def _ramp(asked: GradualOptions) -> Ramp | None:
    return None if asked.schedule is None else Ramp(asked.schedule, asked.start, asked.end, asked.steps)


def _pruner(asked: GradualOptions, seed: int) -> Callable[[Model], Pruner] | None:
    """Makes what chooses the zeros or channels of a model."""
    zeros, criterion = asked.pattern, asked.criterion
    if asked.schedule is None:
        return None
    if zeros is None:
        return lambda model: ChannelPruner(model, criterion, seed)
    return lambda model: ZeroPruner(model, zeros, criterion)


def _run(
    source: Original,
    teaching: Original | None,
    calibration: Calibration,
    asked: Checks,
    settings: Settings,
    clock: Clock,
    options: dict[str, Any],
) -> FineTuned:
    clock.expect({"load": 1.0, "train": 100.0, "judge": 2.0, "verify": 2.0})
    with clock.stage("load"):
        model, teacher = source.load(), None if teaching is None else teaching.dense()
        inline_functions(model)
        sparse = densify(model)
        _check_interfaces(model, teacher)
        data = open_data(model, calibration, settings.seed, clock.samples)
        assert data is not None
        learn, judges = _divided(data)
        doubts = [*doubtful_inputs(inputs_seen(data), unused(data)), *_doubtful_labels(data)]
        evaluator = make_evaluator(source.load, data, asked, settings.seed)
    with clock.stage("train"):
        training = train(model, teacher, learn, judges, settings)
    resparsify(model, sparse)
    with clock.stage("judge"):
        metric = evaluator.measure(model, WHOLE, changed=training.best is not None)
        taught = None if teaching is None else _of_teacher(teaching, data, asked, settings.seed)
    with clock.stage("verify"):
        verified = verify(source.source, model, asked, data)
    report = FineTuningReport(training, metric, taught, verified.verified, options, seconds=dict(clock.seconds))
    report.warnings.extend(map(Words, [*doubts, *_warnings(report, evaluator)]))
    return FineTuned(model, report, asked.strict)


def _check_interfaces(model: Model, teacher: Model | None) -> None:
    """Raises InputError where the teacher has other inputs or outputs, or outputs of another shape."""
    if teacher is None:
        return
    for kind in ("input", "output"):
        mine, other = ([v.name for v in getattr(m.proto.graph, kind)] for m in (model, teacher))
        if mine != other and (kind == "output" or set(mine) != set(other)):
            raise InputError(
                f"{option('teacher')} has the {kind}s {', '.join(other)}, and the model has {', '.join(mine)}",
                "the teacher is the model before pruning",
            )
    theirs = {value.name: value for value in _outputs(teacher)}
    for value in _outputs(model):
        here, there = value.shape, theirs[value.name].shape
        if here is None or there is None:
            continue
        both = itertools.zip_longest(here, there, fillvalue=0)
        if any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in both) or len(here) != len(there):
            wide, own = (", ".join("?" if n is None else str(n) for n in shape) for shape in (there, here))
            raise InputError(
                f"output {value.name!r} of {option('teacher')} has shape [{wide}], and the model's [{own}]",
                "the teacher is the model before pruning",
            )


def _outputs(model: Model) -> list[Value]:
    """The outputs of a model, with what is known of their shapes."""
    graph = Graph(model.proto)
    infer(graph)
    return [value for value in graph.main.outputs if value is not None]


def _divided(data: CalibrationSplit) -> tuple[Samples, Samples]:
    """Samples to train on, and samples that weights are chosen by."""
    assert isinstance(data.fit, Samples)
    if data.fit.parts < FEWEST or not data.held_out:
        raise DataError(
            f"{data.fit.parts} samples are too few to train on and to hold some back", "give dozens at least"
        )
    return data.fit.split(min(JUDGE_SHARE, MOST_JUDGES / data.fit.parts))


def _doubtful_labels(data: CalibrationSplit) -> Iterator[str]:
    """A warning of labels that are no numbers, with which nothing is learnt or judged."""
    labels = [
        part.labels for part in (data.fit, data.held) if part.labels is not None and part.labels.dtype.kind == "f"
    ]
    broken = sum(int((~np.isfinite(array).reshape(len(array), -1).all(axis=1)).sum()) for array in labels)
    if broken:
        yield f"calibration data: labels have values that are not finite in {plural(broken, 'sample')}"


def _of_teacher(teaching: Original, data: CalibrationSplit, asked: Checks, seed: int) -> float | None:
    """The metric of the teacher; None without labels."""
    found: MetricReport | None = make_evaluator(teaching.load, data, asked, seed).measure(
        teaching.load(), WHOLE, changed=False
    )
    return None if found is None else found.before


def _warnings(report: FineTuningReport, evaluator: MetricEvaluator) -> list[str]:
    unmeasured = evaluator.held is None  # else it says that the model knows nothing of the labels, as before a training
    lines = [evaluator.warning] if unmeasured and evaluator.warning is not None else []
    training = report.training
    if training.skipped is not None:
        lines.append(f"nothing was trained: {training.skipped}")
    elif training.best is None:
        lines.append("the training made nothing surely better on held-back samples: the weights are as they were")
    if training.lost:
        steps = plural(training.lost, "step")
        lines.append(f"{steps} of the training left weights as they were: their gradients were not finite")
    return lines
