"""The stage that reorders channels so that an N:M pattern keeps more magnitude; it preserves the function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune import sparsity
from onnxprune.coupling.components import Index
from onnxprune.coupling.coupling import Coupling
from onnxprune.edit import permute as reorder
from onnxprune.edit.permute import PermutableUnits
from onnxprune.edit.slicing import ConstantEdit
from onnxprune.errors import InputError
from onnxprune.extensions.patterns import Pattern
from onnxprune.graph.graph import Value
from onnxprune.graph.operators import WeightLayout
from onnxprune.model.model import Model
from onnxprune.options import Checks, Scope
from onnxprune.pipeline.zero import Zeroed, wanted
from onnxprune.planning.plan import Plan
from onnxprune.report.entries import PermutationReport, PermutedGroup
from onnxprune.sparsity import Weight
from onnxprune.sparsity.permutation_search import MAX_WORK, search
from onnxprune.sparsity.stripes import ReadingWeight, gather
from onnxprune.sparsity.swap_gains import Floats
from onnxprune.verification.check import check

SHARE = 0.25
"""Share of the work of a search that its first look at all swaps may take: of larger groups rows are drawn."""
FEWEST = 256
"""Rows that are looked at in any case."""
ROUNDING = 1e-2
"""Largest drift (rel_rms) that is taken for rounding."""


@dataclass
class Permuted:
    """Result of a permutation search.

    Attributes:
        source: The element that moves to each position, see `edit.permute.move`.
        moves: Units that move, and their order.
        groups: Report entry of each group.
        before: Share of the magnitude of all weights in question that the pattern would keep as they were.
        after: The same in the new order.
        entries: What becomes of each constant.
        whole_because: Why nothing moves, where something might have.
    """

    source: Index
    moves: list[tuple[PermutableUnits, Index]] = field(default_factory=list)
    groups: list[PermutedGroup] = field(default_factory=list)
    before: float | None = None
    after: float | None = None
    entries: list[ConstantEdit] = field(default_factory=list)
    whole_because: str | None = None

    def as_report(self) -> PermutationReport:
        """The entry of the report."""
        return PermutationReport(self.before, self.after, self.groups, self.whole_because)


def permute(
    model: Model, coupling: Coupling, origin: Index, pattern: Pattern, *, scope: Scope, checks: Checks, seed: int = 0
) -> Permuted:
    """Reorders the channels of a model, in place; see `find`.

    Both versions are run and compared, unless `checks` forbid it. Where that shows that a rule was wrong and an
    order matters after all, nothing moves.

    Args:
        model: The model.
        coupling: Its analysis.
        origin: The channel of the original that each channel is; -1 where that is not known, and nothing moves.
        pattern: The pattern, of which a number of each group of neighbours is kept.
        scope: Which weights are open to zeros.
        checks: Whether and at which shapes both versions are run.
        seed: Seed of the search.
    """
    targets = [w for w in sparsity.weights(coupling) if wanted(w, pattern, scope, Zeroed())]
    units = [m for m in reorder.permutable_units(coupling) if (origin[m.channels] >= 0).all()]
    found = find(model, coupling, targets, units, pattern, seed)
    if not found.moves:
        return found
    entries = reorder.constant_orders(coupling, found.source)
    before = model.copy()
    reorder.reorder_constants(model, coupling.graph, entries)
    if checks.verify and not unchanged(before, model, checks, seed):
        model.proto.CopyFrom(before.proto)
        return Permuted(
            reorder.identity_source(coupling),
            before=found.before,
            after=found.before,
            whole_because="in another order the model makes something else: a rule is wrong",
        )
    return replace(found, entries=entries)


def find(
    model: Model,
    coupling: Coupling,
    targets: Sequence[Weight],
    units: Sequence[PermutableUnits],
    pattern: Pattern,
    seed: int = 0,
) -> Permuted:
    """Searches the order of each group under which an N:M pattern keeps most; the model is not modified.

    Groups are reordered one by one. All weights that sum over the units of a group count together; a group whose
    weights would not keep more in sum is left as it is. Magnitude counts, with data too: weighted by the norms of the
    inputs it led to larger errors of the outputs.

    Args:
        model: The model.
        coupling: Its analysis.
        targets: Weights that are to have zeros.
        units: What may move.
        pattern: The pattern, of which a number of each group of neighbours is kept.
        seed: Seed of the search.
    """
    done = Permuted(reorder.identity_source(coupling))
    weights = _Weights(model, coupling, done.source, targets)
    first = {key: weights.kept(key, pattern) for key in weights.layouts}
    kept = dict(first)
    for i, movable in enumerate(units):
        readers = weights.readers(movable)
        rng = np.random.default_rng([seed, i])
        order = _order(weights, readers, movable, pattern, rng)
        back = done.source.copy()
        reorder.set_order(coupling, done.source, movable, order)
        now = {key: weights.kept(key, pattern) for key in readers}
        before, after = (sum(shares[key][0] for key in readers) for shares in (kept, now))
        if not after > before:
            done.source[:] = back
            continue
        kept |= now
        whole = sum(w for _, w in now.values())
        done.moves.append((movable, order))
        done.groups.append(PermutedGroup(movable.group.name, movable.units, before / whole, after / whole))
    total = sum(w for _, w in kept.values())
    if total:
        done.before, done.after = (sum(k for k, _ in each.values()) / total for each in (first, kept))
    return done


def unchanged(before: Model, after: Model, checks: Checks, seed: int = 0) -> bool:
    """Whether two models compute the same but for rounding; true where they cannot be run here."""
    drift = check(before, after, input_shapes=checks.input_shapes, seed=seed).drift
    return all(d.within(ROUNDING) is not False for d in drift.values())


def recorded(plan: Plan, entries: Sequence[ConstantEdit]) -> Plan:
    """Adds the permutations of constants to a plan, see `edit.permute.constant_orders`."""
    permuted = {s.key: {str(axis): list(order) for axis, order in s.change.items()} for s in entries if s.change}
    split = {s.key: s.original for s in entries if s.key != s.original}
    return replace(plan, permuted={**plan.permuted, **permuted}, split={**plan.split, **split})


def orders(plan: Plan, coupling: Coupling) -> list[ConstantEdit]:
    """Permutations of a plan, for a model from which its channels are removed already.

    Raises:
        InputError: The plan names what is not there, an order is none, what it moves must stay where it is, or it moves
            only a part of what is tied together.
    """
    values: dict[str, list[Value]] = {}
    for value in coupling.graph.constants():
        values.setdefault(value.key, []).append(value)
    comes = np.arange(coupling.classes.elements)
    for name, axes in plan.permuted.items():
        found = values.get(name, values.get(plan.split.get(name, name)))
        if found is None:
            raise InputError(f"the plan names {name!r}, which the model lacks")
        for position, order in axes.items() if len(found) == 1 else ():  # what several read may mean several things
            ids = coupling.channels_of(found[0].axis(int(position))) if int(position) < (found[0].rank or 0) else comes
            if sorted(order) != list(range(len(ids))):
                raise InputError(f"the plan's order of axis {position} of {name!r} is not one of all its indices")
            comes[ids] = ids[order]
    source = reorder.identity_source(coupling)
    for units in reorder.permutable_units(coupling):
        place = np.full(len(comes), -1)
        place[units.channels] = np.arange(units.units)
        mine = place[comes[units.channels]]
        if (mine >= 0).all():
            reorder.set_order(coupling, source, units, mine)
    made = reorder.constant_orders(coupling, source)
    full = recorded(Plan(""), made)
    for name in sorted(set(full.permuted) | set(plan.permuted)):
        if full.permuted.get(name) != plan.permuted.get(name):
            raise InputError(
                f"the plan moves only a part of what is tied together, or what must stay where it is: see {name!r}"
            )
    return made


def _order(
    weights: _Weights, readers: Mapping[str, Index], units: PermutableUnits, pattern: Pattern, rng: np.random.Generator
) -> Index:
    """The order that a search finds."""
    rows = sum(weights.rows(key) * indices.shape[1] for key, indices in readers.items())
    share = max(SHARE * MAX_WORK / units.units**2, FEWEST) / max(rows, 1)
    parts = gather(
        (ReadingWeight(weights.magnitude(key), weights.layouts[key], indices) for key, indices in readers.items()),
        pattern.width,
        share,
        rng,
    )
    return search(parts, pattern.kept, rng) if parts and pattern.kept is not None else np.arange(units.units)


class _Weights:
    """The magnitudes of some weights in the order that holds by now.

    Attributes:
        layouts: How each is read.
    """

    def __init__(self, model: Model, coupling: Coupling, source: Index, targets: Sequence[Weight]) -> None:
        self._model, self._coupling, self._source = model, coupling, source
        self._values = {w.value.key: w.value for w in targets}
        self.layouts: dict[str, WeightLayout] = {w.value.key: w.layout for w in targets if w.layout is not None}

    def readers(self, units: PermutableUnits) -> dict[str, Index]:
        """The weights that sum over some units, with the indices of that axis that each of these owns."""
        found = {}
        for key, layout in self.layouts.items():
            c = int(self._coupling.classes.of[self._values[key].axis(layout.inputs).id])
            if c in units.positions:
                found[key] = units.positions[c]
        return found

    def rows(self, key: str) -> int:
        """Elements of a weight at one index of its reduction axis."""
        shape = [d for d in self._values[key].shape or [] if isinstance(d, int)]
        return int(np.prod(shape)) // max(shape[self.layouts[key].inputs], 1)

    def magnitude(self, key: str) -> Floats:
        """The magnitudes of one; shape as stored."""
        axis = self._values[key].axis(self.layouts[key].inputs)
        order = reorder.axis_order(self._coupling, self._source, axis)
        found: Floats = np.abs(sparsity.real_values(self._model, self._coupling, self._values[key])).take(
            order, axis.position
        )
        return found

    def kept(self, key: str, pattern: Pattern) -> tuple[float, float]:
        """Magnitude of a weight that a pattern keeps, and the total."""
        magnitude = self.magnitude(key)
        zero = pattern.mask(magnitude, self.layouts[key])
        whole = float(magnitude.sum(dtype=np.float64))
        return whole - float(magnitude[zero].sum(dtype=np.float64)), whole
