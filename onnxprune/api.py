"""The flow from model to model, and each of its stages on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxprune.allocation import selection
from onnxprune.coupling.groups import Group
from onnxprune.importance import score as scoring
from onnxprune.importance.magnitude import Scores
from onnxprune.options import ATTENTION, Options, one_of
from onnxprune.pipeline.analysis import Analysis, Source, analyze_loaded, load_dense, prunable, to_proto_or_path
from onnxprune.pipeline.apply import _run_plan
from onnxprune.pipeline.progress import Announce, Clock
from onnxprune.pipeline.result import Result
from onnxprune.pipeline.run import Run, verify
from onnxprune.planning.plan import Plan, make
from onnxprune.runtime.determinism import deterministic_run

__all__ = ["Analysis", "Announce", "Result", "analyze", "apply", "plan", "prune", "run", "run_plan", "score", "verify"]


def prune(model: Source, ratio: float | None = None, **options: Any) -> Result:
    """Prunes a model.

    Args:
        model: A path, a `ModelProto` or a `gs.Graph`; it is not changed.
        ratio: Share of the units of every prunable group that goes.
        **options: See `Options`.

    Returns:
        The pruned model in kind, the plan and the report.

    Raises:
        InputError: The model or an option is unusable.
        VerificationError: The pruned model fails in onnxruntime where the original does not.
    """
    return run(model, Options(ratio=ratio, **options))


def run(model: Source, options: Options, announce: Announce | None = None) -> Result:
    """`prune` with the options in one object; `announce` is told each stage as it starts, and how far it is."""
    with deterministic_run(options.run_seconds, options.run_memory):
        return Run(model, options, Clock(announce)).result()


def analyze(model: Source, *, mixing: bool = False, attention: str = "heads", shrink: Sequence[str] = ()) -> Analysis:
    """What is tied to what in a model.

    Args:
        model: A path, a `ModelProto` or a `gs.Graph`; it is copied.
        mixing: Whether channels of grade *mixing* are open to pruning.
        attention: ``heads`` or ``dims``, see `Options`.
        shrink: Regular expressions; matching graph inputs and outputs are open to pruning.

    Raises:
        InputError: The model cannot be read, `attention` is unknown, or a pattern of `shrink` matches nothing.
    """
    one_of("attention", attention, ATTENTION)
    return analyze_loaded(
        load_dense(to_proto_or_path(model), weights=False), mixing=mixing, attention=attention, shrink=shrink
    )


def score(
    analysis: Analysis, importance: str = "l2", *, seed: int = 0, groups: Sequence[Group] | None = None
) -> list[Scores]:
    """Importance of every unit of some groups (default: all), see `scoring.score`."""
    return scoring.score(
        analysis.model, analysis.coupling, analysis.groups if groups is None else groups, importance, seed
    )


def plan(analysis: Analysis, ratio: float, **options: Any) -> Plan:
    """What to take at a ratio; the options are those of `Options`."""
    asked = Options(ratio=ratio, mixing=analysis.coupling.mixing, attention=analysis.coupling.attention, **options)
    chosen = prunable(analysis, asked)
    scores = score(analysis, asked.criterion, seed=asked.seed, groups=chosen)
    selected = selection.by_ratio(analysis.coupling, chosen, scores, asked)
    return make(analysis.coupling, selected.gone, selected.entries)


def apply(plan: Plan, model: Source) -> Result:
    """Applies a plan to a checkpoint of the architecture that it was made for.

    Raises:
        InputError: The plan does not fit.
    """
    return run_plan(plan, model, Options(ratio=0.0, verify=False))


def run_plan(made: Plan, model: Source, options: Options, announce: Announce | None = None) -> Result:
    """Applies a plan, then counts and verifies as `run` does; of the options only those for that are read."""
    with deterministic_run(options.run_seconds, options.run_memory):
        return _run_plan(made, model, options, Clock(announce))
