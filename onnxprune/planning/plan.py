"""The plan: slices to remove, with reasons, and the model that they belong to. Plain data to review, edit and apply."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.math import rounded
from onnxprune.coupling.constant_cuts import sources
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Grade, Group
from onnxprune.edit.bypass import Summand
from onnxprune.edit.resize import KeptLengths
from onnxprune.edit.slicing import constant_edits
from onnxprune.errors import InputError, PlanError
from onnxprune.graph.graph import Value
from onnxprune.model.tensors import FLOATS
from onnxprune.planning.fingerprint import fingerprint
from onnxprune.runtime.io_slices import IoSlices

VERSION = 1

Indices = dict[str, list[int]]


@dataclass
class Plan:
    """Slices and zeros to take from a model.

    Attributes:
        model: Fingerprint of the graph, weights aside (see `fingerprint`).
        removed: Constant -> axis -> indices of the original that go, sorted. Axes are decimal strings.
        lengths: Constant -> axis -> how many indices it has in the original, of the axes in `removed`; plans of earlier
            versions lack it.
        split: New constant -> the shared one that it is cut from.
        permuted: Constant -> axis -> order of the indices that `removed` left.
        zeroed: Constant -> which elements are set to zero: ``{"pattern", "ratio", "mask"}``, the mask one bit an
            element in C order (most significant first), deflated, base64.
        groups: One entry a group: name, channels, removed, grade, pinned, nodes, scores.
        mixing: Whether groups of grade *mixing* were open to pruning.
        attention: What was taken of attention, ``heads`` or ``dims``.
        interface: Graph inputs and outputs that were open to pruning -> axis -> indices that go.
        depth: Blocks that go, in this order, before all else: ``{"sum", "summand", "nodes", "ends", "damage"}``, the
            names of a sum, of the summand that it loses, and of the graph inputs and outputs that go with it (plans of
            earlier versions lack these). `model` and all other entries are of what they leave.
        constants: Names of the floating-point constants of the model, those that stay whole too; plans of earlier
            versions lack it.
        refilled: Nodes of the pruned model that count what went as zeros, as a normalisation of fewer channels in a
            framework does not; plans of earlier versions lack it.
        computed: Floating-point constants that stay whole, while what the model computes of them, a weight of its norm
            and its direction say, is cut; plans of earlier versions lack it.
    """

    model: str
    removed: dict[str, Indices] = field(default_factory=dict)
    split: dict[str, str] = field(default_factory=dict)
    permuted: dict[str, Indices] = field(default_factory=dict)
    zeroed: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    mixing: bool = False
    attention: str = "heads"
    interface: dict[str, Indices] = field(default_factory=dict)
    depth: list[dict[str, Any]] = field(default_factory=list)
    lengths: dict[str, dict[str, int]] = field(default_factory=dict)
    constants: list[str] = field(default_factory=list)
    refilled: list[str] = field(default_factory=list)
    computed: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        units = sum(len(group.get("removed", ())) for group in self.groups)
        return f"Plan({units} units removed, {len(self.removed)} constants sliced, {len(self.zeroed)} with zeros)"

    @property
    def changes_model(self) -> bool:
        """Whether anything is removed, reordered or set to zero."""
        return bool(self.shrinks or self.permuted or self.zeroed)

    @property
    def shrinks(self) -> bool:
        """Whether blocks or channels are removed."""
        return bool(self.depth or self.removed)

    @property
    def summands(self) -> list[Summand]:
        """The summands of the blocks that go."""
        return [Summand(block["sum"], block["summand"]) for block in self.depth]

    @property
    def ends(self) -> frozenset[str]:
        """The graph inputs and outputs that go with the blocks."""
        return frozenset(name for block in self.depth for name in block.get("ends", ()))

    def to_json(self) -> str:
        """The plan as JSON text."""
        data = {"version": VERSION, **self.__dict__}
        return json.dumps(data, indent=None, separators=(",", ":"), allow_nan=False, default=dict)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Reads a plan.

        Raises:
            InputError: The text is not a plan of this version.
        """
        try:
            data = json.loads(text)
        except ValueError as e:
            raise PlanError(f"the plan is not JSON: {e}") from None
        except RecursionError:
            raise PlanError("the plan is nested too deeply") from None
        if not isinstance(data, dict) or "version" not in data or not isinstance(data.get("model"), str):
            raise PlanError("not a plan: it lacks 'version' or 'model'")
        if data.pop("version") != VERSION:
            raise PlanError(f"the plan is not of version {VERSION}")
        if data.get("blocks") == {}:  # earlier versions wrote this key, always empty
            del data["blocks"]
        unknown = sorted(set(data) - set(cls.__dataclass_fields__))
        if unknown:
            raise PlanError(f"the plan has unknown keys: {', '.join(unknown)}")
        fault = _fault(data)
        if fault is not None:
            raise PlanError(f"the plan cannot be read: {fault}")
        return cls(**data)


