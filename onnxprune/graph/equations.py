"""What is known of free lengths beyond their names: which are equal, found while shapes are inferred.

An inference gives a length that it cannot follow a name of its own, and a Reshape that works says that two products of
lengths are equal. Each such equation gives one name a value in terms of others; every length is read through them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection

from onnxprune.graph.contents import Data, Unknown, entry_of, length_of
from onnxprune.graph.lengths import Dim, named, names, of_dim, parse, substitute, to_dim
from onnxprune.graph.polynomials import Length


class Equations:
    """Values of names.

    Args:
        given: Names that the graph's inputs state for their axes. Values are given to other names, where possible.
    """

    def __init__(self, given: Collection[str]) -> None:
        self._given = {str(named(name)) for name in given}
        self._is_given: dict[str, bool] = {}
        self._values: dict[str, Length] = {}
        self._read: dict[str, str | int | None] = {}

    def __len__(self) -> int:
        return len(self._values)

    def given(self, text: str) -> bool:
        """Whether a length is made of names of the inputs alone."""
        if text not in self._is_given:
            self._is_given[text] = names(parse(text)) <= self._given
        return self._is_given[text]

    def stated(self, dim: Dim) -> Dim:
        """A length as a file states it: an expression of the inputs' names, or else a name of its own."""
        if not isinstance(dim, str):
            return dim
        length = parse(dim)
        return str(self.solved(length if names(length) and self.given(dim) else named(dim)))

    def dim(self, dim: Dim) -> Dim:
        """A length by what is known."""
        if not isinstance(dim, str) or not self._values:
            return dim
        if dim not in self._read:
            self._read[dim] = to_dim(self.solved(parse(dim)))
        return self._read[dim]

    def solved(self, length: Length) -> Length:
        """The same, as a polynomial; what would be none any more is known by its text alone."""
        while self._values and not names(length).isdisjoint(self._values):
            try:
                length = substitute(length, self._values.get)
            except ValueError:
                return named(str(length))
        return length

    def contents(self, entries: Data) -> Data:
        """The contents of a tensor by what is known."""
        if not self._values or not any(isinstance(e, Unknown) and e.name for e in entries.flat):
            return entries
        result: Data = entries.copy()
        for at, entry in enumerate(entries.flat):
            length = length_of(entry) if isinstance(entry, Unknown) else None
            if length is not None:
                result.flat[at] = entry_of(self.solved(length), floating=not length.whole)
        return result

    def equal(self, a: Dim, b: Dim, within: Collection[str] | None = None) -> None:
        """Two lengths are the same in every run; see `equate`."""
        left, right = of_dim(a), of_dim(b)
        if left is not None and right is not None:
            self.equate(left, right, within)

    def equate(self, a: Length, b: Length, within: Collection[str] | None = None) -> None:
        """Two lengths, as polynomials, are the same; equations that give no name a value are not kept.

        Args:
            a: One of them.
            b: The other one.
            within: The only names that may be given a value; None for all. What is said in a body that may not run
                holds for what is in there alone.
        """
        try:
            a, b = _reduced(self.solved(a), self.solved(b))
        except (ValueError, ArithmeticError):
            return
        if a == b:
            return
        sides = [(x, y) for x, y in ((a, b), (b, a)) if self._free(x) and not names(x) & names(y)]
        if within is not None:
            sides = [side for side in sides if str(side[0]) in within]
        sides.sort(key=lambda side: self.given(str(side[0])))  # those that inference made up come first
        if sides:
            self._values[str(sides[0][0])] = sides[0][1]
            self._read.clear()

    def _free(self, a: Length) -> bool:
        """Whether it is a bare name."""
        return len(a.terms) == 1 and a.terms[0][1] == 1 and names(a) == set(a.terms[0][0]) and len(a.terms[0][0]) == 1


def _reduced(a: Length, b: Length) -> tuple[Length, Length]:
    """Both without the factors that they share, where they are single terms.

    A factor may be 0 at a run, which says nothing about the others; but then both products are empty.
    """
    if len(a.terms) != 1 or len(b.terms) != 1 or not (a.whole and b.whole):
        return a, b
    (m, c), (n, d) = a.terms[0], b.terms[0]
    shared = Counter(m) & Counter(n)
    common = math.gcd(int(c), int(d))
    return tuple(
        Length.of({tuple(sorted((Counter(monomial) - shared).elements())): int(factor) // common})
        for monomial, factor in ((m, c), (n, d))
    )  # type: ignore[return-value]
