"""The stage of verification."""

from __future__ import annotations

from functools import partial

from onnxprune.model.model import Model
from onnxprune.options import Checks
from onnxprune.pipeline.data import CalibrationSplit
from onnxprune.pipeline.prepare import Prepared
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.runtime.session import Source
from onnxprune.verification.check import Verification, check

SKIPPED = Verification(verified=False, reason="the runtime check was skipped")


def verify_pruned(prepared: Prepared, model: Model, io_slices: IoSlices) -> Verification:
    """Checks a pruned model of a run against its original, see `verify`.

    Raises:
        VerificationError: It fails in onnxruntime where the original does not.
    """
    options, source = prepared.loaded.options, prepared.original.source
    with prepared.clock.stage("verify"):
        return verify(source, model, options.checks, prepared.loaded.data, seed=options.seed, io_slices=io_slices)


def verify(
    original: Source,
    pruned: Source,
    checks: Checks,
    data: CalibrationSplit | None,
    *,
    seed: int = 0,
    io_slices: IoSlices = WHOLE,
) -> Verification:
    """Checks a pruned model against its original, unless that is switched off, see `verification.check`.

    It does so on inputs that are made up, or else, where the original does not take these, on calibration samples.

    Raises:
        VerificationError: It fails in onnxruntime where the original does not.
    """
    if not checks.verify:
        return SKIPPED
    checked = partial(check, original, pruned, input_shapes=checks.input_shapes or None, io_slices=io_slices)
    found = checked(seed=seed)
    feeds = None if found.verified or data is None else next(iter(data.held.batches()), None)
    return found if feeds is None else checked(feeds)
