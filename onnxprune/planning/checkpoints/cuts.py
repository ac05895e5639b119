"""Which indices of which tensors of a checkpoint a plan leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.text import first_of, plural
from onnxprune.errors import InputError, PlanError, option
from onnxprune.planning.masks import has_more, unpack_mask
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

    def same_as(self, other: Cut) -> bool:
        """Whether another cut of tensors of the same shape leaves the same."""
        if self.kept.keys() != other.kept.keys() or (self.zero is None) != (other.zero is None):
            return False
        same = all(np.array_equal(self.kept[axis], other.kept[axis]) for axis in self.kept)
        return same and (self.zero is None or other.zero is None or np.array_equal(self.zero, other.zero))


def cuts(plan: Plan, shapes: Mapping[str, Sequence[int]], tensor_map: TensorMap = TensorMap()) -> dict[str, Cut]:
    """The cut of every tensor of a checkpoint that the plan changes.

    A tensor belongs to a constant of its name, or of its name without a prefix under which the checkpoint has the names
    of most others too: the states of an optimizer, a running average, a wrapper. What a map says of a tensor holds
    for those of the same name under the other prefixes too.

    Args:
        plan: The plan.
        shapes: Shapes of the tensors, by name.
        tensor_map: What names do not say.

    Raises:
        PlanError: The plan removes blocks, or cuts a shared constant in several ways.
        InputError: A constant of the plan has no tensor, a tensor has another shape, the model lacks a
            BatchNormalization behind what is cut, or it computes what is cut.
    """
    if plan.depth or plan.split:
        what = "leaves out blocks" if plan.depth else "cuts a shared weight in several ways"
        raise PlanError(f"the plan {what}, which the slices of a checkpoint cannot show", "make one without that")
    constants = list(dict.fromkeys([*plan.removed, *plan.permuted, *plan.zeroed]))
    wanted: dict[str, Axes] = {name: [(name, WHOLE)] for name in constants}
    mapped = {source[0] for axes in tensor_map.tensors.values() for source in axes if source is not None}
    _check_map(tensor_map, shapes, mapped - set(constants))
    for name in (mapped | tensor_map.ignored) - set(shapes):
        wanted.pop(name, None)
    exact = {name: axes for name, axes in tensor_map.tensors.items() if name in shapes}
    wanted.update((name, axes) for name, axes in tensor_map.tensors.items() if name not in exact)
    by_name = {name: axes for name, axes in wanted.items() if name not in exact}
    places = places_of({*plan.constants, *by_name}, shapes)
    found = {**exact, **_under(places, by_name, shapes)}
    missing = [name for name in by_name if not any(place + name in found for place in ("", *places[:1]))]
    if missing:
        finds = f"{option('model', ...)} finds those of the same values"
        raise InputError(
            f"the checkpoint has no tensor for {first_of(missing, SHOWN, repr)} of the plan",
            f"{option('tensor_map', ...)} says which tensor it is, or ignores it; {finds}",
        )
    for name, axes in exact.items():
        found |= dict.fromkeys(set(copies(name, places, shapes)) - set(found), axes)
    made = {name: cut_of(plan, name, axes, shapes[name]) for name, axes in found.items()}
    if plan.constants:
        _check_vectors(plan, places, shapes, made)
    for name in (place + name for place in ("", *places) for name in plan.computed):
        if name in shapes and name not in made:
            raise InputError(
                f"the plan cuts what the model computes of {name!r}, not the constant itself",
                f"{option('tensor_map', ...)} says whose indices its axes have",
            )
    return made


def _check_map(tensor_map: TensorMap, shapes: Mapping[str, Sequence[int]], unknown: set[str]) -> None:
    for name in tensor_map.tensors:
        if not any(name in suffixes(known) for known in shapes):
            raise InputError(f"{option('tensor_map')}: the checkpoint has no tensor {name!r}")
    if unknown:
        raise InputError(f"{option('tensor_map')}: the plan changes no constant {min(unknown)!r}")


def _check_vectors(
    plan: Plan, places: Sequence[str], shapes: Mapping[str, Sequence[int]], made: Mapping[str, Cut]
) -> None:
    """Raises InputError where the model lacks what goes with the outputs of a layer that is cut.

    That is a BatchNormalization that the export folded, or a bias: equal ones, of zeros say, are stored once.
    """
    cut = {shapes[name][0] for name, one in made.items() if 0 in one.kept}
    known = {place + name for place in places for name in plan.constants} | made.keys()
    maps = f"{option('tensor_map', ...)} says whose indices it has"
    for name, shape in shapes.items():
        if name in known or len(shape) != 1 or shape[0] not in cut:
            continue
        if name.endswith(STATISTICS):
            raise InputError(
                f"the model has no constant for {name!r}: the export folded it into a layer that the plan cuts, maybe",
                f"{maps}; or export the model in training form",
            )
        weight = name.removesuffix("bias") + "weight"
        if weight in made and 0 in made[weight].kept and shapes[weight][0] == shape[0]:
            raise InputError(f"the model has no constant for {name!r}, and the plan cuts outputs of {weight!r}", maps)


STATISTICS = (".running_mean", ".running_var")
"""How tensors end that only a BatchNormalization has."""

Axes = Sequence[tuple[str, int] | None]


def places_of(names: Collection[str], shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Prefixes under which a checkpoint has most of the constants that it has anywhere, those with the most first.

    Averages of weights and states of optimizers lack what is not trained, and what is stored once.

    Args:
        names: Names of the constants of the model.
        shapes: The tensors.
    """
    count = Counter(name.removesuffix(target) for name in shapes for target in suffixes(name) if target in names)
    most = max(count.values(), default=0)
    return [place for place, n in count.most_common() if 2 * n > most]


def copies(name: str, places: Sequence[str], shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Tensors of the same shape and, under the other prefixes, of the same name."""
    place = max((p for p in places if name.startswith(p)), key=len, default="")
    alike = [p + name.removeprefix(place) for p in places if p != place]
    return [other for other in alike if other in shapes and tuple(shapes[other]) == tuple(shapes[name])]


def _under(places: Sequence[str], wanted: Mapping[str, Axes], shapes: Mapping[str, Sequence[int]]) -> dict[str, Axes]:
    """Tensors under some prefixes, and the prefix of none, with where their indices come from."""
    found: dict[str, Axes] = {}
    for place in dict.fromkeys((*places, "")):
        found |= {place + n: axes for n, axes in wanted.items() if place + n in shapes and place + n not in found}
    return found


def suffixes(name: str) -> Iterator[str]:
    """A name, and what is left of it behind every separator."""
    yield name
    yield from (name[i + 1 :] for i, letter in enumerate(name) if letter in "./" and i + 1 < len(name))


def cut_of(plan: Plan, name: str, axes: Axes, shape: Sequence[int]) -> Cut:
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
    if len(order) == 1 and has_more(plan.zeroed[constant]["mask"], left[0]):
        return None  # one element for each index of a constant of more axes: of a normalization, say
    mask = unpack_mask(plan.zeroed[constant]["mask"], tuple(left[order.index(axis)] for axis in range(len(order))))
    turned: NDArray[np.bool_] = mask.transpose(order)
    return turned
