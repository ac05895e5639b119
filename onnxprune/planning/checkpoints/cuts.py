"""Which indices of which tensors of a checkpoint a plan leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.text import plural
from onnxprune.errors import InputError, PlanError, option
from onnxprune.planning.masks import unpack_mask
from onnxprune.planning.plan import Plan

Array = NDArray[Any]
Index = NDArray[np.int64]

SHOWN = 5
"""Names that a message lists at most."""


@dataclass(frozen=True)
class TensorMap:
    """How tensors of a checkpoint follow from the constants of a plan, where names do not say it.

    Attributes:
        tensors: Tensor -> for each of its axes the axis of a constant whose indices it has; None for one that stays.
        ignored: Constants that no tensor of the checkpoint belongs to.
    """

    tensors: Mapping[str, Sequence[tuple[str, int] | None]] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()

    @classmethod
    def from_data(cls, data: object) -> TensorMap:
        """Reads ``{"tensors": {NAME: CONSTANT or ["CONSTANT:AXIS" or "" for each axis]}, "ignore": [CONSTANT]}``.

        Raises:
            InputError: The data are something else.
        """
        if not isinstance(data, dict) or set(data) - {"tensors", "ignore"}:
            raise InputError(f"{option('tensor_map')}: it has the keys 'tensors' and 'ignore' only")
        tensors, ignored = data.get("tensors", {}), data.get("ignore", [])
        if not isinstance(tensors, dict) or not isinstance(ignored, list):
            raise InputError(f"{option('tensor_map')}: 'tensors' is a table by name, and 'ignore' a list")
        return cls({name: _axes(name, entry) for name, entry in tensors.items()}, frozenset(map(str, ignored)))


def _axes(name: str, entry: object) -> list[tuple[str, int] | None]:
    """The axes of one tensor, as a map names them."""
    found: list[tuple[str, int] | None] = []
    for one in entry if isinstance(entry, list) else [entry]:
        constant, colon, axis = one.rpartition(":") if isinstance(one, str) else ("", "", "")
        if one in ("", None) and isinstance(entry, list):
            found.append(None)
        elif colon and axis.isdigit():
            found.append((constant, int(axis)))
        elif isinstance(one, str) and not isinstance(entry, list):
            return [(one, WHOLE)]
        else:
            raise InputError(
                f"{option('tensor_map')}: the entry for {name!r} is neither a constant nor a list of CONSTANT:AXIS",
                '["onnx::Conv_12:0", ""], say',
            )
    return found


WHOLE = -1
"""Stands for all axes of a constant, one by one."""


@dataclass(frozen=True)
class Cut:
    """What is left of a tensor.

    Attributes:
        kept: Indices that stay, in their order, by axis.
        zero: Elements that become zero, of the shape that is left; None for none.
    """

    kept: Mapping[int, Index]
    zero: NDArray[np.bool_] | None = None


def cuts(plan: Plan, shapes: Mapping[str, Sequence[int]], tensor_map: TensorMap = TensorMap()) -> dict[str, Cut]:
    """The cut of every tensor of a checkpoint that the plan changes.

    A tensor belongs to a constant of its name, or of its name without a prefix under which the checkpoint has the names
    of all others too: the states of an optimizer, a running average, a wrapper.

    Args:
        plan: The plan.
        shapes: Shapes of the tensors, by name.
        tensor_map: What names do not say.

    Raises:
        PlanError: The plan removes blocks, or cuts a shared constant in several ways.
        InputError: A constant of the plan has no tensor, or a tensor has another shape.
    """
    if plan.depth or plan.split:
        what = "leaves out blocks" if plan.depth else "cuts a shared weight in several ways"
        raise PlanError(f"the plan {what}, which the slices of a checkpoint cannot show", "make one without that")
    constants = list(dict.fromkeys([*plan.removed, *plan.permuted, *plan.zeroed]))
    wanted: dict[str, Sequence[tuple[str, int] | None]] = {name: [(name, WHOLE)] for name in constants}
    mapped = {source[0] for axes in tensor_map.tensors.values() for source in axes if source is not None}
    _check_map(tensor_map, shapes, mapped - set(constants))
    for name in (mapped | tensor_map.ignored) - set(shapes):
        wanted.pop(name, None)
    wanted.update(tensor_map.tensors)
    exact = {name: (name, axes) for name, axes in tensor_map.tensors.items() if name in shapes}
    by_name = {name: axes for name, axes in wanted.items() if name not in exact}
    found = dict(_found(by_name, shapes)) | exact
    missing = [name for name in wanted if name not in {target for target, _ in found.values()}]
    if missing:
        rest = f" and {len(missing) - SHOWN} others" if len(missing) > SHOWN else ""
        finds = f"{option('model', ...)} finds those of the same values"
        raise InputError(
            f"the checkpoint has no tensor for {', '.join(map(repr, missing[:SHOWN]))}{rest} of the plan",
            f"{option('tensor_map', ...)} says which tensor it is; {finds}",
        )
    return {name: _cut(plan, name, axes, shapes[name]) for name, (_, axes) in found.items()}


def _check_map(tensor_map: TensorMap, shapes: Mapping[str, Sequence[int]], unknown: set[str]) -> None:
    for name in tensor_map.tensors:
        if not any(name in suffixes(known) for known in shapes):
            raise InputError(f"{option('tensor_map')}: the checkpoint has no tensor {name!r}")
    if unknown:
        raise InputError(f"{option('tensor_map')}: the plan changes no constant {min(unknown)!r}")


Axes = Sequence[tuple[str, int] | None]


def _found(wanted: Mapping[str, Axes], shapes: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, tuple[str, Axes]]]:
    """Tensors of the checkpoint with what they are looked for as, and where their indices come from."""
    by_prefix: dict[str, list[str]] = {}
    for name in shapes:
        for target in suffixes(name):
            if target in wanted:
                by_prefix.setdefault(name.removesuffix(target), []).append(target)
    most = {target for targets in by_prefix.values() for target in targets}
    for prefix, targets in by_prefix.items():
        if set(targets) == most or (not prefix and targets):
            yield from ((prefix + target, (target, wanted[target])) for target in targets)


def suffixes(name: str) -> Iterator[str]:
    """A name, and what is left of it behind every separator."""
    yield name
    yield from (name[i + 1 :] for i, letter in enumerate(name) if letter in "./" and i + 1 < len(name))


def _cut(plan: Plan, name: str, axes: Axes, shape: Sequence[int]) -> Cut:
    """The cut of one tensor."""
    if len(axes) == 1 and axes[0] is not None and axes[0][1] == WHOLE:
        axes = [(axes[0][0], axis) for axis in range(len(shape))]
    if len(axes) != len(shape):
        raise InputError(f"tensor {name!r} has {plural(len(shape), 'axis')}, and {len(axes)} are mapped")
    kept: dict[int, Index] = {}
    for axis, (source, length) in enumerate(zip(axes, shape, strict=True)):
        if source is not None:
            indices = _kept(plan, name, source, length)
            if indices is not None:
                kept[axis] = indices
    return Cut(kept, _zero(plan, name, axes, [len(kept.get(i, range(n))) for i, n in enumerate(shape)]))


def _kept(plan: Plan, name: str, source: tuple[str, int], length: int) -> Index | None:
    """The indices that stay of an axis; None where all do, in their order."""
    constant, axis = source[0], str(source[1])
    removed, order = plan.removed.get(constant, {}).get(axis), plan.permuted.get(constant, {}).get(axis)
    if removed is None and order is None:
        return None
    gone = np.array(removed or [], np.int64)
    wanted = plan.lengths.get(constant, {}).get(axis, length)
    if (len(gone) and gone.max() >= length) or len(gone) >= length or length != wanted:
        of = f" of {wanted}" if wanted != length else ""
        raise InputError(
            f"tensor {name!r} has {length} entries where the plan removes {len(gone)}{of}, up to number {gone.max()}",
            "the plan is for another architecture, or the axes of the tensor lie in another order: "
            f"see {option('tensor_map')}",
        )
    left = np.delete(np.arange(length), gone)
    if order is not None and sorted(order) != list(range(len(left))):
        raise InputError(f"tensor {name!r} keeps {len(left)} entries where the plan orders {len(order)}")
    return left if order is None else left[np.array(order, np.int64)]


def _zero(plan: Plan, name: str, axes: Axes, left: Sequence[int]) -> NDArray[np.bool_] | None:
    """Elements that a plan sets to zero, of a tensor that has all axes of one constant in some order."""
    names = {None if source is None else source[0] for source in axes}
    constant = next(iter(names), None)
    if len(names) != 1 and any(name in plan.zeroed for name in names):
        raise InputError(
            f"tensor {name!r} is made of parts of {', '.join(repr(n) for n in names if n)}, which have zeros",
            f"{option('tensor_map')} must map all axes of one constant then",
        )
    if constant is None or constant not in plan.zeroed:
        return None
    order = [source[1] for source in axes if source is not None]
    mask = unpack_mask(plan.zeroed[constant]["mask"], tuple(left[order.index(axis)] for axis in range(len(order))))
    turned: NDArray[np.bool_] = mask.transpose(order)
    return turned
