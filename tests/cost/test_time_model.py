"""Latency as a function of widths: what is fitted to times that are known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import onnxprune
from onnxprune.cost.measure import measure
from onnxprune.cost.nonnegative import nonnegative_least_squares
from onnxprune.cost.time_model import latency
from onnxprune.coupling.groups import Grade, Group
from onnxprune.engines.times import TimedWidths, Times
from onnxprune.errors import InputError
from onnxprune.pipeline.analysis import Analysis
from onnxprune.planning.fingerprint import fingerprint
from onnxprune.timing.samples import sampled_widths
from tests.ops.case import build

CHAIN = """(float[1,3,8,8] x) => (float[1,10] y)
    <float[64,3,3,3] a, float[64,1,3,3] b, float[96,64,1,1] c, float[48,96,3,3] d, float[48,10] e> {
    p = Conv <pads = [1,1,1,1]> (x, a)  q = Relu (p)
    r = Conv <group = 64, pads = [1,1,1,1]> (q, b)
    s = Conv (r, c)  t = Relu (s)
    u = Conv <pads = [1,1,1,1]> (t, d)
    v = GlobalAveragePool (u)  w = Flatten (v)  y = MatMul (w, e) }"""
"""Three groups: 64 channels of p, q and r, 96 of s and t, 48 of u to y."""
Widths = dict[str, int]


def up(width: int, block: int) -> int:
    return -(-width // block) * block


def steps(w: Widths) -> dict[str, float]:
    """Milliseconds of each kernel: blocks of 16 outputs and 4 inputs, a slow path off multiples of 4, an overhead."""
    odd = 0.004 * w["p"] if w["p"] % 4 else 0.0
    return {
        "p": 0.02 + 1e-3 * up(w["p"], 16),
        "r": 0.01 + 2e-3 * up(w["p"], 8) + odd,
        "s": 0.03 + 1e-5 * up(w["s"], 16) * up(w["p"], 4),
        "u": 0.03 + 4e-5 * up(w["u"], 16) * up(w["s"], 4),
        "y": 0.005 + 1e-4 * w["u"],
    }


def straight(w: Widths) -> dict[str, float]:
    """An engine whose times grow evenly."""
    return {
        "p": 1e-3 * w["p"],
        "r": 2e-3 * w["p"],
        "s": 1e-5 * w["s"] * w["p"],
        "u": 4e-5 * w["u"] * w["s"],
        "y": 1e-3 + 1e-4 * w["u"],
    }


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return onnxprune.analyze(build(CHAIN))


@pytest.fixture(scope="module")
def groups(analysis: Analysis) -> list[Group]:
    return [g for g in analysis.groups if g.grade == Grade.EXACT]


def widths(groups: list[Group], removed: np.ndarray) -> Widths:
    kept = {g.units: g.units - int(n) for g, n in zip(groups, removed, strict=True)}
    return {"p": kept[64], "s": kept[96], "u": kept[48]}


def made(
    analysis: Analysis, groups: list[Group], time: Callable[[Widths], dict[str, float]], *, nodes: bool = True
) -> Times:
    """Times as they would be measured on an engine with these."""
    whole = sum(time(widths(groups, np.zeros(3))).values())
    rows = []
    for removed in [np.zeros(3, dtype=np.int64), *sampled_widths(groups, 48, 0)]:
        spent = time(widths(groups, removed))
        lost = {g.name: int(n) for g, n in zip(groups, removed, strict=True) if n}
        rows.append(TimedWidths(lost, sum(spent.values()) / whole, spent if nodes else {}))
    units = {g.name: g.units for g in groups}
    return Times(fingerprint(analysis.model.proto), "made up", "none", whole, units, {"x": [1, 3, 8, 8]}, tuple(rows))


def test_the_groups_are_those_that_the_times_are_written_for(groups: list[Group]) -> None:
    assert sorted(g.units for g in groups) == [48, 64, 96]


@pytest.mark.parametrize("time", [steps, straight])
@pytest.mark.parametrize("nodes", [True, False], ids=["kernels", "whole models"])
def test_the_latency_is_the_sum_of_the_steps(
    analysis: Analysis, groups: list[Group], time: Callable[[Widths], dict[str, float]], nodes: bool
) -> None:
    """Within 2% in the mean, at widths that were not measured; from whole models alone within 3%."""
    found = latency(
        analysis.coupling, groups, measure(analysis.model).shapes, made(analysis, groups, time, nodes=nodes)
    )
    rng = np.random.default_rng(1)
    errors = []
    for _ in range(200):
        removed = np.array([rng.integers(0, 7 * g.units // 8) for g in groups])
        true = sum(time(widths(groups, removed)).values())
        errors.append(found.left(removed) / true - 1)
    assert np.abs(errors).mean() < (0.02 if nodes else 0.03)
    assert np.abs(errors).max() < (0.1 if nodes else 0.15)


def test_savings_and_what_is_left_agree(analysis: Analysis, groups: list[Group]) -> None:
    found = latency(analysis.coupling, groups, measure(analysis.model).shapes, made(analysis, groups, steps))
    removed = np.array([5, 17, 40])
    for group in range(3):
        more = np.zeros(3, dtype=np.int64)
        more[group] = 3
        expected = found.left(removed) - found.left(removed + more)
        assert found.saving(removed, group, 3) == pytest.approx(expected, abs=1e-12)
        counts = np.array([0, 1, 7, removed[group]])
        left = found.lefts(removed, group, counts)
        others = [found.left(np.where(np.arange(3) == group, n, removed)) for n in counts]
        assert left - left[-1] == pytest.approx(np.array(others) - others[-1], abs=1e-12)


def test_a_step_is_seen_where_it_is(analysis: Analysis, groups: list[Group]) -> None:
    """From 33 to 32 outputs a block of 16 goes; from 32 to 31 nothing does."""
    found = latency(analysis.coupling, groups, measure(analysis.model).shapes, made(analysis, groups, steps))
    group = next(i for i, g in enumerate(groups) if g.units == 48)
    at = np.zeros(3, dtype=np.int64)
    at[group] = 48 - 33
    step = found.saving(at, group, 1)
    at[group] = 48 - 32
    assert step > 20 * abs(found.saving(at, group, 1))


def test_times_of_other_groups_are_refused(analysis: Analysis, groups: list[Group]) -> None:
    times = made(analysis, groups, steps)
    shapes = measure(analysis.model).shapes
    name = next(iter(times.units))
    with pytest.raises(InputError, match="which the model lacks"):
        latency(analysis.coupling, [], shapes, replace(times, units={**times.units, name: 5}))
    fewer = replace(times, units={k: v for k, v in times.units.items() if k != name})
    with pytest.raises(InputError, match="know nothing of group"):
        latency(analysis.coupling, groups, shapes, fewer)


def test_nonnegative_least_squares_by_brute_force() -> None:
    """The best of all subsets of columns whose unconstrained solution is not negative."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.normal(size=(12, 5)), rng.normal(size=12)
        best = float(b @ b)
        for chosen in range(1, 32):
            columns = [i for i in range(5) if chosen >> i & 1]
            x = np.linalg.lstsq(a[:, columns], b, rcond=None)[0]
            if (x >= 0).all():
                best = min(best, float(((a[:, columns] @ x - b) ** 2).sum()))
        found = nonnegative_least_squares(a, b, 0.0)
        assert (found >= 0).all()
        assert float(((a @ found - b) ** 2).sum()) == pytest.approx(best, rel=1e-9)


def test_no_column_and_no_value() -> None:
    assert nonnegative_least_squares(np.zeros((3, 0)), np.ones(3)).shape == (0,)
    assert not nonnegative_least_squares(np.ones((3, 2)), np.zeros(3)).any()
    assert math.isclose(nonnegative_least_squares(np.ones((3, 1)), np.full(3, 2.0), 0.0)[0], 2.0)
