"""A refit of an allocation on a part of the samples, for choosing among several."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from onnxprune.allocation.selection import Selection
from onnxprune.calibration import Samples
from onnxprune.edit.remove import remove
from onnxprune.options import Options
from onnxprune.pipeline.analysis import Analysis, reanalyze
from onnxprune.pipeline.data import CalibrationSplit
from onnxprune.pipeline.float_repair import with_floats
from onnxprune.pipeline.kept_indices import kept_indices
from onnxprune.pipeline.prepare import Prepared
from onnxprune.planning import plan as planning
from onnxprune.repair import calibrated
from onnxprune.verification.output_error import measured

JUDGES, FEWER_JUDGES = 0.4, 0.2
"""Share of the samples to fit on that judge a short refit and a complete one; what is chosen is fitted to them too."""
FEWEST, MOST, MACS = 16, 192, 2e10
"""Samples that it takes, and how many are used at most; multiplications that all of them together may take."""


def can_tell(data: CalibrationSplit | None, options: Options) -> bool:
    """Whether there are enough samples, and layers are refitted to them."""
    return data is not None and options.repair.method == "calibrated" and data.fit.parts >= FEWEST


def refitted_error(
    prepared: Prepared,
    analysis: Analysis,
    selected: Selection,
    blocks: Sequence[dict[str, Any]] = (),
    *,
    complete: bool = False,
) -> float:
    """Error of the outputs after a removal and a refit, relative to their variance.

    A short refit, layer by layer, tells allocations of channels apart. It does not tell them from blocks: what later
    stages take off is damage of channels.

    Args:
        prepared: The run; of its calibration data only what is not held out is used.
        analysis: The analysis of what channels are removed from; its model is not changed.
        selected: What is removed.
        blocks: The blocks that the model of the analysis lacks, as entries of a plan, besides those of the run.
        complete: Whether the refit is the whole repair, on more samples.
    """
    data, options, macs = prepared.loaded.data, prepared.options, prepared.cost.macs or 0
    assert data is not None  # `can_tell`, and the options
    copy = reanalyze(analysis, analysis.model.copy())
    gone = [*prepared.blocks, *blocks]
    io_slices = planning.io_slices(planning.make(copy.coupling, selected.removed, selected.entries, gone))
    kept = kept_indices(copy.coupling, selected.removed)
    remove(copy.model, copy.coupling, selected.removed)
    samples = data.fit
    assert isinstance(samples, Samples)
    most = min(MOST, max(FEWEST, int(MACS / max(macs, 1))))
    if samples.parts > most:
        _, samples = samples.split(most / samples.parts)
    learn, judges = samples.split(FEWER_JUDGES if complete else JUDGES)
    settings = calibrated.Settings(options.seed, options.resources.memory, io_slices)
    original = prepared.original.dense()
    repair = calibrated.repair if complete else calibrated.refit_layers
    with_floats(original, copy.model, kept, settings.memory, partial(repair, samples=learn, settings=settings))
    found = measured(original, [copy.model], judges.in_batches(1), io_slices, unsquash=True)
    return found.shares()[0]
