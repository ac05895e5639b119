"""Arithmetic on the contents of small tensors, entry by entry: numbers, and free lengths where they stay exact."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from onnxprune.graph.contents import FLOATS, Data, Unknown, entry_of, length_of
from onnxprune.graph.graph import Node
from onnxprune.graph.lengths import floor, floor_divide
from onnxprune.graph.polynomials import Length, quotient

Exact = Callable[[Length, Length, bool], Length | None]
"""An operation on free lengths, and whether on floats; None where the result is none that can be followed."""


def binary(f: Callable[[Any, Any], Any], exact: Exact | None = None) -> Callable[..., list[Data]]:
    """An operator on pairs of entries: `f` for numbers, `exact` where one is a free length."""

    def apply(node: Node, a: Data, b: Data) -> list[Data]:
        table = np.frompyfunc(lambda x, y: _pair(x, y, f, exact, _floating(node, x, y)), 2, 1)
        return [np.asarray(table(a, b), dtype=object)]

    return apply


def _pair(x: Any, y: Any, f: Callable[[Any, Any], Any], exact: Exact | None, floating: bool) -> Any:
    if not isinstance(x, Unknown) and not isinstance(y, Unknown):
        return f(x, y)
    a, b = length_of(x), length_of(y)
    if exact is None or a is None or b is None:
        return Unknown()
    try:
        return entry_of(exact(a, b, floating), floating)
    except (ValueError, ArithmeticError):
        return Unknown()


def _floating(node: Node, *entries: Any) -> bool:
    out = node.outputs[0]
    kind = out.elem_type if out is not None else 0
    return kind in FLOATS if kind else any(isinstance(e, float) for e in entries)


def comparison(
    f: Callable[[Any, Any], bool], decide: Callable[[float, float], bool | None]
) -> Callable[..., list[Data]]:
    """A comparison: `f` for numbers, `decide` by the least and the greatest that the difference can be."""

    def one(x: Any, y: Any) -> Any:
        if not isinstance(x, Unknown) and not isinstance(y, Unknown):
            return f(x, y)
        a, b = length_of(x), length_of(y)
        found = None if a is None or b is None else decide((a - b).minimum, -(b - a).minimum)
        return Unknown() if found is None else found

    table = np.frompyfunc(one, 2, 1)
    return lambda node, a, b: [np.asarray(table(a, b), dtype=object)]


def unary(
    f: Callable[[Any], Any], exact: Callable[[Length], Length | None] = lambda length: None
) -> Callable[..., list[Data]]:
    """An operator on single entries: `f` for numbers, `exact` for free lengths."""

    def one(x: Any, floating: bool) -> Any:
        if not isinstance(x, Unknown):
            return f(x)
        length = length_of(x)
        return Unknown() if length is None else entry_of(exact(length), floating)

    def apply(node: Node, a: Data) -> list[Data]:
        table = np.frompyfunc(lambda x: one(x, _floating(node, x)), 1, 1)
        return [np.asarray(table(a), dtype=object)]

    return apply


def _divide(x: Any, y: Any) -> Any:
    if y == 0:
        return Unknown()
    if isinstance(x, float) or isinstance(y, float):
        return x / y
    return int(x / y) if (x < 0) != (y < 0) else x // y


def _divide_exactly(a: Length, b: Length, floating: bool) -> Length | None:
    """Integers are rounded towards zero, which is down where nothing is negative.

    Exporters count windows as ``1 + (size - 3) // 2``: that is negative where none fits, and then nothing runs.
    """
    n = b.number
    if not floating:
        fits = a.minimum >= 0 and b.minimum >= 0
        counts = n is not None and n > 0 and a.minimum > -math.inf
        return floor_divide(a, b) if fits or counts else quotient(a, b)
    if n and math.log2(abs(Fraction(n))).is_integer():  # exact in any precision
        return a * Length.constant(1 / Fraction(n))
    return quotient(a, b)


def _remainder_exactly(a: Length, b: Length, floating: bool) -> Length | None:
    if floating or a.minimum < 0 or b.minimum < 0:
        return None
    return a - b * floor_divide(a, b)


def mod(node: Node, a: Data, b: Data) -> list[Data]:
    """The remainder, with the sign of the divisor or, with ``fmod``, of the dividend."""

    def remainder(x: Any, y: Any) -> Any:
        if y == 0:
            return Unknown()
        return type(x)(math.fmod(x, y)) if node.attribute("fmod", 0) else x % y

    return binary(remainder, _remainder_exactly)(node, a, b)


def _larger(a: Length, b: Length, floating: bool) -> Length | None:
    if (a - b).minimum >= 0:
        return a
    return b if (b - a).minimum >= 0 else None


def _smaller(a: Length, b: Length, floating: bool) -> Length | None:
    larger = _larger(a, b, floating)
    return None if larger is None else (b if larger == a else a)


def _rounded(length: Length) -> Length | None:
    return length if length.whole else None


def _ceil(length: Length) -> Length:
    """``ceil(x/n) = floor((x + n - 1)/n)`` for integers: the form in which windows are counted, too."""
    scale = math.lcm(*(c.denominator for _, c in length.terms), 1)
    return floor_divide(length * Length.constant(scale) + Length.constant(scale - 1), Length.constant(scale))


def combined(f: Callable[[list[Any]], Any], exact: Exact | None = None) -> Callable[[list[Any], bool], Any]:
    """Reduces a list of entries, pair by pair where one is a free length."""

    def one(row: list[Any], floating: bool) -> Any:
        if not any(isinstance(x, Unknown) for x in row):
            return f(row)
        return functools.reduce(lambda x, y: _pair(x, y, lambda p, q: f([p, q]), exact, floating), row)

    return one


def plus(a: Length, b: Length, floating: bool) -> Length:
    """The sum."""
    return a + b


def times(a: Length, b: Length, floating: bool) -> Length:
    """The product."""
    return a * b


def _equal(low: float, high: float) -> bool | None:
    return True if low == high == 0 else (False if low > 0 or high < 0 else None)


def _greater(low: float, high: float) -> bool | None:
    return True if low > 0 else (False if high <= 0 else None)


def _at_least(low: float, high: float) -> bool | None:
    return True if low >= 0 else (False if high < 0 else None)


def _less(low: float, high: float) -> bool | None:
    return _greater(-high, -low)


def _at_most(low: float, high: float) -> bool | None:
    return _at_least(-high, -low)


ARITHMETIC: dict[str, Callable[..., list[Data]]] = {
    "Relu": unary(lambda x: max(x, 0), lambda a: a if a.minimum >= 0 else None),
    "Add": binary(lambda x, y: x + y, plus),
    "Sub": binary(lambda x, y: x - y, lambda a, b, _: a - b),
    "Mul": binary(lambda x, y: x * y, times),
    "Div": binary(_divide, _divide_exactly),
    "Mod": mod,
    "Min": binary(min, _smaller),
    "Max": binary(max, _larger),
    "Equal": comparison(lambda x, y: x == y, _equal),
    "Greater": comparison(lambda x, y: x > y, _greater),
    "Less": comparison(lambda x, y: x < y, _less),
    "GreaterOrEqual": comparison(lambda x, y: x >= y, _at_least),
    "LessOrEqual": comparison(lambda x, y: x <= y, _at_most),
    "And": binary(lambda x, y: bool(x and y)),
    "Or": binary(lambda x, y: bool(x or y)),
    "Not": unary(lambda x: not x),
    "Neg": unary(lambda x: -x, lambda a: -a),
    "Abs": unary(abs, lambda a: a if a.minimum >= 0 else None),
    "Floor": unary(lambda x: float(math.floor(x)), floor),
    "Ceil": unary(lambda x: float(math.ceil(x)), _ceil),
    "Round": unary(lambda x: float(round(x)), _rounded),
}
"""Operators on single entries."""
