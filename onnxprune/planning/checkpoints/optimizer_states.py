"""Which states of an optimizer belong to which parameter."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from onnxprune.errors import InputError
from onnxprune.planning.checkpoints.cuts import Cut

Shape = tuple[int, ...]


def numbered(optimizer: Mapping[str, Any], cuts: Mapping[str, Cut], parameters: Mapping[str, Any]) -> dict[Any, str]:
    """The parameters that are cut of those that an optimizer of PyTorch has states of, by their numbers there.

    Parameters are known by the names that the optimizer stores. Without these each of its groups has them in the order
    of the file, maybe with others in between: what is not trained, or belongs to another group. That tells which they
    are where there is one such order alone, or where all of them are cut alike.

    Args:
        optimizer: Its ``state`` by number, and its ``param_groups``.
        cuts: Cuts of the parameters, by their names in the file.
        parameters: The tensors that may be parameters, by these names, in order.

    Raises:
        InputError: They are not known, or a state has neither the shape of its parameter nor is it one number.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in parameters.items()}
    groups = optimizer["param_groups"]
    every = [number for group in groups for number in group["params"]]
    said = [name for group in groups for name in group.get("param_names", ())] or every
    found: dict[Any, str] = {}
    if all(isinstance(name, str) for name in said):
        names = {number: _named(name, parameters) for number, name in zip(every, said, strict=False)}
    else:
        names = {}
        for group in groups:
            names |= _in_order(group["params"], len(every), optimizer["state"], cuts, shapes)
    for number, name in names.items():
        states = optimizer["state"].get(number, {})
        if name in cuts and _shape(states) is not None:
            if any(_numbers(state) > 1 and tuple(state.shape) != shapes[name] for state in states.values()):
                raise InputError(
                    f"a state of the optimizer for {name!r} has not its shape, and nothing tells how to slice it",
                    "save the checkpoint without the optimizer",
                )
            found[number] = name
    return found


def _in_order(
    numbers: Sequence[Any],
    every: int,
    states: Mapping[Any, Mapping[str, Any]],
    cuts: Mapping[str, Cut],
    shapes: Mapping[str, Shape],
) -> dict[Any, str]:
    """The parameters of a group that has no names, `every` numbers in all groups: in the order of the file."""
    if len(numbers) == every == len(shapes):
        found = dict(zip(numbers, shapes, strict=True))
        if any(_shape(states.get(n, {})) not in (None, shapes[name]) for n, name in found.items()):
            raise _unknown()
        return found
    have = [(n, shape) for n in numbers if (shape := _shape(states.get(n, {}))) is not None]
    told = told_by_order(have, shapes, cuts)
    if told is None:
        raise _unknown()
    return told


def told_by_order(
    have: Sequence[tuple[Any, Shape]], shapes: Mapping[str, Shape], cuts: Mapping[str, Cut]
) -> dict[Any, str] | None:
    """The parameters of states that are in the order of the parameters, where that tells them; None where it does not.

    Args:
        have: The states with their shapes, in order.
        shapes: Shapes of the parameters in order; some may have no states.
        cuts: Cuts of the parameters. Those that are cut alike need not be told apart.
    """
    first, last = _matched(have, shapes.items()), _matched(have[::-1], list(shapes.items())[::-1])
    if first is None or last is None or not all(_alike(cuts.get(first[n]), cuts.get(last[n])) for n, _ in have):
        return None
    return first


def _matched(have: Iterable[tuple[Any, Shape]], given: Iterable[tuple[str, Shape]]) -> dict[Any, str] | None:
    """The first parameters of the shapes of some states, in their order; None where there are not as many."""
    rest, found = iter(given), {}
    for number, shape in have:
        name = next((name for name, other in rest if other == shape), None)
        if name is None:
            return None
        found[number] = name
    return found


def _alike(one: Cut | None, other: Cut | None) -> bool:
    """Whether two cuts leave the same."""
    return one is other if one is None or other is None else one.same_as(other)


def _named(name: str, parameters: Iterable[str]) -> str:
    """The parameter of a name, whole or behind the fewest prefixes that the file gave it; "" where there is none."""
    return min((n for n in parameters if n == name or n.endswith(f".{name}")), key=len, default="")


def _shape(states: Mapping[str, Any]) -> Shape | None:
    """The shape of the first state that has axes; None where none has."""
    return next((tuple(state.shape) for state in states.values() if getattr(state, "ndim", 0)), None)


def _numbers(state: Any) -> int:
    """How many numbers a state has; 0 for what is no tensor."""
    return math.prod(state.shape) if hasattr(state, "shape") else 0


def _unknown() -> InputError:
    return InputError(
        "the states of the optimizer do not have the shapes of the parameters in an order that tells them apart",
        "save it with names: torch.optim.Adam(model.named_parameters())",
    )
