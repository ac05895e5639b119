"""Positions over several axes at once, and element by element: what they address is tied, index by index."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxprune.graph.graph import Graph
from onnxprune.graph.positions import columns
from onnxprune.graph.shape_inference import infer
from tests.ops.case import Case, build, check, check_removal
from tests.support.lanes import spread

CHANNELS, ROWS, COLUMNS = np.arange(2, 6), np.arange(1, 13), np.arange(3, 15)
GRID = np.stack(np.broadcast_arrays(*np.ix_(np.arange(2), CHANNELS, ROWS, COLUMNS)), axis=-1)
LINE = "(float[{n},3,16,16] x) => (float[{n},2,16,16] y) <float[8,3,1,1] w, float[4,3,1,1] u, float[2,8,1,1] v, "
LAYERS = "h = Conv(x, w)  g = Conv(x, u)  p = Slice(g, start, end, axes) "
WINDOW = {"start": [1, 3], "end": [13, 15], "axes": [2, 3]}
WINDOW_TYPES = "int64[2] start, int64[2] end, int64[2] axes"
PARTLY = {"w:0": "4 exact", "w:0#2": "4 exact"}
ALL = {"w:0": "8 exact"}
AXES = """n = Shape <start = 0, end = 1> (x)  zero = Constant <value = int64 {0}> ()  one = Constant <value = int64 {1}> ()
    first = Constant <value = int64[1] {0}> ()  last = Constant <value = int64[1] {-1}> ()  size = Squeeze(n, first)
    samples = Range(zero, size, one)  upright = Constant <value = int64[4] {-1, 1, 1, 1}> ()
    b = Reshape(samples, upright)"""
JOINED = """s = Shape(p)  e = Expand(b, s)  f = Expand(c, s)  i = Expand(r, s)  j = Expand(q, s)  eu = Unsqueeze(e, last)
    fu = Unsqueeze(f, last)  iu = Unsqueeze(i, last)  ju = Unsqueeze(j, last)  at = Concat <axis = -1> (eu, fu, iu, ju)"""


def assigned(name: str, weights: str, line: str, groups: dict[str, str], n: object = 2, **constants: Any) -> Case:
    """A window of some channels is written over that of others."""
    text = f"{LINE.format(n=n)}{WINDOW_TYPES}{weights}> {{ {LAYERS} {line}  y = Conv(a, v) }}"
    return Case(name, text, groups, constants={**WINDOW, **constants})


def by_elements(name: str, weights: str, line: str, groups: dict[str, str], **constants: Any) -> Case:
    """Rows of 8 channels, written or read by element."""
    return Case(name, f"(float[5,3] x) => (float[5,2] y) <float[3,8] w{weights}> {{ h = MatMul(x, w) {line}  y = MatMul(a, v) }}",
                groups, constants=constants)  # fmt: skip


ONES = "int64[4,1,1] c, int64[12,1] r, int64[12] q"
POINTS = {"c": CHANNELS, "r": ROWS, "q": COLUMNS}
SCATTER = ", float[3,4] u, float[8,2] v, int64[5,4] i"
ALONG = "g = MatMul(x, u)  a = ScatterElements <axis = 1> (h, i, g)"
CASES = [
    assigned("a window by constant positions", ", int64[2,4,12,12,4] at", "a = ScatterND(h, at, p)", PARTLY, at=GRID),
    assigned("counted from the end", ", int64[2,4,12,12,4] at", "a = ScatterND(h, at, p)", PARTLY,
             at=GRID - [0, 8, 16, 16]),
    assigned("a window at a free number of samples", f", {ONES}", f"{AXES} {JOINED}  a = ScatterND(h, at, p)", PARTLY, "N",
             **POINTS),
    assigned("positions that follow the channels", ", int64[12,1] r, int64[12] q", f"""{AXES}
        d = Shape <start = 1, end = 2> (h)  width = Squeeze(d, first)  every = Range(zero, width, one)
        two = Constant <value = int64[1] {{2}}> ()  six = Constant <value = int64[1] {{6}}> ()
        some = Slice(every, two, six)  upward = Constant <value = int64[3] {{-1, 1, 1}}> ()  c = Reshape(some, upward)
        {JOINED}  a = ScatterND(h, at, p)""", PARTLY, "N", r=ROWS, q=COLUMNS),
    assigned("other channels at each row", ", int64[2,4,12,12,4] at", "a = ScatterND(h, at, p)",
             {"w:0": "8 pinned: addresses it by position", "u:0": "4 pinned: addresses it by position"},
             at=GRID + np.arange(12)[:, None, None] % 2 * np.array([0, 1, 0, 0])),
    Case("a window of one channel", """(float[2,3,16,16] x) => (float[2,2,16,16] y) <float[8,3,1,1] w, float[1,3,1,1] u,
        float[2,8,1,1] v, int64[2,12,12,4] at, int64[2] start, int64[2] end, int64[2] axes, int64[1] one>
        { h = Conv(x, w)  g = Conv(x, u)  k = Slice(g, start, end, axes)  p = Squeeze(k, one)  a = ScatterND(h, at, p)
          y = Conv(a, v) }""", {"w:0": "7 exact"}, constants={**WINDOW, "one": 1, "at": GRID[:, 1]}),
    Case("a window that is read", """(float[2,3,16,16] x) => (float[2,2,12,12] y, float[2,2,16,16] z)
        <float[8,3,1,1] w, float[2,4,1,1] t, float[2,8,1,1] v, int64[2,4,12,12,4] at>
        { h = Conv(x, w)  p = GatherND(h, at)  y = Conv(p, t)  z = Conv(h, v) }""", PARTLY, constants={"at": GRID}),
    by_elements("ScatterElements at the same channels in each row", SCATTER, ALONG,
                {"w:1": "4 exact", "w:1#2": "4 exact"}, i=[[1, 6, -3, 2]] * 5),
    by_elements("ScatterElements at computed channels", ", float[3,4] u, float[8,2] v, int64[1,4] c, int64[2] s",
                f"i = Expand(c, s) {ALONG}", {"w:1": "4 exact", "w:1#2": "4 exact"}, c=[1, 6, 5, 2], s=[5, 4]),
    by_elements("ScatterElements at other channels in each row", SCATTER, ALONG,
                {"w:1": "8 pinned: addresses it by position"}, i=[[1, 6, 5, 2]] * 4 + [[1, 6, 5, 3]]),
    by_elements("GatherElements at the same channels in each row", ", float[4,2] v, int64[5,4] i",
                "a = GatherElements <axis = 1> (h, i)", {"w:1": "5 exact", "w:1#2": "2 exact"}, i=[[1, 6, 6, 2]] * 5),
    by_elements("ScatterElements of the first channels", ", float[3,8] u, float[8,2] v, int64[5,6] i, int64[1] zero, int64[1] six, int64[1] one",
                "k = MatMul(x, u)  g = Slice(k, zero, six, one)  a = ScatterElements <axis = 0> (h, i, g)",
                {"w:1": "6 exact", "w:1#2": "2 exact", "u:1": "2 exact"}, i=[[0, 1, 2, 4, 3, 0]] * 5, zero=[0], six=[6], one=[1]),
]  # fmt: skip


@pytest.mark.parametrize("case", spread(CASES, 4), ids=lambda c: c.name)
def test_groups_and_removal(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", spread(CASES, 4), ids=lambda c: c.name)
def test_removal_of_other_units(case: Case) -> None:
    for seed in (1, 2, 3):
        check_removal(case, seed)


def test_columns_of_constants_and_of_what_is_computed_agree() -> None:
    """The same grid as a constant and as an exporter computes it."""
    by_name = {case.name: case for case in CASES}
    found = []
    for name in ("a window by constant positions", "a window at a free number of samples"):
        graph = Graph(by_name[name].model())
        data = infer(graph)
        node = next(n for n in graph.nodes if n.op_type == "ScatterND")
        found.append(columns(node.input(1), data))
    constant, computed = found
    assert [c.axes for c in constant] == [c.axes for c in computed] == [{0}, {1}, {2}, {3}]
    for known, followed in list(zip(constant, computed, strict=True))[1:]:
        assert known.entries is not None and followed.entries is not None
        np.testing.assert_array_equal(known.entries, followed.entries)
    assert computed[0].entries is None  # as many as there are samples


def test_what_is_read_from_the_run_depends_on_everything() -> None:
    graph = Graph(build("(int64[2,3,2] i, float[4,5] x) => (float[2,3] y) { y = GatherND(x, i) }"))
    assert [c.axes for c in columns(graph.nodes[0].input(1), infer(graph))] == [{0, 1}, {0, 1}]


def test_sums_of_one_value_with_itself_are_followed_once() -> None:
    """Each of 60 sums reads the one before twice: by every path there would be 2 ** 60 values to look at."""
    sums = "  ".join(f"i{n + 1} = Add(i{n}, i{n})" for n in range(60))
    graph = Graph(build(f"(int64[N,3] i0, float[9] x) => (float[N,3] y) {{ {sums}  y = Gather(x, i60) }}"))
    data = infer(graph)
    last = graph.main.nodes[-1].input(1)
    assert [column.axes for column in columns(last, data)] == [{0}] * 3
