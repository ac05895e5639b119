"""The flow from model to model, and each of its stages on its own."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune import (
    cost,
    coupling,
    damage,
    gates,
    informed,
    isolation,
    planning,
    removal,
    rounds,
    scoring,
    search,
    selection,
    sparsity,
    verification,
)
from onnxprune.cost import Cost
from onnxprune.coupling import Coupling
from onnxprune.damage import by_score
from onnxprune.errors import GateError, InputError
from onnxprune.graph import Graph
from onnxprune.groups import Grade, Group
from onnxprune.inputs import fed_inputs, flat, sample_inputs
from onnxprune.model import Model, load, save
from onnxprune.narrowing import WHOLE, Narrowing
from onnxprune.ops import registry
from onnxprune.options import ATTENTION, FROM_DATA, Options, one_of
from onnxprune.planning import Plan
from onnxprune.products import products
from onnxprune.report import build, clean, gate_lines
from onnxprune.runtime import traced_shapes
from onnxprune.scoring import Scores
from onnxprune.scoring.obs import Curve
from onnxprune.selection import Selection
from onnxprune.steady import steady
from onnxprune.verification import Verification

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Source = Any
"""A path, a `ModelProto`, or a `gs.Graph`."""


@dataclass
class Analysis:
    """A model and what ties its channels together.

    Attributes:
        model: A model of its own; the caller's stays as it is.
        coupling: Channels, groups and grades.
    """

    model: Model
    coupling: Coupling

    @property
    def groups(self) -> list[Group]:
        """Every group, prunable or not."""
        return self.coupling.groups


class Result:
    """A pruned model with the plan that made it and the report on it.

    Attributes:
        plan: What was taken.
        report: What it did; strict JSON data.
    """

    def __init__(self, model: Model, plan: Plan, report: dict[str, Any], as_graph: bool,
                 keep_anyway: bool = False) -> None:
        self._model = model
        self._as_graph = as_graph
        self._keep_anyway = keep_anyway
        self.plan = plan
        self.report = report

    @property
    def stopped(self) -> str | None:
        """Why the model is not to be written: the gates that it misses; None where nothing is against it."""
        missed = [] if self._keep_anyway else gate_lines(self.report["gates"])
        return "; ".join(missed) or None

    @property
    def model(self) -> Any:
        """The pruned model in the kind that was given: a `gs.Graph` for a `gs.Graph`, else a `ModelProto`."""
        return self.graph() if self._as_graph else self.proto

    @property
    def proto(self) -> onnx.ModelProto:
        """The pruned model; weights that were stored outside the file and not pruned are still references."""
        return self._model.proto

    def graph(self) -> gs.Graph:
        """The pruned model as a graph of onnx-graphsurgeon."""
        import onnx_graphsurgeon as gs

        return gs.import_onnx(self.proto)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model, whole or not at all.

        Raises:
            InputError: The folder does not exist, or the path is that of the input.
            GateError: A gate is missed, and `keep_anyway` was not given.
            OutputError: Writing failed, say because the disk is full; what was there before is still there.
        """
        if self.stopped is not None:
            raise GateError(self.stopped)
        save(self._model, path)


