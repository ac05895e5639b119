"""What a page needs to predict other shares than those of a run, from the analysis and the options of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxprune.allocation.widths import limits_of
from onnxprune.common.text import exactly
from onnxprune.cost.measure import measure
from onnxprune.coupling.groups import Group
from onnxprune.engines.profiles import Timer, is_timer, profile
from onnxprune.engines.times import Times
from onnxprune.options import Options
from onnxprune.pipeline.analysis import Analysis, prunable
from onnxprune.pipeline.apply import Application
from onnxprune.pipeline.group_patterns import group_patterns
from onnxprune.planning.plan import Plan
from onnxprune.report.page.choice import Scenario

KEPT = (
    *("importance", "permute", "seed", "only", "ignore", "mixing", "attention", "shrink"),
    *("samples", "repair", "epochs"),
)
"""Options that a recipe repeats where they are not the default, under names that it shares with Python."""


def scenario(analysis: Analysis, options: Options, command: str, times: Times | None = None) -> Scenario | None:
    """What a page predicts of a model; None where the options remove no channels.

    Args:
        analysis: Its analysis, in the scope of the options.
        options: The options of the run.
        command: What runs a recipe that the page writes.
        times: What was measured of the model.
    """
    if options.channels is None:
        return None
    groups, given = prunable(analysis, options.scope), options.checks.input_shapes
    engine = options.channels.engine
    cost = measure(analysis.model, given)
    return Scenario(
        groups,
        str(engine),
        _steps(groups, engine),
        [(one.group, one.pattern, one.others) for one in group_patterns(groups)],
        cost.shapes if cost.macs else None,
        times,
        {} if times is None else measure(analysis.model, times.input_shapes).shapes,
        _repeated(options),
        command,
    )


def _steps(groups: Sequence[Group], engine: Timer) -> list[int]:
    """Units of each group of which multiples are widths that an engine computes fast; 1 of an engine that is timed."""
    if is_timer(engine):
        return [1] * len(groups)
    return [
        limits.step(group.units) for group, limits in zip(groups, limits_of(groups, 1, profile(engine)), strict=True)
    ]


def options_of(plan: Plan, asked: Application) -> Options:
    """The options of a run that has the groups of a plan, and learns from what the plan was applied with."""
    return Options.of(
        0.0,
        seed=asked.seed,
        mixing=plan.mixing,
        attention=plan.attention,
        shrink=[exactly(name) for name in plan.interface],
        calib=asked.calibration.data,
        samples=asked.calibration.samples,
        repair=asked.method,
        epochs=asked.repair.epochs,
        input_shapes=asked.checks.input_shapes,
    )


def _repeated(options: Options) -> dict[str, Any]:
    """The options of a recipe that are not the defaults."""
    asked, usual = options.to_dict(), Options.of(0.0).to_dict()
    found = {name: asked[name] for name in KEPT if asked[name] != usual[name]}
    if len(asked["pattern"]) > 1:
        found["pattern"] = asked["pattern"]
    if options.checks.input_shapes:
        sizes = options.checks.input_shapes.items()
        found["input-shape"] = [f"{name}:{','.join(map(str, shape))}" for name, shape in sizes]
    return found
