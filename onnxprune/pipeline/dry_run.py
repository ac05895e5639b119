"""A dry run: what a run would remove, without what does not decide it."""

from __future__ import annotations

from dataclasses import replace

from onnxprune.options import Options
from onnxprune.pipeline.attempt import Pruned, prune_model, remove_channels
from onnxprune.pipeline.depth import prepare
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.prepare import Prepared
from onnxprune.pipeline.progress import Clock
from onnxprune.pipeline.result import Result
from onnxprune.pipeline.run import finish, make_report
from onnxprune.pipeline.search import search
from onnxprune.pipeline.verify import SKIPPED
from onnxprune.report.report import Report, SearchReport
from onnxprune.verification.check import Verification

REASON = "a dry run does not run the pruned model"


def dry_run(original: Original, options: Options, clock: Clock) -> Result:
    """Plans a run and counts what it would leave; its model is not repaired, and not to be saved.

    The plan is that of the run. Repair and runs of the pruned model are left out, unless they decide what is removed:
    in a drift search, and where zeros are chosen in layers that are repaired.

    Raises:
        InputError: The model, the data or an option is unusable.
    """
    prepared = prepare(original, options, clock)
    pruned, searched = _pruned(prepared)
    before, after = prepared.cost, pruned.cost(prepared.loaded.cost)
    left_out = Verification(verified=False, reason=REASON) if options.checks.verify else SKIPPED
    verified = pruned.verification or left_out
    report = make_report(options, prepared, pruned, before, after, verified, searched)
    report = replace(report, skipped=skipped(options, prepared.options, report))
    report = finish(report, prepared, before, pruned.selection.spared)
    return Result(pruned.model, pruned.plan, report, options.checks, as_graph=original.as_graph)


def _pruned(prepared: Prepared) -> tuple[Pruned, SearchReport | None]:
    options = prepared.options
    if options.checks.search:
        return search(prepared)
    if options.zeros is None:
        return remove_channels(prepared, options, prepared.analysis), None
    return prune_model(prepared, options, prepared.analysis), None


def skipped(requested: Options, settled: Options, report: Report) -> list[str]:
    """Stages of the run that a dry run leaves out."""
    if report.whole_because is not None:
        return []
    checks = requested.checks
    found = {
        "repair": settled.repair.method != "none" and report.repair is None and settled.channels is not None,
        "judge": settled.calibration.data is not None and report.calibration is None,
        "store": requested.sparse_storage and not checks.search,
        "gates": checks.limited and not checks.search,
        "verify": checks.verify and not report.verified,
        "time": checks.time,
    }
    return [stage for stage, left_out in found.items() if left_out]