class Clock:
    """Seconds spent in each stage.

    Attributes:
        seconds: Seconds by stage.
        prefix: What is said in front of a stage's name.
    """

    def __init__(self, announce: Announce | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.prefix = ""
        self._announce = announce or (lambda name, done=0, total=None: None)
        self._stage = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block to a stage."""
        self._stage = self.prefix + name
        self._announce(self._stage)
        logger.debug("%s", self._stage)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def progress(self, done: int, total: int | None) -> None:
        """Tells how far the stage that runs has gone through the calibration samples."""
        self._announce(self._stage, done, total)


class Announce(Protocol):
    """What is told of a run while it lasts."""

    def __call__(self, name: str, done: int = 0, total: int | None = None) -> None:
        """A stage begins, or has gone through so many calibration samples, of so many (None: nobody knows)."""


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
        return _Run(model, options, Clock(announce)).result()


@dataclass
class _Trial:
    """A pruned model that may be the result."""

    options: Options
    selected: Selection
    plan: Plan
    model: Model
    narrowing: Narrowing
    notes: dict[str, Any]
    verified: Verification | None = None

    @property
    def met(self) -> bool:
        return all(gate["met"] for gate in self.notes["gates"].values())


class _Run:
    """One run: what is learned once, and the models that are made of it (several where the drift is searched)."""

    def __init__(self, model: Source, options: Options, clock: Clock) -> None:
        self.clock, self.given = clock, exported(model)
        self.as_graph = self.given is not model
        with clock.stage("load"):
            isolation.warm_up()
            source = load(self.given)
            self.options, self.unrepaired = informed.settled(source, options)
            self.data = informed.open_data(source, self.options, clock.progress)
            self.gates = gates.opened(source.proto, options.gate, data=self.data is not None)
        with clock.stage("analyze"):
            self.before = cost.measure(source, options.input_shapes)
            self.analysis = analyze_loaded(source, mixing=options.mixing, attention=options.attention,
                                           shrink=options.shrink)
            self.chosen = prunable(self.analysis, options)
        logger.info("%d groups, %d of them open to pruning", len(self.analysis.groups), len(self.chosen))
        with clock.stage("score"):
            self.curves, self.scores = _learned(self.analysis, self.chosen, self.data, self.options, self.before)

    def result(self) -> Result:
        """The model that the options ask for."""
        searched: list[dict[str, Any]] = []
        trial = self._search(searched) if self.options.drift_search else self._attempt(self.options, self.analysis)
        after = cost.measure(trial.model, trial.narrowing.shapes(self.options.input_shapes))
        verified, before = trial.verified or self._verify(trial), self.before
        if verified.verified and None in (before.macs, after.macs):
            before = _traced(load(self.given), before, self.options.input_shapes)
            after = _traced(trial.model, after, trial.narrowing.shapes(self.options.input_shapes))
        if self.options.drift_search:
            trial.notes["search"] = {"trials": searched, "found": _amount(trial.options)}
        report = build(self.analysis.coupling, trial.plan, before, after, verified, self.clock.seconds, self.options)
        return Result(trial.model, trial.plan, clean(report | trial.notes), as_graph=self.as_graph,
                      keep_anyway=self.options.keep_anyway)

    def _take(self, options: Options) -> Selection:
        if options.weights_share is not None:
            return selection.nothing(self.analysis.coupling)
        return _take(self.analysis, self.chosen, self.curves, self.scores, options, self.before)

    def _search(self, searched: list[dict[str, Any]]) -> _Trial:
        """The smallest model within the gates; `searched` gets a line on each that was made."""
        def options(share: float) -> Options:
            return selection.softened(self.options, self.before, share)

        def attempt(share: float) -> _Trial:
            self.clock.prefix = f"search, model {len(searched) + 1} of at most {search.RUNS}: "
            trial = self._attempt(options(share), _again(self.analysis))
            searched.append({**_amount(trial.options), "params": cost.measure(trial.model).params, "met": trial.met,
                             "gates": {name: gate["measured"] for name, gate in trial.notes["gates"].items()}})
            logger.info("search: %s", searched[-1])
            return trial

        def same(one: float, other: float) -> bool:
            return np.array_equal(self._take(options(one)).gone, self._take(options(other)).gone)

        found = search.smallest(attempt, lambda trial: trial.met, same)
        self.clock.prefix = ""
        return found

    def _attempt(self, options: Options, analysis: Analysis) -> _Trial:
        """Prunes a model that was analysed (it is changed), repairs it and holds it to the gates."""
        clock = self.clock
        with clock.stage("plan"):
            selected = self._take(options)
            made = planning.make(analysis.coupling, selected.gone, selected.entries)
            narrowing = planning.narrowing(made)
            kept = informed.kept_features(analysis.coupling, selected.gone) if options.repair != "none" else {}
        with clock.stage("apply"):
            if options.weights_share is not None:
                _zero(analysis, made, options)
            removal.remove(analysis.model, analysis.coupling, selected.gone)
            result = analysis.model if made.removed or made.zeroed else load(self.given)
        notes: dict[str, Any] = {"targets": selected.targets, "unrepaired_because": self.unrepaired}
        trial = _Trial(options, selected, made, result, narrowing, notes)
        if made.removed and options.repair != "none":
            with clock.stage("repair"):
                notes["repair"] = informed.repair(load(self.given), result, kept, self.data, options, narrowing)
        if made.removed and self.data is not None:
            with clock.stage("judge"):
                notes["calibration"] = informed.judge(load(self.given), result, self.data, narrowing)
        notes["gates"] = self._gates(trial)
        return trial

    def _gates(self, trial: _Trial) -> dict[str, dict[str, Any]]:
        """What each gate says, and what it was measured on."""
        if not self.gates:
            return {}
        if self.data is None:
            trial.verified = self._verify(trial)
            found, on = gates.on_made_up(trial.verified.drift), "made-up inputs"
        else:
            with self.clock.stage("judge"):
                found = gates.on_data(self.gates, load(self.given), trial.model, self.data.held, trial.narrowing)
            on = "calibration samples" + (" held back" if self.data.held is not self.data.fit else "")
        return {gate.name: {**gate.verdict(found), "on": on} for gate in self.gates}

    def _verify(self, trial: _Trial) -> Verification:
        with self.clock.stage("verify"):
            return verify(self.given, trial.model, self.options, narrowing=trial.narrowing)


def _amount(options: Options) -> dict[str, Any]:
    """What options say about how much."""
    return {"ratio": options.ratio} if options.ratio is not None else {"target": dict(options.target)}


def _learned(analysis: Analysis, groups: Sequence[Group], data: informed.Learned | None, options: Options,
             before: Cost) -> tuple[list[Curve], list[Scores] | None]:
    """What the removal of units of each group costs, and their scores where those are not what the curves say."""
    if options.weights_share is not None:
        return [], None
    with informed.looked_at(analysis.model, data, options) as (model, data, options):
        learned = options.criterion in FROM_DATA
        scores = scoring.score(model, analysis.coupling, groups, "l2" if learned else options.criterion, options.seed)
        seen = informed.moments(model, analysis.coupling, data, options) if learned else {}
        if learned and options.criterion != "obs":
            scores = damage.scores(options.criterion, model, analysis.coupling, groups,
                                   products(analysis.coupling.graph), seen, scores)
        curves = [by_score(s, g.units - min(options.min_channels, g.units))
                  for s, g in zip(scores, groups, strict=True)]
        if options.criterion != "obs":
            return curves, scores
        curves = informed.curves(model, analysis.coupling, groups, data, seen, scores, options)
    for share in rounds.shares(options.steps):
        assert data is not None  # the options see to that
        curves = _learn(analysis, groups, curves, data, selection.softened(options, before, share), before)
    return curves, None


def _take(analysis: Analysis, groups: Sequence[Group], curves: Sequence[Curve], scores: Sequence[Scores] | None,
          options: Options, before: Cost) -> Selection:
    """What goes at the least damage, or of each group by its scores (those that the curves give, by default)."""
    if options.target:
        return selection.by_budget(analysis.coupling, groups, curves, options, before)
    scores = scores or [selection.scores_of(c, g.units) for c, g in zip(curves, groups, strict=True)]
    return selection.by_ratio(analysis.coupling, groups, scores, options)


def _learn(analysis: Analysis, groups: Sequence[Group], curves: Sequence[Curve], data: informed.Learned,
           options: Options, before: Cost) -> list[Curve]:
    """A round (see `rounds`): what the curves say once a part is gone and the rest makes up for it."""
    selected = _take(analysis, groups, curves, None, options, before)
    narrowing = planning.narrowing(planning.make(analysis.coupling, selected.gone))
    pruned = _again(analysis)
    removal.remove(pruned.model, pruned.coupling, selected.gone)
    if options.repair != "none":
        informed.repair(analysis.model.copy(), pruned.model,
                        informed.kept_features(analysis.coupling, selected.gone), data, options, narrowing)
    rest = _again(pruned)
    left = prunable(rest, options)
    scores = scoring.score(rest.model, rest.coupling, left, "l2", options.seed)
    seen = informed.moments(rest.model, rest.coupling, data, options, narrowing, first=False)
    later = informed.curves(rest.model, rest.coupling, left, data, seen, scores, options, narrowing)
    return rounds.extended(curves, groups, [int(selected.gone[g.channels].sum()) for g in groups], later, left,
                           rounds.origins(analysis.coupling, selected.gone, rest.coupling))


def _again(analysis: Analysis) -> Analysis:
    """The same analysis of a copy of the model."""
    c = analysis.coupling
    return analyze_loaded(analysis.model.copy(), mixing=c.mixing, attention=c.attention,
                          shrink=[f"^{re.escape(name)}$" for name in c.shrinking])


def _traced(model: Model, counted: Cost, input_shapes: Mapping[str, Sequence[int]]) -> Cost:
    """The cost with MACs counted at the shapes of one run, for what shape inference cannot tell."""
    try:
        feeds = sample_inputs(model.proto, input_shapes=input_shapes)
        shapes = traced_shapes(model, feeds)
    except Exception:  # a model that takes other sizes than the default ones: not counted
        return counted
    return replace(counted, macs=cost.macs_from_shapes(flat(model.proto), shapes))


def exported(model: Source) -> str | os.PathLike[str] | onnx.ModelProto:
    """A path or a `ModelProto` for whatever the caller holds."""
    if isinstance(model, (str, os.PathLike, onnx.ModelProto)):
        return model
    import onnx_graphsurgeon as gs

    if isinstance(model, gs.Graph):
        proto: onnx.ModelProto = gs.export_onnx(model)
        return proto
    raise InputError(f"a model is a path, a ModelProto or a gs.Graph, not {type(model).__name__}")


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
    return analyze_loaded(load(exported(model), weights=False), mixing=mixing, attention=attention, shrink=shrink)


def analyze_loaded(model: Model, *, mixing: bool = False, attention: str = "heads",
                   shrink: Sequence[str] = ()) -> Analysis:
    """`analyze` for a model that is already ours."""
    inline_functions(model)
    shrinking = _shrinking(model.proto.graph, shrink)
    return Analysis(model, coupling.analyze(Graph(model.proto), mixing=mixing, attention=attention,
                                            shrinking=shrinking))


def _shrinking(graph: onnx.GraphProto, patterns: Sequence[str]) -> set[str]:
    """Names of the graph inputs and outputs that some regular expressions match."""
    names = [v.name for v in [*fed_inputs(graph), *graph.output]]
    found: set[str] = set()
    for pattern in patterns:
        hits = {n for n in names if re.search(pattern, n)}
        if not hits:
            raise InputError(f"{pattern!r} matches no graph input or output", f"there are {', '.join(names[:8])}"
                             + (", ..." if len(names) > 8 else ""))
        found |= hits
    return found


def inline_functions(model: Model) -> None:
    """Replaces calls of local functions that no rule knows by their bodies."""
    ours = [(f.domain, f.name) for f in model.proto.functions]
    versions = {o.domain: o.version for o in model.proto.opset_import}
    if any(registry.find(d, n, versions.get(d, 1)) is None for d, n in ours):
        model.proto = onnx.inliner.inline_local_functions(model.proto)


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


def prunable(analysis: Analysis, options: Options) -> list[Group]:
    """The groups that the options leave open.

    Raises:
        InputError: A pattern of `only` or `ignore` matches nothing.
    """
    worst = Grade.MIXING if options.mixing else Grade.EXACT
    names = {g.name: _names(g) for g in analysis.groups}
    every = {n for group in names.values() for n in group} | {
        n.proto.name for n in analysis.coupling.graph.nodes if n.proto.name}
    matched = {p: {n for n in every if re.search(p, n)} for p in [*options.only, *options.ignore]}
    for pattern, hits in matched.items():
        if not hits:
            raise InputError(f"{pattern!r} matches no initializer and no node", "onnxprune inspect lists the names")

    def hit(group: Group, patterns: Sequence[str]) -> bool:
        return any(names[group.name] & matched[p] for p in patterns)

    return [g for g in analysis.groups if g.grade <= worst and not hit(g, options.ignore)
            and (not options.only or hit(g, options.only))]


def _names(group: Group) -> set[str]:
    found = set()
    for s in group.slices:
        found.add(s.value.key)
        found.update(node.proto.name for node, _ in s.value.consumers if node.proto.name)
    return found


def _zero(analysis: Analysis, made: Plan, options: Options) -> None:
    """Zeroes the smallest weights and writes into the plan which."""
    targets = [v for v in sparsity.weights(analysis.coupling) if _open(v, options)]
    share = options.weights_share or 0.0
    masks = sparsity.zero_smallest(analysis.model, analysis.coupling, targets, share, options.across)
    for name, mask in masks.items():
        made.zeroed[name] = {"pattern": "weights", "ratio": float(mask.mean()), "mask": planning.pack_mask(mask)}


def _open(value: Any, options: Options) -> bool:
    names = {value.key, *(node.proto.name for node, _ in value.consumers)}

    def hit(patterns: Sequence[str]) -> bool:
        return any(re.search(p, n) for p in patterns for n in names)

    return not hit(options.ignore) and (not options.only or hit(options.only))


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
        analysis = analyze_loaded(source, mixing=made.mixing, attention=made.attention,
                                  shrink=[f"^{re.escape(name)}$" for name in made.interface])
    with clock.stage("apply"):
        gone = planning.channels(made, analysis.coupling)
        by_key = {v.key: v for v in analysis.coupling.graph.constants()}
        for name, zeroed in made.zeroed.items():
            if name not in by_key:
                raise InputError(f"the plan names {name!r}, which the model lacks")
            value = by_key[name]
            shape = tuple(int(d) for d in value.shape or [] if isinstance(d, int))
            sparsity.clear(analysis.model, analysis.coupling, value, planning.unpack_mask(zeroed["mask"], shape))
        removal.remove(analysis.model, analysis.coupling, gone)
        narrowing = planning.narrowing(made)
        after = cost.measure(analysis.model, narrowing.shapes(options.input_shapes))
    with clock.stage("verify"):
        verified = verify(given, analysis.model, options, narrowing=narrowing)
    report = build(analysis.coupling, made, before, after, verified, clock.seconds, None)
    return Result(analysis.model, made, report, as_graph=given is not model)


def verify(original: Source, result: Model | Result | onnx.ModelProto | str | os.PathLike[str],
           options: Options | None = None, *, feeds: Mapping[str, NDArray[Any]] | None = None,
           narrowing: Narrowing | None = None) -> Verification:
    """Checks a pruned model against its original in onnxruntime, see `verification.check`.

    What inputs and outputs lost (`narrowing`) is known of a `Result`.
    """
    if options is not None and not options.verify:
        return Verification(verified=False, reason="the runtime check was skipped")
    asked = replace(options) if options is not None else None
    target = result._model if isinstance(result, Result) else result
    if narrowing is None and isinstance(result, Result):
        narrowing = planning.narrowing(result.plan)
    return verification.check(exported(original), target, feeds,
                              input_shapes=asked.input_shapes if asked else None, seed=asked.seed if asked else 0,
                              narrowing=narrowing or WHOLE)
