"""Which way a reshape carries channels: whatever the other operators can live with, heads first, then the finer grain."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.model.model import load
from tests.ops.case import Case, check, coupling_of, group, random_feeds, said
from tests.support import oracle
from tests.support.lanes import spread


def attention(
    name: str,
    groups: dict[str, str],
    *,
    heads: int = 4,
    size: int = 6,
    kv: int | None = None,
    norm: str = "",
    weights: str = "",
    **more: object,
) -> Case:
    """Multi-head attention written out; `norm` may change ``q`` and ``k`` of shape (N, S, heads, size)."""
    kv = kv or heads
    wide, narrow = heads * size, kv * size
    repeat = (
        ""
        if kv == heads
        else """
      ku = Unsqueeze(kt, two)  ke = Expand(ku, times)  kt2 = Reshape(ke, full)
      vu = Unsqueeze(vt, two)  ve = Expand(vu, times)  vt2 = Reshape(ve, full)"""
    )
    extra = "" if kv == heads else ", int64[1] two, int64[5] times, int64[4] full"
    keys, values = ("kt", "vt") if kv == heads else ("kt2", "vt2")
    norm = norm or "qn = Identity(qr)  kn = Identity(kr)"
    text = f"""(float[N,5,3] x) => (float[N,5,2] y)
    <float[3,{wide}] q, float[3,{narrow}] k, float[3,{narrow}] v, float[{wide},2] o, int64[4] by_head, int64[4] by_kv,
     int64[3] flat{extra}{weights}>
    {{ qm = MatMul(x, q)  km = MatMul(x, k)  vm = MatMul(x, v)
      qr = Reshape(qm, by_head)  kr = Reshape(km, by_kv)  vr = Reshape(vm, by_kv)
      {norm}
      qt = Transpose <perm = [0, 2, 1, 3]> (qn)  kt = Transpose <perm = [0, 2, 1, 3]> (kn)
      vt = Transpose <perm = [0, 2, 1, 3]> (vr){repeat}
      kx = Transpose <perm = [0, 1, 3, 2]> ({keys})  l = MatMul(qt, kx)  p = Softmax <axis = -1> (l)
      m = MatMul(p, {values})  mt = Transpose <perm = [0, 2, 1, 3]> (m)  mf = Reshape(mt, flat)  y = MatMul(mf, o) }}"""
    constants = {
        "by_head": [0, 0, heads, size],
        "by_kv": [0, 0, kv, size],
        "flat": [0, 0, wide],
        "two": 2,
        "times": [1, 1, heads // kv, 1, 1],
        "full": [0, heads, 5, size],
    }
    return Case(name, text, groups, constants=constants, **more)  # type: ignore[arg-type]


CASES = [
    attention("attention loses heads", {"q:1": "4 exact"}),
    attention("grouped queries lose key-value groups", {"q:1": "2 exact"}, kv=2),
    attention("one key-value head lets every query head go", {"q:1": "4 exact", "v:1": "6 pinned"}, kv=1),
    attention(
        "normalised over the size of a head",
        {"q:1": "4 exact"},
        weights=", float[6] s",
        norm="""qn = LayerNormalization <axis = -1> (qr, s)  kn = LayerNormalization <axis = -1> (kr, s)""",
    ),
    Case(
        "groups of a convolution that a head has three of, at two scales",
        """(float[N,3,2,2] x) => (float[N,2,2,2] y)
        <float[48,3,1,1] w, float[48,4,1,1] g, float[2,32,1,1] o, int64[4] apart, int64[4] whole, int64[3] parts>
        { a = Conv(x, w)  b = Conv <group = 12> (a, g)  c = Concat <axis = 1> (a, b)  r = Reshape(c, apart)
          q, k, v = Split <axis = 2> (r, parts)  kr = Relu(k)  kt = Transpose <perm = [0, 1, 3, 2]> (kr)
          m = MatMul(v, kt)  qr = Relu(q)  z = MatMul(m, qr)  f = Reshape(z, whole)  y = Conv(f, o) }""",
        {"w:0": "4 exact"},
        constants={"apart": [0, 8, 12, 4], "whole": [0, -1, 2, 2], "parts": [4, 4, 4]},
    ),
    attention(
        "a weight for each head",
        {"q:1": "4 exact"},
        weights=", float[4,1] s",
        norm="qn = Mul(qr, s)  kn = Identity(kr)",
    ),
    Case(
        "the finer grain where zeros are normalised over",
        """(float[N,3] x) => (float[N,2] y)
        <float[3,12] w, float[12,2] v, int64[3] a, int64[2] b>
        { h = MatMul(x, w)  r = Reshape(h, a)  t = Softmax <axis = -1> (r)  f = Reshape(t, b)
          y = MatMul(f, v) }""",
        {"w:1": "6 exact"},
        constants={"a": [0, 2, 6], "b": [0, 12]},
    ),
    Case(
        "a layer norm over the merged axis",
        """(float[N,5,3] x) => (float[N,5,2] y)
        <float[3,24] w, float[24] s, float[24,2] o, int64[4] a, int64[3] b>
        { h = MatMul(x, w)  r = Reshape(h, a)  t = Exp(r)  f = Reshape(t, b)  n = LayerNormalization(f, s)
          y = MatMul(n, o) }""",
        {"w:1": "24 pinned: leaves no way to carry its channels"},
        constants={"a": [0, 0, 4, 6], "b": [0, 0, 24]},
    ),
    Case(
        "a shuffle of channels",
        """(float[N,3,2,2] x) => (float[N,2,2,2] y)
        <float[12,3,1,1] w, float[2,12,1,1] v, int64[5] a, int64[4] b>
        { h = Conv(x, w)  r = Reshape(h, a)  t = Transpose <perm = [0, 2, 1, 3, 4]> (r)  s = Reshape(t, b)
          y = Conv(s, v) }""",
        {"w:0": "6 exact"},
        constants={"a": [0, 2, 6, 2, 2], "b": [0, 12, 2, 2]},
    ),
    Case(
        "a group norm written out picks whole groups",
        """(float[N,3,2,2] x) => (float[N,2,2,2] y)
        <float[12,3,1,1] w, float[2,12,1,1] v, int64[3] a, int64[4] b, float[4] s, float[4] z>
        { h = Conv(x, w)  r = Reshape(h, a)  n = InstanceNormalization(r, s, z)  t = Reshape(n, b)  y = Conv(t, v) }""",
        {"w:0": "4 exact"},
        constants={"a": [0, 4, -1], "b": [0, 12, 2, 2]},
    ),
    Case(
        "channels and space flattened carry the channels",
        """(float[N,3,4,5] x) => (float[N,2] y)
        <float[6,3,1,1] w, float[120,2] v, int64[2] a>
        { h = Conv(x, w)  f = Reshape(h, a)  y = MatMul(f, v) }""",
        {"w:0": "6 exact"},
        constants={"a": [0, -1]},
    ),
    Case(
        "channels last flattened carry the channels",
        """(float[N,3,4,5] x) => (float[N,2] y)
        <float[6,3,1,1] w, float[120,2] v>
        { h = Conv(x, w)  t = Transpose <perm = [0, 2, 3, 1]> (h)  f = Flatten(t)  y = MatMul(f, v) }""",
        {"w:0": "6 exact"},
    ),
    Case(
        "a regrouping without a common factor pins both",
        """(float[N,3] x) => (float[N,4,2] y)
        <float[3,6] w, float[3,4] u, float[6,2] v, int64[1] one, int64[1] two, int64[3] s>
        { p = MatMul(x, w)  q = MatMul(x, u)  c = Unsqueeze(p, two)  d = Unsqueeze(q, one)  h = Mul(c, d)
          a = Reshape(h, s)  y = MatMul(a, v) }""",
        {"w:1": "6 pinned: regroups it", "u:1": "4 pinned: regroups it"},
        constants={"one": 1, "two": 2, "s": [0, 4, 6]},
    ),
    Case(
        "the finer grain where nothing else speaks",
        """(float[N,3] x) => (float[N,2] y)
        <float[3,12] w, float[12,2] v, int64[3] a, int64[2] b>
        { h = MatMul(x, w)  r = Reshape(h, a)  t = Transpose <perm = [0, 2, 1]> (r)  f = Reshape(t, b)
          y = MatMul(f, v) }""",
        {"w:1": "6 exact"},
        constants={"a": [0, 2, 6], "b": [0, 12]},
    ),
    Case(
        "the coarser grain where the finer is normalised over",
        """(float[N,3] x) => (float[N,2] y)
        <float[3,12] w, float[12,2] v, int64[3] a, int64[2] b>
        { h = MatMul(x, w)  r = Reshape(h, a)  e = Softmax <axis = 0> (r)  t = Softmax <axis = -1> (e)  f = Reshape(t, b)
          y = MatMul(f, v) }""",
        {"w:1": "2 exact"},
        constants={"a": [0, 2, 6], "b": [0, 12]},
    ),
    Case(
        "no way at all",
        """(float[N,3] x) => (float[N,2,6] y) <float[3,12] w, int64[3] a>
        { h = MatMul(x, w)  y = Reshape(h, a) }""",
        {"w:1": "12 pinned"},
        constants={"a": [0, 2, 6]},
    ),
    Case(
        "two reshapes settle each other",
        """(float[N,3] x) => (float[N,2] y)
        <float[3,24] w, float[24,2] v, int64[3] a, int64[4] b, int64[2] c>
        { h = MatMul(x, w)  r = Reshape(h, a)  s = Reshape(r, b)  t = Softmax <axis = 2> (s)  f = Reshape(t, c)
          y = MatMul(f, v) }""",
        {"w:1": "6 exact"},
        constants={"a": [0, 6, 4], "b": [0, 6, 2, 2], "c": [0, 24]},
    ),
]


@pytest.mark.parametrize("case", spread(CASES, 4), ids=lambda c: c.name)
def test_removal_equals_masking(case: Case) -> None:
    check(case)


def units(name: str) -> list[list[int]]:
    """Indices of ``q``'s columns that each unit owns."""
    coupling = coupling_of(next(c for c in CASES if c.name == name).model())
    found = group(coupling, "q:1")
    return next(s.indices.tolist() for s in found.slices if s.value.key == "q")


