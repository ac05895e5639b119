"""The arithmetic of free lengths: right at every run, and one text for what is equal."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest

from onnxprune.graph.equations import Equations
from onnxprune.graph.lengths import floor, floor_divide, names, of_dim, parse, product, substitute, to_dim
from onnxprune.graph.polynomials import Length, quotient

NAMES = ("b", "s77", "past.len")


def value(length: Length, run: dict[str, int]) -> Fraction:
    """What the length is in a run."""
    number = substitute(length, lambda name: Length.constant(run[name])).number
    assert number is not None
    return Fraction(number)


def expression(rng: random.Random, depth: int) -> tuple[str, str]:
    """A random expression, as its text and as Python."""
    if depth == 0 or rng.random() < 0.2:
        if rng.random() < 0.4:
            number = str(rng.randrange(1, 9))
            return number, number
        name = rng.choice(NAMES)
        return name, f"run[{name!r}]"
    (a, x), (b, y) = expression(rng, depth - 1), expression(rng, depth - 1)
    operation = rng.choice(["+", "*", "-", "//"])
    if operation == "//":
        n = rng.randrange(1, 7)
        return f"({a})//{n}", f"(({x})//{n})"
    return f"({a}){operation}({b})", f"(({x}){operation}({y}))"


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_an_expression_is_what_it_is_in_every_run(start: int) -> None:
    for seed in range(start, start + 50):
        rng = random.Random(seed)
        text, python = expression(rng, 4)
        length = parse(text)
        assert names(length) <= set(NAMES), f"{text} is an expression"
        for _ in range(10):
            run = {name: rng.randrange(40) for name in NAMES}
            assert value(length, run) == eval(python, {"run": run}), text


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_a_text_is_canonical(start: int) -> None:
    for seed in range(start, start + 50):
        text, _ = expression(random.Random(seed), 4)
        length = parse(text)
        assert parse(str(length)) == length, text
        assert length.minimum <= min(value(length, dict.fromkeys(NAMES, n)) for n in range(10)), text


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("4*s77", "s77*4"),
        ("(s53//2)", "s53//2"),
        ("((s53 - 1)//2) + 1", "(s53 + 1)//2"),
        ("((h + 1)//2 + 1)//2", "(h + 3)//4"),
        ("b*(s + 1)", "b + s*b"),
        ("2*(a/2)", "a"),
        ("(2*h + 1)//4", "h//2"),
        ("(8*h + 16)//8", "h + 2"),
        ("x*x", "x**2"),
        ("2*((s0//2))", "(s0//2)*2"),
    ],
)
def test_what_is_equal_has_one_text(a: str, b: str) -> None:
    assert str(parse(a)) == str(parse(b))


@pytest.mark.parametrize(("a", "b"), [("4*s77", "4*s7"), ("2*(h//2)", "h"), ("h//2", "h/2"), ("b*s", "b + s")])
def test_what_differs_has_another(a: str, b: str) -> None:
    assert str(parse(a)) != str(parse(b))


@pytest.mark.parametrize(
    "text", ["batch size", "Max(1, s0)", "(1", "h//0", "", "2x", "a b", "(" * 100 + "a" + ")" * 100, "a**99", "1)", "`"]
)
def test_what_is_no_expression_is_a_name(text: str) -> None:
    length = parse(text)
    assert len(names(length)) == 1
    assert parse(str(length)) == length
    assert str(parse(f"2*{length}")) == f"2*{length}"


def test_what_is_too_long_is_a_name() -> None:
    length = parse("b" + " + b" * 500)
    assert names(length) == {"`b" + " + b" * 500 + "`"}
    assert parse(str(length)) == length


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("s77*16*h*w", "4*h*w", "4*s77"),
        ("b*s + b", "s + 1", "b"),
        ("a*a - b*b", "a - b", "a + b"),
        ("4*b", "b", "4"),
        ("s", "2", None),
        ("b + 1", "b", None),
        ("b", "s", None),
        ("b", "0", None),
        ("0", "b", "0"),
    ],
)
def test_quotients_are_exact_or_none(a: str, b: str, expected: str | None) -> None:
    found = quotient(parse(a), parse(b))
    assert found == (None if expected is None else parse(expected))
    if found is not None:
        assert found * parse(b) == parse(a)


@pytest.mark.parametrize("divisor", range(1, 9))
def test_rounding_down(divisor: int) -> None:
    length = parse("3*h + 5*w + 7")
    for h in range(9):
        for w in range(9):
            expected = (3 * h + 5 * w + 7) // divisor
            assert value(floor_divide(length, Length.constant(divisor)), {"h": h, "w": w}) == expected
    assert floor(parse("h/1")) == parse("h")


def test_a_length_is_0_or_more() -> None:
    assert to_dim(parse("3 - 5")) is None
    assert to_dim(parse("h/2 - h/2")) == 0
    assert parse("h - 1").minimum == -math.inf or parse("h - 1").minimum == -1
    assert parse("2*h + 3").minimum == 3
    assert parse("h - w").minimum == -math.inf
    assert of_dim(None) is None
    assert to_dim(product(["b", 4, 2])) == "8*b"
    assert product(["b", None]) is None


def test_what_is_stated_is_an_expression_of_names_of_the_inputs_only() -> None:
    equations = Equations({"s77", "batch size"})
    assert equations.stated("s77*4") == "4*s77"
    assert equations.stated("dim-1") == "`dim-1`"
    assert equations.stated("batch size") == "`batch size`"
    assert equations.stated(7) == 7
    assert equations.given("4*s77") and not equations.given("4*unk__0")


def test_equations_give_names_values() -> None:
    equations = Equations({"s77", "h"})
    equations.equal("unk__0", "4*s77")
    assert equations.dim("unk__0") == "4*s77"
    equations.equate(parse("16*s77*h"), parse("32*unk__1*h"))  # what a Reshape to two frames says
    assert equations.dim("s77") == "2*unk__1"
    assert equations.dim("s77//2") == "unk__1"
    assert equations.dim("unk__0") == "8*unk__1"
    equations.equal("unk__2", "unk__2 + 1")
    assert equations.dim("unk__2") == "unk__2"
    equations.equal("unk__3", "unk__2")
    equations.equal("unk__2", "unk__3")
    assert equations.dim("unk__3") == equations.dim("unk__2")