_KINDS: dict[str, type] = {
    "removed": dict,
    "split": dict,
    "permuted": dict,
    "zeroed": dict,
    "groups": list,
    "mixing": bool,
    "attention": str,
    "interface": dict,
    "depth": list,
    "lengths": dict,
    "constants": list,
    "refilled": list,
    "computed": list,
}
_GROUP_KINDS: dict[str, type] = {"name": str, "channels": int, "removed": list, "grade": str, "pinned": list}


def _fault(data: dict[str, Any]) -> str | None:
    """Why the data of a plan are unusable; None if they are usable."""
    for key, kind in _KINDS.items():
        if key in data and type(data[key]) is not kind:
            return f"{key!r} is not of type {kind.__name__}"
    for name, axes in (item for key in ("removed", "permuted", "interface") for item in data.get(key, {}).items()):
        if not isinstance(axes, dict) or not all(_axis(a, indices) for a, indices in axes.items()):
            return f"the entry for {name!r} is not {{axis: [indices]}}"
    for name, axes in data.get("lengths", {}).items():
        if not isinstance(axes, dict) or not all(a.isdecimal() and type(n) is int for a, n in axes.items()):
            return f"the lengths of {name!r} are not {{axis: number}}"
    for key in ("constants", "refilled", "computed"):
        if not all(isinstance(name, str) for name in data.get(key, [])):
            return f"{key!r} is not a list of names"
    if not all(isinstance(original, str) for original in data.get("split", {}).values()):
        return "'split' is not {name: name}"
    for name, zeroed in data.get("zeroed", {}).items():
        if (
            not isinstance(zeroed, dict)
            or not isinstance(zeroed.get("mask"), str)
            or not isinstance(zeroed.get("ratio"), float)
        ):
            return f"'zeroed' has no ratio and mask for {name!r}"
    for block in data.get("depth", []):
        if not isinstance(block, dict) or not all(isinstance(block.get(key), str) for key in Summand._fields):
            return "a block of 'depth' does not name a sum and a summand"
        if not all(isinstance(name, str) for name in _listed(block.get("ends", []))):
            return "the 'ends' of a block of 'depth' are not a list of names"
    for group in data.get("groups", []):
        if not isinstance(group, dict) or any(type(group.get(k)) is not kind for k, kind in _GROUP_KINDS.items()):
            return f"a group needs {', '.join(_GROUP_KINDS)}"
        texts, numbers = [*group["pinned"], *_listed(group.get("nodes", []))], group["removed"]
        if not all(isinstance(text, str) for text in texts) or not all(type(i) is int for i in numbers):
            return f"group {group['name']!r} does not remove numbers for reasons in words"
    return None


def _listed(value: object) -> list[object]:
    """The entries of a list; any other value in a list, which is then no list of texts."""
    return value if isinstance(value, list) else [None]


def _axis(axis: str, indices: object) -> bool:
    return axis.isdecimal() and isinstance(indices, list) and all(type(i) is int and 0 <= i < 2**31 for i in indices)


def make(
    coupling: Coupling,
    removed: NDArray[np.bool_],
    groups: Sequence[dict[str, Any]] = (),
    depth: Sequence[dict[str, Any]] = (),
) -> Plan:
    """The plan that removes some channels.

    Args:
        coupling: The analysis.
        removed: Boolean per channel id, True for what is removed.
        groups: Entries for the plan's `groups`.
        depth: Entries for the plan's `depth`: what is gone already.
    """
    plan = Plan(
        fingerprint(coupling.graph.proto),
        groups=list(groups),
        mixing=coupling.mixing,
        attention=coupling.attention,
        depth=list(depth),
        constants=list(dict.fromkeys(v.key for v in coupling.graph.constants() if v.elem_type in FLOATS and v.rank)),
    )
    lengths = KeptLengths(coupling, removed)
    plan.interface = {name: _lost(value, lengths) for name, value in sorted(coupling.shrinking_values.items())}
    if removed.any():
        over = [(one.node, one.axis) for one in coupling.ties.refills] + [(m.node, m.axis) for m in coupling.ties.means]
        plan.refilled = list(dict.fromkeys(node.label for node, axis in over if lengths.changed(axis)))
        for s in constant_edits(coupling, lengths):
            if s.change:
                plan.removed[s.key] = {str(axis): list(indices) for axis, indices in s.change.items()}
                plan.lengths[s.key] = {str(axis): s.readers[0].axis(axis).length or 0 for axis in s.change}
            if s.key != s.original:
                plan.split[s.key] = s.original
        cut = [c for c in coupling.constant_cuts if any(lengths.changed(c.read.axis(p)) for p in c.positions)]
        behind = (v.key for c in cut if not c.uniform for v in sources(c.made) if v.elem_type in FLOATS and v.rank)
        plan.computed = [name for name in dict.fromkeys(behind) if name not in plan.removed]
    return plan


