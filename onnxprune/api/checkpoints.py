"""What is done with a plan or with a pruned model later: apply the plan to a checkpoint, verify a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from onnxprune.common.progress import ProgressCallback
from onnxprune.errors import InputError, option
from onnxprune.extensions.metrics import MetricFunction
from onnxprune.options import EPOCHS, Calibration, Checks, Repair, Resources
from onnxprune.options import checks as checks_of
from onnxprune.pipeline.analysis import ModelSource, to_proto_or_path
from onnxprune.pipeline.apply import Application, apply_plan
from onnxprune.pipeline.grow import Growth
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.progress import Clock
from onnxprune.pipeline.result import Result
from onnxprune.planning.plan import Plan, io_slices
from onnxprune.runtime.determinism import limited_run
from onnxprune.runtime.io_slices import WHOLE
from onnxprune.verification.check import Verification, check


def apply(
    plan: Plan,
    model: ModelSource,
    *,
    calib: Any = None,
    samples: int | None = None,
    repair: str = "auto",
    epochs: int = EPOCHS,
    minutes: float | None = None,
    metric: str | MetricFunction | None = None,
    seed: int = 0,
    verify: bool = True,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    strict: bool = False,
    time_limit: float | None = None,
    grow_from: Plan | None = None,
    trained: ModelSource | None = None,
) -> Result:
    """Applies a plan to a checkpoint of the architecture that it was made for.

    Args:
        plan: The plan.
        model: A path, a `ModelProto` or a `gs.Graph`; it is not changed.
        calib: Calibration data: with them the remaining layers are repaired, and the result is evaluated.
        samples: Calibration samples to use at most; None for 1,024, see `Calibration`.
        repair: ``auto`` is ``calibrated`` with data, else ``none``.
        epochs: Passes over the calibration samples in the training of a distilled repair.
        minutes: Time after which no further pass begins.
        metric: What is measured on held-out samples.
        seed: Seed of anything random.
        verify: Run both models in onnxruntime and compare them.
        input_shapes: Shapes of graph inputs to count MACs at and to run with.
        strict: Write no model that comes with a warning.
        time_limit: Seconds that it may take until it writes.
        grow_from: A plan that was applied to the model before: its channels come back where `plan` keeps them, with the
            weights of `model`, and without effect until a repair or a training puts them to use.
        trained: The model that `grow_from` made, trained since, whose weights are taken.

    Raises:
        InputError: The model cannot be read (`ModelError`), the plan does not fit it (`PlanError`), the data are
            unusable (`DataError`), or an option is.
        VerificationError: The result fails in onnxruntime where the original does not.
        TimeLimitError: It takes longer than `time_limit`.
    """
    checks = Checks(verify, {} if input_shapes is None else input_shapes, strict=strict, metric=metric)
    training, resources = Repair(repair, epochs, minutes), Resources(time_limit=time_limit)
    back = growth(grow_from, trained)
    return run_plan(plan, model, Application(checks, Calibration(calib, samples), training, resources, seed, back))


def growth(grow_from: Plan | None, trained: ModelSource | None) -> Growth | None:
    """What grows back; None for nothing.

    Raises:
        InputError: One of the two is given without the other.
    """
    if (grow_from is None) != (trained is None):
        raise InputError(f"{option('grow_from')} and {option('trained')} go together", "a plan, and what it made")
    if grow_from is None or trained is None:
        return None
    checks_of.instance("grow_from", grow_from, Plan)
    return Growth(grow_from, Original.of(trained))


def run_plan(
    plan: Plan, model: ModelSource, application: Application, progress: ProgressCallback | None = None
) -> Result:
    """Applies a plan, then counts and verifies as `run` does."""
    checks_of.instance("plan", plan, Plan)
    with limited_run(application.resources):
        return apply_plan(plan, Original.of(model), application, Clock(progress))


def verify(
    original: ModelSource,
    pruned: Result | ModelSource,
    *,
    plan: Plan | None = None,
    feeds: Mapping[str, NDArray[Any]] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
) -> Verification:
    """Checks a pruned model against its original in onnxruntime: valid, of the same interface, and how far it moved.

    Args:
        original: The model before pruning.
        pruned: The result of a run, or the model after it.
        plan: What was taken, for what inputs and outputs lost; a `Result` has its own.
        feeds: Inputs to run both with; synthetic ones, of `input_shapes`, by default.
        input_shapes: Shapes of graph inputs.
        seed: Seed of the inputs.

    Raises:
        InputError: A model is unreadable, or an option unusable.
        VerificationError: The pruned model fails where the original does not.
    """
    target = pruned._model if isinstance(pruned, Result) else to_proto_or_path(pruned)
    known_plan = pruned.plan if plan is None and isinstance(pruned, Result) else plan
    if known_plan is not None:
        checks_of.instance("plan", known_plan, Plan)
    lost_slices = WHOLE if known_plan is None else io_slices(known_plan)
    shapes = checks_of.shapes("input_shapes", {} if input_shapes is None else input_shapes)
    source = to_proto_or_path(original)
    return check(source, target, feeds, input_shapes=shapes or None, seed=seed, io_slices=lost_slices)
