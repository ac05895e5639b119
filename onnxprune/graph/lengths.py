"""Exact arithmetic of lengths that only a run tells: polynomials over the names of free axes.

A free axis has a name (``batch``), and what exporters and graphs compute of such names are lengths again: ``4*s77``,
``h//2``, ``past + seq``. A `Length` is a polynomial with rational coefficients over *atoms*: names, and quotients that
are rounded down. Its text is canonical, so lengths are equal for every run exactly if their texts are equal, as far as
polynomials and the rules of `floor` tell, and the axes of a value keep them as plain strings.

Atoms are lengths: 0 or more, never assumed to be 1 or more (a cache of keys may be empty).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable
from fractions import Fraction

from onnxprune.graph.polynomials import Length, Number, quotient

_MAX_TEXT = 400
_MAX_DEPTH = 24
_TOKEN = re.compile(r"\s*(?:(\d+)|(`[^`]*`|[A-Za-z_][\w.]*)|(//|\*\*|[-+*/()]))")


def floor(a: Length) -> Length:
    """The largest integer that is not above `a`.

    Whole multiples come out (``floor((2*a + 3)/2) = a + 1 + floor(1/2)``), and quotients of quotients are one
    (``floor(floor(a/m)/n) = floor(a/(m*n))`` for integers).
    """
    scale = math.lcm(*(Fraction(c).denominator for _, c in a.terms), 1)
    if scale == 1:
        return a
    split = [(m, divmod(int(c * scale), scale)) for m, c in a.terms]
    outside = Length.of({m: q for m, (q, _) in split})
    inside = Length.of({m: r for m, (_, r) in split})
    if inside.number is not None:
        return outside
    inner = _single_quotient(inside)
    if inner is not None:
        numerator, divisor, constant = inner
        return outside + floor(_over(numerator + Length.constant(constant * divisor), divisor * scale))
    common = math.gcd(scale, *(int(c) for m, c in inside.terms if m))
    constant = sum(int(c) for m, c in inside.terms if not m)
    if common > 1:  # floor((2*a + 1) / 4) = floor((a + floor(1/2)) / 2)
        reduced = {m: int(c) // common for m, c in inside.terms if m}
        return outside + floor(_over(Length.of({**reduced, (): constant // common}), scale // common))
    return outside + Length.atom(_quotient_text(inside, Length.constant(scale)))


def _single_quotient(a: Length) -> tuple[Length, int, int] | None:
    """(x, m, c) where `a` is ``floor(x/m) + c`` with numbers m and c; None where it has another form."""
    symbols = [(m, c) for m, c in a.terms if m]
    if len(symbols) != 1 or symbols[0][1] != 1 or len(symbols[0][0]) != 1:
        return None
    parts = _parts(symbols[0][0][0])
    divisor = parts[1].number if parts is not None else None
    if parts is None or not isinstance(divisor, int):
        return None
    return parts[0], divisor, sum(int(c) for m, c in a.terms if not m)


def floor_divide(a: Length, b: Length) -> Length:
    """``a / b`` rounded down; raises ValueError where either may be negative and that cannot be told, or b is 0."""
    exact = quotient(a, b)
    if exact is not None:
        return exact
    n = b.number
    if n is not None and n > 0:
        return floor(_over(a, n))
    if n is not None or a.minimum < 0 or b.minimum < 0:
        raise ValueError("sign unknown")
    return Length.atom(_quotient_text(a, b))


def _over(a: Length, n: Number) -> Length:
    return Length.of({m: Fraction(c) / n for m, c in a.terms})


def _quotient_text(a: Length, b: Length) -> str:
    return f"({_enclosed(a)}//{_enclosed(b)})"


def _enclosed(a: Length) -> str:
    text = str(a)
    return text if len(a.terms) == 1 and (a.number is not None or a.terms == (((text,), 1),)) else f"({text})"


@functools.lru_cache(maxsize=4096)
def _parts(atom: str) -> tuple[Length, Length] | None:
    """Numerator and denominator of an atom that is a quotient, None for a name."""
    if not atom.startswith("("):
        return None
    reader = _Reader(atom[1:-1])
    numerator = reader.factor()
    reader.take("//")
    return numerator, reader.factor()


def parse(text: str) -> Length:
    """What a text states: an expression of + - * / // ** over names, or else a name as a whole."""
    found = _parsed(text)
    return found if found is not None else named(text)