def test_a_head_is_a_run_of_dimensions() -> None:
    assert units("attention loses heads") == [list(range(6 * i, 6 * i + 6)) for i in range(4)]


def test_a_key_value_group_takes_its_queries_along() -> None:
    """Queries 0 and 1 read the first key-value head, 2 and 3 the second."""
    assert units("grouped queries lose key-value groups") == [list(range(12)), list(range(12, 24))]


def test_query_heads_of_one_key_value_head_go_one_by_one() -> None:
    name = "one key-value head lets every query head go"
    assert units(name) == [list(range(6 * i, 6 * i + 6)) for i in range(4)]
    pruned, _, _ = oracle.prune_and_mask(next(c for c in CASES if c.name == name).model())
    shapes = {t.name: list(t.dims) for t in pruned.graph.initializer if t.data_type == 1}
    assert shapes == {"q": [3, 12], "k": [3, 6], "v": [3, 6], "o": [12, 2]}


def test_heads_shrink_and_their_size_stays() -> None:
    case = next(c for c in CASES if c.name == "attention loses heads")
    pruned, _, _ = oracle.prune_and_mask(case.model())
    shapes = {t.name: list(t.dims) for t in pruned.graph.initializer if t.data_type == 1}
    assert shapes == {"q": [3, 12], "k": [3, 12], "v": [3, 12], "o": [12, 2]}


