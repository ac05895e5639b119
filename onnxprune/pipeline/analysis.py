"""Analyzes the coupling of a model's channels and selects the groups open to pruning."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import onnx

from onnxprune.common.text import exactly, first_of
from onnxprune.cost.measure import Cost
from onnxprune.coupling import coupling
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Grade, Group
from onnxprune.errors import InputError, option
from onnxprune.graph.graph import Graph
from onnxprune.model.inputs import fed_inputs
from onnxprune.model.model import Model, load
from onnxprune.model.sparse_initializers import densify
from onnxprune.ops import registry
from onnxprune.options import Scope, checks

NAMED = 8
"""Inputs and outputs that a message names at most."""


class GraphSurgeonGraph(Protocol):
    """Structural type of a `gs.Graph`; onnx-graphsurgeon has no type information."""

    nodes: Any
    inputs: Any
    outputs: Any

    def tensors(self) -> Any:
        """Tensors by name."""
        ...

    def toposort(self) -> Any:
        """Sorts the nodes."""
        ...


ModelSource = str | os.PathLike[str] | onnx.ModelProto | GraphSurgeonGraph
"""A model as callers hold it: a path, a `ModelProto`, or a `gs.Graph`."""


@dataclass
class Analysis:
    """A model with the analysis of its channels.

    Attributes:
        model: A copy; the caller's model is not changed.
        coupling: Channels, groups and grades.
        stored: Parameters and bytes as the model is stored, where that is not how it is analysed (sparse initializers,
            local functions).
    """

    model: Model
    coupling: Coupling
    stored: Cost | None = None

    def __repr__(self) -> str:
        grades = Counter(str(g.grade) for g in self.groups)
        counted = ", ".join(f"{n} {grade}" for grade, n in sorted(grades.items()))
        return f"Analysis({len(self.groups)} groups{': ' if counted else ''}{counted})"

    @property
    def groups(self) -> list[Group]:
        """Every group, prunable or not."""
        return self.coupling.groups


def load_dense(model: str | os.PathLike[str] | onnx.ModelProto, *, weights: bool = True) -> Model:
    """A model with all its weights dense; see `load`."""
    loaded = load(model, weights=weights)
    densify(loaded)
    return loaded


def to_proto_or_path(model: ModelSource) -> str | os.PathLike[str] | onnx.ModelProto:
    """A path or a `ModelProto` for whatever the caller holds."""
    if isinstance(model, (str, os.PathLike, onnx.ModelProto)):
        return model
    import onnx_graphsurgeon as gs

    if isinstance(model, gs.Graph):
        proto: onnx.ModelProto = gs.export_onnx(model)
        return proto
    raise InputError(f"a model is a path, a ModelProto or a gs.Graph, not {type(model).__name__}")


def analyze_loaded(
    model: Model, *, mixing: bool = False, attention: str = "heads", shrink: Sequence[str] = ()
) -> Analysis:
    """`analyze` for a model that is already ours."""
    inline_functions(model)
    shrinking = matching_names(model.proto.graph, shrink)
    return Analysis(
        model, coupling.analyze(Graph(model.proto), mixing=mixing, attention=attention, shrinking=shrinking)
    )


def matching_names(graph: onnx.GraphProto, patterns: Sequence[str]) -> set[str]:
    """Names of the graph inputs and outputs that some regular expressions match."""
    names = [v.name for v in [*fed_inputs(graph), *graph.output]]
    found: set[str] = set()
    for pattern in patterns:
        hits = {n for n in names if re.search(pattern, n)}
        if not hits:
            raise InputError(f"{pattern!r} matches no graph input or output", f"there are {first_of(names, NAMED)}")
        found |= hits
    return found


def inline_functions(model: Model) -> None:
    """Replaces calls of local functions that no rule knows by their bodies."""
    ours = [(f.domain, f.name) for f in model.proto.functions]
    versions = {o.domain: o.version for o in model.proto.opset_import}
    if any(registry.find(d, n, versions.get(d, 1)) is None for d, n in ours):
        model.proto = onnx.inliner.inline_local_functions(model.proto)


def reanalyze(analysis: Analysis, model: Model) -> Analysis:
    """The same analysis of another model, which is not copied; it may lack inputs and outputs that blocks had."""
    c, graph = analysis.coupling, model.proto.graph
    left = c.shrinking.intersection(value.name for value in (*graph.input, *graph.output))
    shrink = [exactly(name) for name in sorted(left)]
    return analyze_loaded(model, mixing=c.mixing, attention=c.attention, shrink=shrink)


def check_scope(
    analysis: Analysis, mixing: bool | None, attention: str | None, shrink: str | Sequence[str] | None
) -> None:
    """Raises InputError where options say something else than an analysis was made with; None agrees with it."""
    checks.instance("analysis", analysis, Analysis)
    made = analysis.coupling
    requested = Scope(
        mixing=made.mixing if mixing is None else mixing,
        attention=made.attention if attention is None else attention,
        shrink=() if shrink is None else shrink,
    )
    names = made.shrinking if shrink is None else matching_names(analysis.model.proto.graph, requested.shrink)
    for name, given, analyzed in (
        ("mixing", requested.mixing, made.mixing),
        ("attention", requested.attention, made.attention),
        ("shrink", sorted(names), sorted(made.shrinking)),
    ):
        if given != analyzed:
            raise InputError(
                f"the analysis was made with {name}={analyzed!r}, not {given!r}", f"give {name} to analyze, not to plan"
            )


def prunable(analysis: Analysis, scope: Scope) -> list[Group]:
    """The groups that are open to pruning.

    Raises:
        InputError: A pattern of `only` or `ignore` matches nothing.
    """
    worst = Grade.MIXING if scope.mixing else Grade.EXACT
    names, matched = _matches(analysis, [*scope.only, *scope.ignore])

    def hit(group: Group, patterns: Sequence[str]) -> bool:
        return any(names[group.name] & matched[p] for p in patterns)

    return [
        g
        for g in analysis.groups
        if g.grade <= worst and not hit(g, scope.ignore) and (not scope.only or hit(g, scope.only))
    ]


def shares_by_group(analysis: Analysis, groups: Sequence[Group], keep: Mapping[str, float]) -> dict[int, float]:
    """The share that stays of the groups that a regular expression matches, by their position; the last one holds.

    Args:
        analysis: The analysis.
        groups: The groups that are open to pruning.
        keep: Share by regular expression, see `options.Channels`.

    Raises:
        InputError: An expression matches none of the groups.
    """
    names, matched = _matches(analysis, list(keep))
    found: dict[int, float] = {}
    for pattern, share in keep.items():
        hits = [i for i, group in enumerate(groups) if names[group.name] & matched[pattern]]
        if not hits:
            raise InputError(
                f"{option('keep')}: {pattern!r} matches no group that may be pruned", "onnxprune inspect shows why"
            )
        found |= dict.fromkeys(hits, share)
    return found


def _matches(analysis: Analysis, patterns: Sequence[str]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """The names that belong to each group, and the names of the model that each of some expressions matches.

    Raises:
        InputError: An expression matches none.
    """
    names = {g.name: names_of(g) for g in analysis.groups}
    nodes = {n.proto.name for n in analysis.coupling.graph.nodes if n.proto.name}
    every = {n for group in names.values() for n in group} | nodes
    matched = {p: {n for n in every if re.search(p, n)} for p in patterns}
    for pattern, hits in matched.items():
        if not hits:
            raise InputError(f"{pattern!r} matches no initializer and no node", "onnxprune inspect lists the names")
    return names, matched


def names_of(group: Group) -> set[str]:
    """Names by which an expression finds a group: its own, and those of the constants it slices and their readers."""
    found = {group.name}
    for s in group.slices:
        found.add(s.value.key)
        found.update(node.proto.name for node, _ in s.value.consumers if node.proto.name)
    return found