def named(text: str) -> Length:
    """The length with a name of any characters."""
    plain = re.fullmatch(r"[A-Za-z_][\w.]*|`[^`]*`", text) is not None
    return Length.atom(text if plain else "`" + text.replace("`", "'") + "`")


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> Length | None:
    if len(text) > _MAX_TEXT:
        return None
    try:
        reader = _Reader(text)
        found = reader.expression()
        return found if reader.done else None
    except (ValueError, ArithmeticError):
        return None


class _Reader:
    """Reads an expression from left to right; raises ValueError where it is none."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        at, text = 0, text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise ValueError(f"no expression: {text!r}")
            self._tokens.append(match[0].strip())
            at = match.end()
        self._tokens.reverse()
        self._depth = 0

    @property
    def done(self) -> bool:
        """Whether everything was read."""
        return not self._tokens

    def take(self, *wanted: str) -> str | None:
        """The next token, if it is one of `wanted`."""
        return self._tokens.pop() if self._tokens and self._tokens[-1] in wanted else None

    def expression(self) -> Length:
        """A sum."""
        total = self._product()
        while sign := self.take("+", "-"):
            part = self._product()
            total = total + part if sign == "+" else total - part
        return total

    def _product(self) -> Length:
        total = self.factor()
        while sign := self.take("*", "/", "//"):
            part = self.factor()
            if sign == "*":
                total = total * part
            elif sign == "//":
                total = floor_divide(total, part)
            else:
                total = _divided(total, part)
        return total

    def factor(self) -> Length:
        """A name, a number or an expression in parentheses, to a power; signed."""
        if self.take("-"):
            return -self.factor()
        base = self._base()
        if not self.take("**"):
            return base
        power = self._base().number
        if not isinstance(power, int) or not 0 <= power <= 8:
            raise ValueError("no power")
        return functools.reduce(Length.__mul__, [base] * power, Length.constant(1))

    def _base(self) -> Length:
        if self.take("("):
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise ValueError("nested too deeply")
            inside = self.expression()
            if not self.take(")"):
                raise ValueError("a parenthesis is left open")
            self._depth -= 1
            return inside
        token = self._tokens.pop() if self._tokens else ""
        if token.isdecimal():
            return Length.constant(int(token))
        if not token or token in "()+-*/**//":
            raise ValueError("a name or a number is missing")
        return Length.atom(token)


def _divided(a: Length, b: Length) -> Length:
    exact, n = quotient(a, b), b.number
    if exact is None and not n:
        raise ValueError("no polynomial")
    return exact if exact is not None else _over(a, n or 1)


def names(a: Length) -> set[str]:
    """Every name in it, inside of quotients too."""
    found: set[str] = set()
    for atom in {atom for m, _ in a.terms for atom in m}:
        parts = _parts(atom)
        found |= {atom} if parts is None else names(parts[0]) | names(parts[1])
    return found


def substitute(a: Length, values: Callable[[str], Length | None]) -> Length:
    """The length with other lengths in place of names; `values` gives None for a name that stays."""
    result = Length(())
    for monomial, c in a.terms:
        part = Length.constant(c)
        for atom in monomial:
            parts = _parts(atom)
            if parts is None:
                new = values(atom)
                part = part * (Length.atom(atom) if new is None else new)
            else:
                part = part * floor_divide(substitute(parts[0], values), substitute(parts[1], values))
        result = result + part
    return result


Dim = int | str | None
"""Length of an axis: a number, the text of a `Length`, or not known."""


def of_dim(dim: Dim) -> Length | None:
    """An axis length as a `Length`, None where it is not known."""
    if isinstance(dim, str):
        return parse(dim)
    return None if dim is None else Length.constant(dim)


def to_dim(length: Length | None) -> Dim:
    """The other way round; None for what is no length, as a fraction or what is below 0."""
    if length is None:
        return None
    number = length.number
    if number is None:
        return str(length)
    return number if isinstance(number, int) and number >= 0 else None


def product(dims: Iterable[Dim]) -> Length | None:
    """The product of axis lengths, None where one is not known."""
    return _product(tuple(dims))


@functools.lru_cache(maxsize=4096)
def _product(dims: tuple[Dim, ...]) -> Length | None:
    if None in dims:
        return None
    numbers = Length.constant(math.prod(d for d in dims if isinstance(d, int)))
    return functools.reduce(Length.__mul__, [parse(d) for d in dims if isinstance(d, str)], numbers)
