"""How the entries of a computed shape must change once axes are shorter: by a factor, a divisor and a summand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from onnx import numpy_helper

from onnxprune.edit.resize import Entries
from onnxprune.graph.contents import Data, Unknown, length_of
from onnxprune.graph.graph import Node
from onnxprune.graph.polynomials import Length


@dataclass(frozen=True)
class Change:
    """An entry becomes ``entry * factor / divisor + added``, without remainder."""

    factor: int = 1
    divisor: int = 1
    added: float = 0


UNCHANGED = Change()


def changes(then: Data | None, now: Data | None, entries: Entries, *, infers: bool) -> list[Change]:
    """What to do to each entry.

    Args:
        then: What is computed before the removal, without entries that go; None where it could not be followed.
        now: What is computed after it.
        entries: What is required; None for what must stay as it was.
        infers: Whether the reader takes -1 for a length that follows from the others.

    Returns:
        A change for each entry, `UNCHANGED` where it is what it should be.
    """
    if now is None or now.size != len(entries):
        return [UNCHANGED if e is None else _change(Unknown(), e, infers) for e in entries]
    before = list(then.flat) if then is not None and then.size == len(entries) else [None] * len(entries)
    return [
        _change(n, length_of(b) if e is None and isinstance(b, Unknown) else e, infers)
        for b, n, e in zip(before, now.flat, entries, strict=True)
    ]


def _change(now: object, required: int | Length | None, infers: bool) -> Change:
    if required is None or (now == -1 and infers):
        return UNCHANGED
    if not isinstance(required, Length):
        return UNCHANGED if not isinstance(now, Unknown) and now == required else Change(0, 1, required)
    computed = length_of(now)
    if computed is None or computed == required:
        return UNCHANGED
    return _times(computed, required) or _plus(computed, required) or UNCHANGED


def _times(computed: Length, wanted: Length) -> Change | None:
    """The change by a ratio, None where there is none."""
    if len(computed.terms) != len(wanted.terms) or not computed.terms:
        return None
    ratio = Fraction(wanted.terms[0][1]) / computed.terms[0][1]
    if computed * Length.constant(ratio) != wanted:
        return None
    return Change(ratio.numerator, ratio.denominator)


def _plus(computed: Length, wanted: Length) -> Change | None:
    """The change by a difference, None where that depends on the run."""
    number = (wanted - computed).number
    return Change(added=number) if isinstance(number, int) else None


def constant_parts(concat: Node, changes: Sequence[Change]) -> dict[int, list[int]] | None:
    """The constants of a concatenated shape whose entries change, with their new entries.

    Args:
        concat: A Concat of vectors.
        changes: What to do to each entry of what it makes.

    Returns:
        Position of an input -> its new entries; None where an entry changes that is not constant.
    """
    found: dict[int, list[int]] = {}
    start = 0
    for position, part in enumerate(concat.inputs):
        length = None if part is None or part.shape is None or len(part.shape) != 1 else part.shape[0]
        if not isinstance(length, int):
            return None
        mine = changes[start : start + length]
        start += length
        if all(change == UNCHANGED for change in mine):
            continue
        if part is None or part.tensor is None:
            return None
        old = numpy_helper.to_array(part.tensor).reshape(-1).tolist()
        if len(old) != length:
            return None
        found[position] = [
            round(entry * change.factor // change.divisor + change.added)
            for entry, change in zip(old, mine, strict=True)
        ]
    return found if start == len(changes) else None
