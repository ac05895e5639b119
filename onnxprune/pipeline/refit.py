"""The stage of repair: carries out the method that is asked for, the package's own or one that was added."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from onnxprune import extensions
from onnxprune.errors import InputError
from onnxprune.model.model import Model
from onnxprune.options import Options
from onnxprune.pipeline.data import HELD_OUT_SHARE, CalibrationSplit, SyntheticFeeds
from onnxprune.pipeline.repair import kept_indices, repair
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.repair.layerwise import Fitter, Refit
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.verification.output_error import relative_errors

__all__ = ["RepairJob", "kept_indices", "refit"]

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
        options: The options of the run: the seed, and the memory that activations may take.
        io_slices: What inputs and outputs of the pruned model lost: ``io_slices.batches(feeds)`` gives it its inputs.
        synthetic_feeds: Makes inputs where there are no data: a list of mappings from input name to array.
        fitter: What fits a linear layer, where zeros are chosen on the way; only for the package's own methods.
        unrepaired: What to fall back to; the pruned model as it is by default.
    """

    original: Model
    pruned: Model
    kept: KeptIndices
    data: CalibrationSplit | None
    options: Options
    io_slices: IoSlices
    synthetic_feeds: SyntheticFeeds
    fitter: Fitter | None = field(default=None)
    unrepaired: Model | None = field(default=None)

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
    """Repairs a pruned model in place with the method of its options; returns a record of each layer.

    Raises:
        InputError: The model cannot be run in pieces, or an added method returns something else than a list of `Refit`.
    """
    method = extensions.repairs.get(job.options.repair.method)
    if method.function is None:
        return repair(
            job.original,
            job.pruned,
            job.kept,
            job.data,
            job.options,
            job.io_slices,
            job.synthetic_feeds,
            fitter=job.fitter,
            plain=job.unrepaired,
        )
    before = job.pruned.copy()
    done = extensions.call("repair", method.name, method.function, job)
    if not isinstance(done, list) or not all(isinstance(r, Refit) for r in done):
        raise InputError(f"repair {method.name!r} must return a list of Refit, not {done!r}"[:200])
    return done if _nearer(job, before) else _taken_back(job, before, done)


def _nearer(job: RepairJob, before: Model) -> bool:
    """Whether the outputs on samples that the repair has not seen are nearer to the original's than before."""
    was, now = relative_errors(job.original, [before, job.pruned], job.held_batches(), job.io_slices)
    logger.info("squared error of the outputs: %.3g pruned, %.3g repaired", was, now)
    return now < was


def _taken_back(job: RepairJob, before: Model, done: list[Refit]) -> list[Refit]:
    job.pruned.proto.CopyFrom(before.proto)
    return [Refit(r.layer, None, r.before, r.before) for r in done]
