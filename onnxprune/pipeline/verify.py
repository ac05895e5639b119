"""The stage of verification."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from numpy.typing import NDArray

from onnxprune.model.model import Model
from onnxprune.options import Checks
from onnxprune.pipeline.prepare import Prepared
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.runtime.session import Source
from onnxprune.verification.check import Verification, check

SKIPPED = Verification(verified=False, reason="the runtime check was skipped")


def verify_pruned(prepared: Prepared, model: Model, io_slices: IoSlices) -> Verification:
    """Checks a pruned model of a run against its original, on samples where it does not take inputs that are made up.

    Raises:
        VerificationError: It fails in onnxruntime where the original does not.
    """
    checks, data = prepared.options.checks, prepared.loaded.data
    with prepared.clock.stage("verify"):
        verifying = partial(verify, prepared.original.source, model, checks, io_slices=io_slices)
        found = verifying(seed=prepared.options.seed)
        if found.verified or not checks.verify or data is None:
            return found
        feeds = next(iter(data.held.batches()), None)
        return found if feeds is None else verifying(feeds=feeds)


def verify(
    original: Source,
    pruned: Source,
    checks: Checks,
    *,
    feeds: Mapping[str, NDArray[Any]] | None = None,
    seed: int = 0,
    io_slices: IoSlices = WHOLE,
) -> Verification:
    """Checks a pruned model against its original, unless that is switched off, see `verification.check`.

    Raises:
        VerificationError: It fails in onnxruntime where the original does not.
    """
    if not checks.verify:
        return SKIPPED
    shapes = checks.input_shapes or None
    return check(original, pruned, feeds, input_shapes=shapes, seed=seed, io_slices=io_slices)
