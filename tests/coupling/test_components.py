"""Connected components in numpy, against a union-find that is easy to believe."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.coupling.components import components
from onnxprune.coupling.coupling import analyze
from onnxprune.graph.graph import Graph
from tests.ops.case import build


def union_find(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    """The smallest member of each element's component."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for a, b in pairs:
        x, y = sorted((root(a), root(b)))
        parent[y] = x
    return [root(i) for i in range(count)]


def ours(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return components(count, ends[:, 0], ends[:, 1]).tolist()


@given(
    st.integers(1, 60).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=90))
    )
)
def test_random_graphs(case: tuple[int, list[tuple[int, int]]]) -> None:
    assert ours(*case) == union_find(*case)


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [(0, 0)],
        [(i, i + 1) for i in range(99)],
        [(i + 1, i) for i in range(98, -1, -1)],
        [(i, 99 - i) for i in range(50)],
        [(0, i) for i in range(100)],
        [(99, i) for i in range(100)],
        [(i, (i + 7) % 100) for i in range(100)],
        [(i, i + 50) for i in range(50)] * 3,
    ],
)
def test_chains_stars_and_rings(pairs: list[tuple[int, int]]) -> None:
    assert ours(100, pairs) == union_find(100, pairs)


def test_large_graphs() -> None:
    rng = np.random.default_rng(0)
    pairs = [tuple(p) for p in rng.integers(0, 5000, (4000, 2)).tolist()]
    assert ours(5000, pairs) == union_find(5000, pairs)


def test_the_arguments_are_not_changed() -> None:
    a, b = np.array([0, 1]), np.array([1, 2])
    components(3, a, b)
    assert a.tolist() == [0, 1] and b.tolist() == [1, 2]


def test_axes_tied_as_a_whole_share_their_elements() -> None:
    coupling = analyze(
        Graph(
            build("""(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6] b, float[6,2] v>
        { h = MatMul(x, w)  a = Add(h, b)  r = Relu(a)  y = MatMul(r, v) }""")
        )
    )
    names = coupling.graph.main.names
    tied = [
        names["w"].axis(1),
        names["h"].axis(1),
        names["a"].axis(1),
        names["r"].axis(1),
        names["v"].axis(0),
        next(v for v in coupling.graph.constants() if v.key == "b").axis(0),
    ]
    spans = {(s.start, s.stop) for s in (coupling.classes.span(axis.id) for axis in tied)}
    assert len(spans) == 1
    start, stop = spans.pop()
    assert stop - start == 6
    other = coupling.classes.span(names["v"].axis(1).id)
    assert other.start >= stop or other.stop <= start


def test_every_element_belongs_to_one_class() -> None:
    coupling = analyze(
        Graph(
            build("""(float[N,3,4,4] x) => (float[N,2] y) <float[6,3,1,1] w, float[96,2] v>
        { h = Conv(x, w)  f = Flatten(h)  y = MatMul(f, v) }""")
        )
    )
    classes = coupling.classes
    owned = np.concatenate([np.arange(o, o + max(n, 0)) for o, n in zip(classes.offset, classes.length, strict=True)])
    assert sorted(owned.tolist()) == list(range(classes.elements))
    assert classes.length[classes.of[coupling.graph.main.names["x"].axis(0).id]] == -1  # free: owns none