def _lost(value: Value, lengths: KeptLengths) -> Indices:
    return {str(a.position): lengths.removed(a).tolist() for a in value.axes() if lengths.changed(a)}


def io_slices(plan: Plan) -> IoSlices:
    """What the plan removes of graph inputs and outputs."""
    return IoSlices(
        {name: {int(axis): indices for axis, indices in axes.items()} for name, axes in plan.interface.items() if axes},
        plan.ends,
    )


def channels(plan: Plan, coupling: Coupling) -> NDArray[np.bool_]:
    """Which channels of an analysed graph a plan removes.

    Returns:
        Boolean per channel id.

    Raises:
        InputError: The plan is for another graph, names what is not there, removes what is pinned, or removes only a
            part of what is tied together.
    """
    if plan.model != fingerprint(coupling.graph.proto):
        raise InputError("the plan was made for another graph", "a plan fits checkpoints of one architecture only")
    by_key: dict[str, list[Value]] = {}
    for value in coupling.graph.constants():
        by_key.setdefault(value.key, []).append(value)
    removed = np.zeros(coupling.classes.elements, dtype=bool)
    for shared in (False, True):  # what several read may mean several things: it only fills what is still open
        for name, axes in plan.removed.items():
            values = by_key.get(plan.split.get(name, name))
            if values is None:
                raise PlanError(f"the plan names {name!r}, which the model lacks")
            if (len(values) > 1) == shared and not (shared and name in plan.split):
                _mark(removed, coupling, name, values[0], axes)
    _complete(plan, coupling, removed)
    for value in coupling.graph.constants():
        for axis, indices in plan.removed.get(value.key, {}).items():
            if len(set(indices)) >= (value.axis(int(axis)).length or 0) > 0:
                raise PlanError(f"the plan leaves nothing of axis {axis} of {value.key!r}")
    for group in coupling.groups:
        if group.least > 1 and removed[group.channels].sum() > group.most():
            raise PlanError(f"the plan leaves fewer than {group.least} of {group.name!r}, which are found among them")
    return removed


def _mark(removed: NDArray[np.bool_], coupling: Coupling, name: str, value: Value, axes: Indices) -> None:
    for position, indices in axes.items():
        if int(position) >= len(value.shape or []):
            raise PlanError(f"the plan names axis {position} of {name!r}, which has {len(value.shape or [])}")
        ids = coupling.channels_of(value.axis(int(position)))
        where = np.asarray(indices, dtype=np.int64)
        if len(where) and (where.min() < 0 or where.max() >= len(ids)):
            raise PlanError(f"the plan names index {where.max()} of axis {position} of {name!r}, which has {len(ids)}")
        pinned = coupling.grade[coupling.classes.span(value.axis(int(position)).id)][where] == Grade.PINNED
        if pinned.any():
            raise InputError(
                f"the plan removes index {where[pinned][0]} of axis {position} of {name!r}, which is pinned",
                "onnxprune inspect shows why",
            )
        removed[ids[where]] = True


def _complete(plan: Plan, coupling: Coupling, removed: NDArray[np.bool_]) -> None:
    """Raises PlanError unless the plan removes whole channels."""
    full = make(coupling, removed)
    given, whole = plan.removed | plan.interface, full.removed | full.interface
    for name in sorted(set(given) | set(whole)):
        mine, theirs = given.get(name, {}), whole.get(name, {})
        for axis in sorted(set(mine) | set(theirs)):
            missing = sorted(set(theirs.get(axis, [])) ^ set(mine.get(axis, [])))
            if missing:
                raise PlanError(
                    f"the plan removes only a part of what is tied together: see index {missing[0]} of "
                    f"axis {axis} of {name!r}"
                )


def with_groups(plan: Plan, coupling: Coupling, removed: NDArray[np.bool_]) -> Plan:
    """The plan with entries of the groups that are true of what it removes: somebody may have edited that alone.

    Args:
        plan: The plan.
        coupling: The analysis of a model that it fits.
        removed: Boolean per channel id, see `channels`.
    """
    told = {entry.get("name"): entry for entry in plan.groups}
    entries = []
    for group in coupling.groups:
        units = np.flatnonzero(removed[group.channels]).tolist()
        entry = told.get(group.name, {})
        same = entry.get("removed") == units and entry.get("channels") == group.units
        entries.append(entry if same else describe(group, units, None))
    return replace(plan, groups=entries)


def describe(group: Group, removed: Sequence[int], scores: NDArray[np.float64] | None) -> dict[str, Any]:
    """The entry of a group in plan and report."""
    entry: dict[str, Any] = {
        "name": group.name,
        "channels": group.units,
        "removed": [int(i) for i in removed],
        "grade": str(group.grade),
        "pinned": group.reasons,
        "nodes": group.nodes,
    }
    if scores is not None:
        entry["scores"] = [s if math.isfinite(s) else None for s in rounded(scores).tolist()]
    return entry
