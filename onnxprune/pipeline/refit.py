"""The repair stage: runs the selected method, the package's own or one that was added."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from onnxprune.calibration import Samples
from onnxprune.errors import InputError, option
from onnxprune.extensions import points
from onnxprune.layers.real_weights import is_quantised
from onnxprune.model.model import Model
from onnxprune.options import Options
from onnxprune.pipeline.data import HELD_OUT_SHARE, CalibrationSplit, SyntheticFeeds
from onnxprune.pipeline.float_repair import with_floats
from onnxprune.pipeline.settle import why_not_data_free
from onnxprune.repair import calibrated, data_free
from onnxprune.repair.calibrated import Settings
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.repair.layerwise import Fitter, Refit
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.runtime.partition import CannotCut
from onnxprune.statistics.moments import REPAIR_ROWS, Rows
from onnxprune.verification.output_error import relative_errors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RepairJob:
    """Arguments of a repair method.

    Attributes:
        original: The model before pruning.
        pruned: The model after it; a repair changes its weights in place, and no shape.
        kept: Which indices of the original's values the pruned model still has, by the value's name and axis:
            ``kept.along(layer.output.name, 1, length)`` gives those of a convolution's output channels.
        data: Calibration data; None where there are none.
        method: Name of the repair.
        io_slices: What inputs and outputs of the pruned model lost: ``io_slices.batches(feeds)`` gives it its inputs.
        synthetic_feeds: Makes inputs where there are no data: a list of mappings from input name to array.
        seed: Seed of anything random.
        memory: Bytes that activations may take before they go to files.
        input_shapes: Shapes of graph inputs, where the model leaves them open.
        fitter: What fits a linear layer, where zeros are chosen on the way; only for the package's own methods.
        unrepaired: What to fall back to; the pruned model as it is by default.
        rows: How many positions are sampled of a layer; only for the package's own methods.
    """

    original: Model
    pruned: Model
    kept: KeptIndices
    data: CalibrationSplit | None
    method: str
    io_slices: IoSlices
    synthetic_feeds: SyntheticFeeds
    seed: int = 0
    memory: int = 10**9
    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    fitter: Fitter | None = field(default=None)
    unrepaired: Model | None = field(default=None)
    rows: Rows = REPAIR_ROWS

    @classmethod
    def of(
        cls,
        options: Options,
        original: Model,
        pruned: Model,
        kept: KeptIndices,
        data: CalibrationSplit | None,
        io_slices: IoSlices,
        synthetic_feeds: SyntheticFeeds,
        *,
        fitter: Fitter | None = None,
        unrepaired: Model | None = None,
    ) -> RepairJob:
        """A repair as the options of a run ask for it."""
        return cls(
            original,
            pruned,
            kept,
            data,
            options.repair.method,
            io_slices,
            synthetic_feeds,
            options.seed,
            options.resources.memory,
            options.checks.input_shapes,
            fitter,
            unrepaired,
        )

    def batches(self) -> Iterable[Mapping[str, NDArray[Any]]]:
        """Inputs of the original to learn from, by input name: calibration samples, else synthetic inputs."""
        return self.data.fit.batches() if self.data is not None else self._synthetic(held=False)

    def held_batches(self) -> Iterable[Mapping[str, NDArray[Any]]]:
        """Held-out inputs, which `batches` does not contain: the repair is accepted or rejected by them."""
        return self.data.held.batches() if self.data is not None else self._synthetic(held=True)

    def _synthetic(self, *, held: bool) -> list[Mapping[str, NDArray[Any]]]:
        feeds: list[Mapping[str, NDArray[Any]]] = list(self.synthetic_feeds())
        count = max(1, round(len(feeds) * HELD_OUT_SHARE))
        return feeds[:count] if held else feeds[count:] or feeds


def refit(job: RepairJob) -> list[Refit]:
    """Repairs a pruned model in place; returns a record of each layer.

    Raises:
        InputError: The model cannot be run in pieces, or an added method returns something else than a list of `Refit`.
    """
    method = points.repairs.get(job.method)
    if method.function is None:
        try:
            return _refit_by_own_method(job)
        except CannotCut as e:
            raise InputError(
                f"the model cannot be run in pieces: {e}", f"repair needs that: use {option('repair', 'none')}"
            ) from e
    before = job.pruned.copy()
    done = points.call("repair", method.name, method.function, job)
    if not isinstance(done, list) or not all(isinstance(r, Refit) for r in done):
        raise InputError(f"repair {method.name!r} must return a list of Refit, not {done!r}"[:200])
    return done if _nearer(job, before) else _taken_back(job, before, done)


def _refit_by_own_method(job: RepairJob) -> list[Refit]:
    """Carries out ``data-free`` or ``calibrated``; on quantised weights too, unless they are no better once rounded."""
    if job.fitter is not None or job.unrepaired is not None or not is_quantised(job.pruned):
        return _refit_floats(job)
    before = job.pruned.copy()

    def repair(original: Model, pruned: Model, kept: KeptIndices) -> list[Refit]:
        return _refit_floats(replace(job, original=original, pruned=pruned, kept=kept))

    done = with_floats(job.original, job.pruned, job.kept, job.memory, repair)
    return done if _nearer(job, before) else _taken_back(job, before, done)


def _refit_floats(job: RepairJob) -> list[Refit]:
    """Refits layers with floating-point weights, with data or without."""
    if job.data is not None and job.method != "data-free":
        return _calibrated(job)
    return data_free.repair(
        job.original,
        job.pruned,
        job.kept,
        job.synthetic_feeds(),
        seed=job.seed,
        memory=job.memory,
        io_slices=job.io_slices,
        fitter=job.fitter,
        input_shapes=job.input_shapes or None,
    )


def _calibrated(job: RepairJob) -> list[Refit]:
    """The calibrated repair of layers with floating-point weights."""
    assert job.data is not None and isinstance(job.data.fit, Samples)
    settings = Settings(job.seed, job.memory, job.io_slices, job.fitter, job.rows)
    able = job.fitter is None and why_not_data_free(job.original, job.input_shapes or None) is None
    return calibrated.repair(
        job.original,
        job.pruned,
        job.kept,
        job.data.fit,
        settings,
        fallback=job.unrepaired,
        synthetic=job.synthetic_feeds if able else None,
    )


def _nearer(job: RepairJob, before: Model) -> bool:
    """Whether the outputs on samples that the repair has not seen are nearer to the original's than before."""
    was, now = relative_errors(job.original, [before, job.pruned], job.held_batches(), job.io_slices)
    logger.info("squared error of the outputs: %.3g pruned, %.3g repaired", was, now)
    return now < was


def _taken_back(job: RepairJob, before: Model, done: list[Refit]) -> list[Refit]:
    job.pruned.proto.CopyFrom(before.proto)
    return [Refit(r.layer, None, r.before, r.before) for r in done]