def test_what_was_taken_is_kept_with_the_choice() -> None:
    coupling = coupling_of(next(c for c in CASES if c.name == "attention loses heads").model())
    taken = {
        choice.node.proto.output[0]: choice.taken.name if choice.taken else None for choice in coupling.ties.choices
    }
    assert {taken[n] for n in ("qr", "kr", "vr", "mf")} == {"along 4"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("the coarser grain where the finer is normalised over", "6 mixing"),
        ("a layer norm over the merged axis", "6 mixing"),
    ],
)
def test_mixing_opens_what_a_normalisation_bars(name: str, expected: str) -> None:
    model = next(c for c in CASES if c.name == name).model()
    assert said(group(coupling_of(model, mixing=True), "w:1")) == expected


def test_the_caller_may_ask_for_places_within_heads() -> None:
    """Queries and keys lose the same places of every head, values and the output theirs."""
    model = next(c for c in CASES if c.name == "attention loses heads").model()
    result = onnxprune.prune(model, 0.5, attention="dims", verify=False)
    assert {g["name"]: g["channels"] for g in result.plan.groups if g["grade"] == "exact"} == {"q:1": 6, "v:1": 6}
    masked = load(model).proto
    for t in masked.graph.initializer:
        array = numpy_helper.to_array(t).copy()
        for axis, indices in result.plan.removed.get(t.name, {}).items():
            np.moveaxis(array, int(axis), 0)[indices] = 0
        t.CopyFrom(numpy_helper.from_array(array, t.name))
    expected, got = (oracle.session(m).run(None, random_feeds(model))[0] for m in (masked, result.proto))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert {t.name: list(t.dims) for t in result.proto.graph.initializer if t.data_type == 1} == {
        "q": [3, 12],
        "k": [3, 12],
        "v": [3, 12],
        "o": [12, 2],
    }
