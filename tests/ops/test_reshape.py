"""Operators that regroup elements under other axes, and the arithmetic of doing so."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from onnxprune.graph.graph import Axis, Value
from onnxprune.graph.lengths import Dim
from onnxprune.ops.regroup import Block, blocks, digits
from tests.ops.case import Case, check
from tests.support import oracle
from tests.support.lanes import spread

IMAGE = "(float[N,3,2,2] x) => (float[N,2] y) <float[6,3,1,1] w"
LINES = "(float[N,3] x) => (float[N,2] y) <float[3,12] w, float[12,2] v"


def _flat(name: str, line: str, weights: str = "", opset: int = 18, **constants: object) -> Case:
    """(N, C, H, W) -> (N, C * H * W): a channel goes with its places."""
    return Case(name, f"{IMAGE}, float[24,2] v{weights}> {{ h = Conv(x, w)  {line}  y = MatMul(a, v) }}",
                {"w:0": "6 exact"}, opset, constants=constants)


def _there_and_back(name: str, between: str, weights: str, units: int, opset: int = 18, **constants: object) -> Case:
    return Case(name, f"{LINES}{weights}> {{ h = MatMul(x, w)  {between}  y = MatMul(a, v) }}",
                {"w:1": f"{units} exact"}, opset, constants=constants)


CASES = [
    _flat("Flatten", "a = Flatten(h)"),
    _flat("Flatten at a negative axis", "a = Flatten <axis = -3> (h)", opset=13),
    _flat("Reshape with -1", "a = Reshape(h, s)", ", int64[2] s", s=[2, -1]),
    _flat("Reshape with 0 and -1", "a = Reshape(h, s)", ", int64[2] s", s=[0, -1]),
    _flat("Reshape with all lengths", "a = Reshape(h, s)", ", int64[2] s", s=[-1, 24]),
    _flat("Reshape in two steps", "f = Reshape(h, s)  a = Reshape(f, t)", ", int64[3] s, int64[2] t", s=[0, 6, 4], t=[0, 24]),
    Case("Reshape with allowzero", """(float[2,3,2,2] x) => (float[2,2] y) <float[6,3,1,1] w, float[24,2] v, int64[2] s>
        { h = Conv(x, w)  a = Reshape <allowzero = 1> (h, s)  y = MatMul(a, v) }""", {"w:0": "6 exact"},
         constants={"s": [2, 24]}),
    Case("Reshape adds and drops a unit axis", """(float[2,3] x) => (float[2,2] y) <float[3,6] w, float[6,2] v,
        int64[3] s, int64[2] t> { h = MatMul(x, w)  r = Reshape(h, s)  a = Reshape(r, t)  y = MatMul(a, v) }""",
         {"w:1": "6 exact"}, 7, constants={"s": [2, 6, 1], "t": [2, 6]}),
    _there_and_back("split in two and merged again", "r = Reshape(h, s)  a = Reshape(r, t)", ", int64[3] s, int64[2] t", 4,
                    s=[0, 4, 3], t=[0, -1]),
    _there_and_back("merged again in the other order", """r = Reshape(h, s)  p = Transpose <perm = [0, 2, 1]> (r)
        a = Reshape(p, t)""", ", int64[3] s, int64[2] t", 4, s=[0, 4, 3], t=[0, -1]),
    _there_and_back("Squeeze and Unsqueeze by attribute", """u = Unsqueeze <axes = [0, 2]> (h)
        a = Squeeze <axes = [0, 2]> (u)""", "", 12, 11),
    _there_and_back("Unsqueeze and Squeeze by negative attribute", """u = Unsqueeze <axes = [-1]> (h)
        a = Squeeze <axes = [-1]> (u)""", "", 12, 11),
    _there_and_back("Squeeze and Unsqueeze by input", "u = Unsqueeze(h, s)  a = Squeeze(u, s)", ", int64[2] s", 12, 13,
                    s=[0, -1]),
    *(Case(f"Squeeze of every unit axis, where others become as short, opset {opset}", """(float[1,3] x) => (float[2] y)
        <float[3,2] w, float[2,2] v> { h = MatMul(x, w)  s = Squeeze(h)  y = MatMul(s, v) }""", {"w:1": "2 exact"}, opset)
      for opset in (11, 13)),
    Case("Squeeze without a unit axis", """(float[2,3] x) => (float[2,2] y) <float[3,4] w, float[4,2] v>
        { h = MatMul(x, w)  s = Squeeze(h)  y = MatMul(s, v) }""", {"w:1": "4 pinned: as short as 1"}),
    Case("Squeeze of every unit axis", """(float[2,3] x) => (float[2,2] y) <float[3,12] w, float[12,2] v, int64[1] s>
        { h = MatMul(x, w)  u = Unsqueeze(h, s)  a = Squeeze(u)  y = MatMul(a, v) }""", {"w:1": "12 exact"},
         constants={"s": [1]}),
    *(Case(f"DepthToSpace {mode}", f"""(float[N,3,2,2] x) => (float[N,2,4,4] y) <float[24,3,1,1] w, float[2,6,1,1] v>
        {{ h = Conv(x, w)  a = DepthToSpace <blocksize = 2, mode = "{mode}"> (h)  y = Conv(a, v) }}""",
           {"w:0": "6 exact"}) for mode in ("DCR", "CRD")),
    Case("DepthToSpace before it had a mode", """(float[N,3,2,2] x) => (float[N,2,4,4] y) <float[24,3,1,1] w,
        float[2,6,1,1] v> { h = Conv(x, w)  a = DepthToSpace <blocksize = 2> (h)  y = Conv(a, v) }""",
         {"w:0": "6 exact"}, 10),
    Case("SpaceToDepth", """(float[N,3,4,4] x) => (float[N,2,2,2] y) <float[6,3,1,1] w, float[2,24,1,1] v>
        { h = Conv(x, w)  a = SpaceToDepth <blocksize = 2> (h)  y = Conv(a, v) }""", {"w:0": "6 exact"}),
    Case("DepthToSpace is zero once masked", """(float[N,3,2,2] x) => (float[N,1,4,4] y) <float[24,3,1,1] w, int64[1] one>
        { h = Conv(x, w)  a = DepthToSpace <blocksize = 2> (h)  y = ReduceSum(a, one) }""", {"w:0": "6 exact"},
         constants={"one": 1}),
    Case("a regrouping with no common factor", """(float[N,3] x) => (float[N,4,2] y) <float[3,6] w, float[3,4] u,
        float[6,2] v, int64[1] one, int64[1] two, int64[3] s>
        { p = MatMul(x, w)  q = MatMul(x, u)  c = Unsqueeze(p, two)  d = Unsqueeze(q, one)  h = Mul(c, d)
          a = Reshape(h, s)  y = MatMul(a, v) }""",
         {"w:1": "6 pinned: regroups it", "u:1": "4 pinned: regroups it"},
         constants={"one": 1, "two": 2, "s": [0, 4, 6]}),
]


@pytest.mark.parametrize("case", spread(CASES, 4), ids=lambda c: c.name)
def test_removal_equals_masking(case: Case) -> None:
    check(case)


def pruned_constants(name: str) -> dict[str, list[int]]:
    """What the small constants hold once half of the channels are gone."""
    pruned, _, _ = oracle.prune_and_mask(next(c for c in CASES if c.name == name).model())
    return {t.name: numpy_helper.to_array(t).tolist() for t in pruned.graph.initializer if t.data_type == 7}


@pytest.mark.parametrize(("name", "expected"), [
    ("Reshape with -1", {"s": [2, -1]}),
    ("Reshape with 0 and -1", {"s": [0, -1]}),
    ("Reshape with all lengths", {"s": [-1, 12]}),
    ("Reshape in two steps", {"s": [0, 3, 4], "t": [0, 12]}),
    ("Reshape with allowzero", {"s": [2, 12]}),
    ("split in two and merged again", {"s": [0, 2, 3], "t": [0, -1]}),
])
def test_targets_follow(name: str, expected: dict[str, list[int]]) -> None:
    assert pruned_constants(name) == expected


# --- the arithmetic


@pytest.mark.parametrize(("before", "after", "expected"), [
    ([2, 3], [2, 3], [([0], [0]), ([1], [1])]),
    ([6], [2, 3], [([0], [0, 1])]),
    ([2, 3], [6], [([0, 1], [0])]),
    ([2, 3, 4], [6, 4], [([0, 1], [0]), ([2], [1])]),
    ([4, 6], [8, 3], [([0, 1], [0, 1])]),
    ([6, 4], [4, 6], [([0, 1], [0, 1])]),
    ([1, 6], [6], [([1], [0])]),
    ([6, 1], [1, 1, 6], [([0], [2])]),
    ([1, 1], [1], []),
    (["N", 12], ["N", 3, 4], [([0], [0]), ([1], [1, 2])]),
    (["N", "S", 12], ["N", "S", 3, 4], [([0], [0]), ([1], [1]), ([2], [2, 3])]),
    (["N", None, 12], ["N", None, 3, 4], [([0], [0]), ([1], [1]), ([2], [2, 3])]),
    (["N", 3, "H", "W"], ["N", 3, None], [([0], [0]), ([1], [1]), ([2, 3], [2])]),
    (["N", 3, 4, 5], ["N", 60], [([0], [0]), ([1, 2, 3], [1])]),
    (["N", "S", 12], [None, 12], [([0, 1], [0]), ([2], [1])]),
    ([2, 2], [2, 1, 2], [([0], [0]), ([1], [2])]),
    ([0, 3], [0, 3], [([0], [0]), ([1], [1])]),
])
def test_blocks(before: list[Dim], after: list[Dim], expected: list[Block]) -> None:
    assert blocks(before, after) == expected


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.data())
def test_blocks_partition_the_long_axes(factors: list[int], data: st.DataObject) -> None:
    def merged() -> list[int]:
        cuts = data.draw(st.sets(st.integers(1, len(factors)), max_size=len(factors)))
        edges = [0, *sorted(cuts | {len(factors)})]
        return [math.prod(factors[i:j]) for i, j in itertools.pairwise(edges)]

    a, b = merged(), merged()
    found = blocks(a, b)
    for side, dims in ((0, a), (1, b)):
        listed = [i for block in found for i in block[side]]
        assert listed == [i for i, d in enumerate(dims) if d != 1]  # each once, in order
    for left, right in found:
        assert math.prod(a[i] for i in left) == math.prod(b[j] for j in right)
    smallest = sum(x != 1 for x in np.intersect1d(np.cumprod(a), np.cumprod(b)))
    assert len(found) == smallest  # no block can be cut further


@pytest.mark.parametrize(("length", "stride", "size", "expected"), [
    (6, 3, 2, [0, 0, 0, 1, 1, 1]), (6, 1, 3, [0, 1, 2, 0, 1, 2]), (8, 2, 2, [0, 0, 1, 1, 0, 0, 1, 1]), (3, 1, 3, [0, 1, 2]),
])
def test_digits(length: int, stride: int, size: int, expected: list[int]) -> None:
    value = Value("v", "v", 0, None, [length])  # type: ignore[arg-type]
    assert digits(Axis(value, 0), stride, size).tolist() == expected
    assert set(Counter(expected).values()) == {length // size}
