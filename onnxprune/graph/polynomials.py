"""Polynomials with rational coefficients over names: what lengths are, before anything is rounded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

Monomial = tuple[str, ...]
"""Atoms in order, each as often as its power says; () for a constant."""
Number = int | Fraction

_MAX_TERMS = 64


@dataclass(frozen=True)
class Length:
    """A polynomial, as (monomial, coefficient) pairs in order; no coefficient is 0."""

    terms: tuple[tuple[Monomial, Number], ...]

    @staticmethod
    def of(coefficients: Mapping[Monomial, Number]) -> Length:
        """The polynomial with these coefficients; raises ValueError where it has too many terms."""
        terms = [(m, c if type(c) is int or c.denominator > 1 else int(c)) for m, c in coefficients.items() if c]
        if len(terms) < 2:
            return Length(tuple(terms))
        if len(terms) > _MAX_TERMS:
            raise ValueError("too many terms")
        return Length(tuple(sorted(terms, key=lambda term: (-len(term[0]), term[0]))))

    @staticmethod
    def constant(number: Number) -> Length:
        """A number."""
        return Length.of({(): number})

    @staticmethod
    def atom(name: str) -> Length:
        """A length of which only the name is known."""
        return Length((((name,), 1),))

    @property
    def number(self) -> Number | None:
        """The number that it is in every run, None where that depends on the run."""
        if not self.terms:
            return 0
        (monomial, coefficient), *rest = self.terms
        return coefficient if not monomial and not rest else None

    @property
    def whole(self) -> bool:
        """Whether every coefficient is an integer."""
        return all(isinstance(c, int) for _, c in self.terms)

    @property
    def minimum(self) -> float:
        """A bound that it is never less than."""
        constant = sum(c for m, c in self.terms if not m)
        return -math.inf if any(m and c < 0 for m, c in self.terms) else float(constant)

    def __add__(self, other: Length) -> Length:
        total: dict[Monomial, Number] = dict(self.terms)
        for m, c in other.terms:
            total[m] = total.get(m, 0) + c
        return Length.of(total)

    def __neg__(self) -> Length:
        return Length(tuple((m, -c) for m, c in self.terms))

    def __sub__(self, other: Length) -> Length:
        return self + -other

    def __mul__(self, other: Length) -> Length:
        total: dict[Monomial, Number] = {}
        for m, c in self.terms:
            for n, d in other.terms:
                key = tuple(sorted(m + n)) if m and n else m + n
                total[key] = total.get(key, 0) + c * d
        return Length.of(total)

    def __str__(self) -> str:
        text = ""
        for monomial, c in self.terms:
            factors = [*([str(abs(c))] if abs(c) != 1 or not monomial else []), *_powers(monomial)]
            sign = " - " if c < 0 else " + "
            text += (sign if text else sign.strip(" +")) + "*".join(factors)
        return text or "0"


def _powers(monomial: Monomial) -> list[str]:
    return [a if n == 1 else f"{a}**{n}" for a, n in Counter(monomial).items()]


def quotient(a: Length, b: Length) -> Length | None:
    """The polynomial q with integer coefficients and ``a = q * b``; None where there is none.

    Division by the leading term, again and again; what is left is divided until nothing is.
    """
    if not b.terms:
        return None
    x, y = a.number, b.number
    if isinstance(x, int) and isinstance(y, int):
        return None if x % y else Length.constant(x // y)
    (lead, by), result = b.terms[0], Length(())
    for _ in range(_MAX_TERMS):
        if not a.terms:
            return result if result.whole else None
        monomial, coefficient = a.terms[0]
        left = Counter(monomial)
        left.subtract(lead)
        if any(n < 0 for n in left.values()):
            return None
        part = Length.of({tuple(sorted(left.elements())): Fraction(coefficient) / by})
        result, a = result + part, a - part * b
    return None
