"""The flow from model to model, and each of its stages on its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from onnxprune import (
    cost,
    permuting,
    planning,
    removal,
    reorder,
    scoring,
    selection,
    sparsity,
    storage,
)
from onnxprune.analysis import Analysis, Source, analyze_loaded, anew, exported, opened, prunable
from onnxprune.clock import Announce, Clock
from onnxprune.errors import InputError
from onnxprune.flow import Run, verify
from onnxprune.groups import Group
from onnxprune.model import load
from onnxprune.options import ATTENTION, Options, one_of
from onnxprune.planning import Plan
from onnxprune.report import build
from onnxprune.result import Result
from onnxprune.scoring import Scores
from onnxprune.steady import steady

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
    with steady(options.run_seconds, options.run_memory):
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
    return analyze_loaded(opened(exported(model), weights=False), mixing=mixing, attention=attention, shrink=shrink)


def score(analysis: Analysis, importance: str = "l2", *, seed: int = 0,
          groups: Sequence[Group] | None = None) -> list[Scores]:
    """Importance of every unit of some groups (default: all), see `scoring.score`."""
    return scoring.score(analysis.model, analysis.coupling, analysis.groups if groups is None else groups,
                         importance, seed)


def plan(analysis: Analysis, ratio: float, **options: Any) -> Plan:
    """What to take at a ratio; the options are those of `Options`."""
    asked = Options(ratio=ratio, mixing=analysis.coupling.mixing, attention=analysis.coupling.attention, **options)
    chosen = prunable(analysis, asked)
    scores = score(analysis, asked.criterion, seed=asked.seed, groups=chosen)
    selected = selection.by_ratio(analysis.coupling, chosen, scores, asked)
    return planning.make(analysis.coupling, selected.gone, selected.entries)


def _clear(analysis: Analysis, made: Plan) -> None:
    """Sets to zero what a plan says."""
    by_key = {v.key: v for v in analysis.coupling.graph.constants()}
    for name, zeroed in made.zeroed.items():
        if name not in by_key:
            raise InputError(f"the plan names {name!r}, which the model lacks")
        shape = tuple(int(d) for d in by_key[name].shape or [] if isinstance(d, int))
        sparsity.clear(analysis.model, analysis.coupling, by_key[name], planning.unpack_mask(zeroed["mask"], shape))


def apply(plan: Plan, model: Source) -> Result:
    """Applies a plan to a checkpoint of the architecture that it was made for.

    Raises:
        InputError: The plan does not fit.
    """
    return run_plan(plan, model, Options(ratio=0.0, verify=False))


def run_plan(made: Plan, model: Source, options: Options,
             announce: Announce | None = None) -> Result:
    """Applies a plan, then counts and verifies as `run` does; of the options only those for that are read."""
    with steady(options.run_seconds, options.run_memory):
        return _run_plan(made, model, options, Clock(announce))


def _run_plan(made: Plan, model: Source, options: Options, clock: Clock) -> Result:
    given = exported(model)
    with clock.stage("load"):
        source = load(given)
    with clock.stage("analyze"):
        before = cost.measure(source, options.input_shapes)
        kept_sparse = storage.open_up(source)
        analysis = analyze_loaded(source, mixing=made.mixing, attention=made.attention,
                                  shrink=[f"^{re.escape(name)}$" for name in made.interface])
    with clock.stage("apply"):
        removal.remove(analysis.model, analysis.coupling, planning.channels(made, analysis.coupling))
        if made.permuted:
            rest = anew(analysis, analysis.model)
            reorder.reorder(rest.model, rest.coupling.graph, permuting.orders(made, rest.coupling))
        if made.zeroed:
            _clear(analyze_loaded(analysis.model) if made.removed or made.permuted else analysis, made)
        storage.close(analysis.model, kept_sparse)
        narrowing = planning.narrowing(made)
        after = cost.measure(analysis.model, narrowing.shapes(options.input_shapes))
    with clock.stage("verify"):
        verified = verify(given, analysis.model, options, narrowing=narrowing)
    report = build(analysis.coupling, made, before, after, verified, clock.seconds, None)
    return Result(analysis.model, made, report, as_graph=given is not model)
