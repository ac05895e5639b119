"""Normalisations: per channel they are harmless, over channels exact where these are zero once masked."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ops.case import Case, assert_groups, build, check, coupling_of, random_feeds
from tests.support import oracle
from tests.support.lanes import spread

IMAGE = "(float[N,3,4,4] x) => (float[N,2,4,4] y)"
ROWS = "(float[N,5,3] x) => (float[N,5,2] y) <float[3,8] w, float[8,2] v"
SUM = "(float[N,3,4,4] x) => (float[N,1,4,4] y) <float[8,3,1,1] w, int64[1] one"
BATCH = "float[8] s, float[8] b, float[8] m, float[8] posv"


MIXED = "8 mixing: mixes the axis"


def _over(line: str, opset: int = 18, weights: str = "", grade: str = "8 exact") -> Case:
    """A product, an operator that normalises over the features, a product."""
    return Case(f"{line} over channels, opset {opset}", f"{ROWS}{weights}> {{ h = MatMul(x, w)  {line}  y = MatMul(a, v) }}",
                {"w:1": grade}, opset)


def _over_what_is_not_zero(line: str, opset: int = 18, weights: str = "") -> Case:
    """The same behind a function that is not zero at zero, along another axis too."""
    return Case(f"{line} over channels that are not zero, opset {opset}", f"""{ROWS}{weights}>
        {{ k = MatMul(x, w)  h = Softmax <axis = 1> (k)  {line}  y = MatMul(a, v) }}""", {"w:1": MIXED}, opset)


def _over_what_is_computed_of_zeros(line: str, opset: int = 18, weights: str = "") -> Case:
    """The same behind functions of each element that are not zero at zero."""
    return Case(f"{line} over channels that are computed of zeros, opset {opset}", f"""{ROWS}{weights}, float two>
        {{ k = MatMul(x, w)  e = Exp(k)  h = Add(e, two)  {line}  y = MatMul(a, v) }}""", {"w:1": "8 exact"}, opset,
                constants={"two": 2})


def _passing(line: str, opset: int = 18, weights: str = "", **more: object) -> Case:
    """A convolution, an operator that leaves the channels alone, a convolution."""
    return Case(f"{line} within channels, opset {opset}",
                f"{IMAGE} <float[8,3,1,1] w, float[2,8,1,1] v{weights}> {{ h = Conv(x, w)  {line}  y = Conv(a, v) }}",
                {"w:0": "8 exact"}, opset, **more)  # type: ignore[arg-type]


CASES = [
    *(_passing("a = BatchNormalization(h, s, b, m, posv)", opset, f", {BATCH}") for opset in (7, 9, 14, 15)),
    _passing("a, rm, rv = BatchNormalization <training_mode = 1> (h, s, b, m, posv)", 15, f", {BATCH}"),
    Case("BatchNormalization of every position", """(float[2,5,3] x) => (float[2,5,2] y)
        <float[3,6] w, float[6,2] v, float[5,6] s, float[5,6] b, float[5,6] m, float[5,6] posv>
        { h = MatMul(x, w)  a = BatchNormalization <spatial = 0> (h, s, b, m, posv)  y = MatMul(a, v) }""",
         {"w:1": "6 pinned: has statistics for each position"}, opset=8),
    Case("BatchNormalization of rows", """(float[N,3] x) => (float[N,2] y) <float[3,8] w, float[8,2] v, %s>
        { h = MatMul(x, w)  a = BatchNormalization(h, s, b, m, posv)  y = MatMul(a, v) }""" % BATCH,  # noqa: UP031
         {"w:1": "8 exact"}),
    Case("BatchNormalization is zero once masked", f"""{SUM}, {BATCH}>
        {{ h = Conv(x, w)  a = BatchNormalization(h, s, b, m, posv)  y = ReduceSum(a, one) }}""",
         {"w:0": "8 exact"}, constants={"one": 1}),
    Case("LayerNormalizations of two widths that share their weights", """(float[N,5,3] x) => (float[N,5,2] y)
        <float[3,8] w, float[3,8] u, float[8,2] v, float[8,2] t, float[8] s, float[8] b>
        { h = MatMul(x, w)  a = LayerNormalization(h, s, b)  k = MatMul(x, u)  c = LayerNormalization(k, s, b)
          p = MatMul(a, v)  q = MatMul(c, t)  y = Add(p, q) }""", {"w:1": "8 exact", "u:1": "8 exact"}, 18),
    _passing("a = InstanceNormalization(h, s, b)", 18, ", float[8] s, float[8] b"),
    Case("InstanceNormalization is zero once masked", f"""{SUM}, float[8] s, float[8] b>
        {{ h = Conv(x, w)  a = InstanceNormalization(h, s, b)  y = ReduceSum(a, one) }}""",
         {"w:0": "8 exact"}, constants={"one": 1}),
    Case("GroupNormalization loses whole groups", f"""{IMAGE}
        <float[12,3,1,1] w, float[12] s, float[12] b, float[2,12,1,1] v>
        {{ h = Conv(x, w)  a = GroupNormalization <num_groups = 4> (h, s, b)  y = Conv(a, v) }}""",
         {"w:0": "4 exact"}, 21, ir=10),
    Case("GroupNormalization of one channel a group", f"""{IMAGE}
        <float[6,3,1,1] w, float[6] s, float[6] b, float[2,6,1,1] v>
        {{ h = Conv(x, w)  a = GroupNormalization <num_groups = 6> (h, s, b)  y = Conv(a, v) }}""",
         {"w:0": "6 exact"}, 21, ir=10),
    Case("GroupNormalization of one group", f"""{IMAGE}
        <float[6,3,1,1] w, float[6] s, float[6] b, float[2,6,1,1] v, float[6,3,1,1] u>
        {{ h = Conv(x, w)  a = GroupNormalization <num_groups = 1> (h, s, b)  c = Conv(x, u)  e = Mul(a, c)
           y = Conv(e, v) }}""", {}, 21, ir=10),
    Case("GroupNormalization in a residual block", f"""{IMAGE}
        <float[12,3,1,1] w, float[12] s, float[12] b, float[12,12,1,1] u, float[2,12,1,1] v>
        {{ h = Conv(x, w)  a = GroupNormalization <num_groups = 4> (h, s, b)  c = Conv(a, u)  e = Add(h, c)
           y = Conv(e, v) }}""", {"w:0": "4 exact"}, 21, ir=10),
    _over("a = LayerNormalization(h, s, b)", weights=", float[8] s, float[8] b"),
    _over("a = LayerNormalization <axis = 1> (h, s)", weights=", float[5,8] s"),
    _over("a, mean, inv = LayerNormalization <axis = 2> (h, s)", weights=", float[8] s"),
    Case("LayerNormalization over space only", f"""{IMAGE} <float[8,3,1,1] w, float[2,8,1,1] v, float[4,4] s>
        {{ h = Conv(x, w)  a = LayerNormalization <axis = 2> (h, s)  y = Conv(a, v) }}""", {"w:0": "8 exact"}),
    Case("RMSNormalization over channels that are zero once masked", f"""{ROWS}, float[8] s>
        {{ h = MatMul(x, w)  a = RMSNormalization <epsilon = 0.7> (h, s)  y = MatMul(a, v) }}""",
         {"w:1": "8 exact"}, 23, ir=11),
    Case("RMSNormalization without an epsilon of its own", f"""{ROWS}, float[8] s, float[8] e>
        {{ h = MatMul(x, w)  m = Mul(h, tiny)  a = RMSNormalization(m, s)  y = MatMul(a, v) }}""".replace(
            "float[8] e", "float tiny"), {"w:1": "8 exact"}, 23, ir=11, constants={"tiny": 1e-3}),
    Case("RMSNormalization over channels and places", f"""{ROWS}, float[5,8] s>
        {{ h = MatMul(x, w)  a = RMSNormalization <axis = 1> (h, s)  y = MatMul(a, v) }}""", {"w:1": "8 exact"}, 23, ir=11),
    Case("RMSNormalization keeps zero", f"""{ROWS}, float[8] s, int64[1] last>
        {{ h = MatMul(x, w)  a = RMSNormalization(h, s)  y = ReduceSum(a, last) }}""".replace("5,2] y", "5,1] y").replace(
            ", float[8,2] v", ""), {"w:1": "8 exact"}, 23, ir=11, constants={"last": -1}),
    Case("RMSNormalization over channels that are not zero", f"""{ROWS}, float[8] s>
        {{ h = MatMul(x, w)  e = Exp(h)  a = RMSNormalization(e, s)  y = MatMul(a, v) }}""",
         {"w:1": "8 mixing: sums over the axis"}, 23, ir=11),
    Case("a group normalisation of one group in single operators", f"""{IMAGE} <float[8,3,1,1] w, float[2,8,1,1] v,
        float[8,1,1] s, float[8,1,1] b, float[1] one, float[1] nil, int64[3] flat, int64[4] image>
        {{ h = Conv(x, w)  f = Reshape(h, flat)  n = InstanceNormalization(f, one, nil)  r = Reshape(n, image)
          q = Mul(r, s)  a = Add(q, b)  y = Conv(a, v) }}""", {"w:0": "8 exact"}, 13,
         constants={"one": 1, "nil": 0, "flat": [0, 1, -1], "image": [0, 8, 4, 4]}),
    Case("a root mean square in single operators", f"""{ROWS}, float[8] s, float two, float pos_e>
        {{ h = MatMul(x, w)  p = Pow(h, two)  m = ReduceMean <axes = [-1]> (p)  e = Add(m, pos_e)  d = Sqrt(e)
          q = Div(h, d)  a = Mul(s, q)  y = MatMul(a, v) }}""", {"w:1": "8 exact"}, 13, constants={"two": 2}),
    Case("a global response normalisation", f"""{IMAGE} <float[8,3,1,1] w, float[2,8,1,1] v, float[1,8,1,1] s, float pos_e>
        {{ h = Conv(x, w)  r = Relu(h)  n = ReduceL2 <axes = [2, 3]> (r)  m = ReduceMean <axes = [1]> (n)  e = Add(m, pos_e)
          q = Div(n, e)  p = Mul(r, q)  k = Mul(p, s)  a = Add(k, r)  y = Conv(a, v) }}""", {"w:0": "8 exact"}, 13),
    Case("a layer normalisation in single operators", f"""{ROWS}, float two, float pos_e>
        {{ h = MatMul(x, w)  m = ReduceMean <axes = [-1]> (h)  c = Sub(h, m)  p = Pow(c, two)
          q = ReduceMean <axes = [-1]> (p)  e = Add(q, pos_e)  d = Sqrt(e)  a = Div(c, d)  y = MatMul(a, v) }}""",
         {"w:1": "8 exact"}, 13, constants={"two": 2}),
    _over_what_is_not_zero("a = LayerNormalization(h, s, b)", weights=", float[8] s, float[8] b"),
    _over_what_is_computed_of_zeros("a = LayerNormalization(h, s, b)", weights=", float[8] s, float[8] b"),
    Case("LayerNormalization keeps zero", f"""{ROWS}, float[8] s, float[8] b, int64[1] last>
        {{ h = MatMul(x, w)  a = LayerNormalization(h, s, b)  y = ReduceSum(a, last) }}""".replace("5,2] y", "5,1] y").replace(
            ", float[8,2] v", ""), {"w:1": "8 exact"}, constants={"last": -1}),
    Case("LayerNormalization whose shift is one for all channels", f"""{ROWS}, float[8] s, float[1] b, int64[1] last>
        {{ h = MatMul(x, w)  a = LayerNormalization(h, s, b)  y = ReduceSum(a, last) }}""".replace("5,2] y", "5,1] y").replace(
            ", float[8,2] v", ""), {"w:1": "8 mixing: sums over the axis"}, constants={"last": -1}),
    Case("two LayerNormalizations of one stream", f"""{ROWS}, float[8] s, float[8] t, float[8,8] u>
        {{ h = MatMul(x, w)  n = LayerNormalization(h, s)  m = LayerNormalization(h, t)  k = MatMul(n, u)  e = Add(h, k)
          f = Add(e, m)  a = LayerNormalization(f, s)  y = MatMul(a, v) }}""", {"w:1": "8 exact"}),
    *(_over(f"a = {op} <axis = -1> (h)", opset) for op in ("Softmax", "LogSoftmax") for opset in (9, 11, 13)),
    *(_over("a = Hardmax <axis = -1> (h)", opset, grade=MIXED) for opset in (11, 13)),
    *(_over_what_is_not_zero("a = Softmax <axis = -1> (h)", opset) for opset in (11, 13)),
    *(_over_what_is_computed_of_zeros("a = Softmax <axis = -1> (h)", opset) for opset in (11, 13)),
    _over("a = Softmax <axis = 1> (h)", 11),
    *(_passing(f"a = {op} <axis = 3> (h)", opset) for op in ("Softmax", "LogSoftmax", "Hardmax") for opset in (11, 13)),
    _passing("a = Softmax <axis = 2> (h)", 11),
    _passing("a = Softmax(h)", 13),
    Case("Softmax before opset 13 flattens from axis 1 on", f"""{IMAGE} <float[8,3,1,1] w, float[2,8,1,1] v>
        {{ h = Conv(x, w)  a = Softmax(h)  y = Conv(a, v) }}""", {"w:0": "8 exact"}, 11),
    Case("LpNormalization over channels that are zero once masked", f"""{ROWS}>
        {{ h = MatMul(x, w)  a = LpNormalization(h)  y = MatMul(a, v) }}""", {"w:1": "8 exact"}),
    Case("LpNormalization over channels that are not", f"""{ROWS}>
        {{ h = MatMul(x, w)  s = Sigmoid(h)  a = LpNormalization <p = 1, axis = 2> (s)  y = MatMul(a, v) }}""",
         {"w:1": "8 mixing: sums over the axis"}),
    _passing("a = LpNormalization <axis = -1> (h)"),
    Case("MeanVarianceNormalization over channels", f"""{IMAGE} <float[8,3,1,1] w, float[2,8,1,1] v>
        {{ h = Conv(x, w)  a = MeanVarianceNormalization <axes = [1]> (h)  y = Conv(a, v) }}""", {"w:0": "8 exact"}, 9),
    Case("LRN", f"""{IMAGE} <float[8,3,1,1] w, float[2,8,1,1] v>
        {{ h = Conv(x, w)  a = LRN <size = 3> (h)  y = Conv(a, v) }}""", {"w:0": MIXED}),
]


@pytest.mark.parametrize("case", spread(CASES, 4), ids=lambda c: c.name)
def test_removal_equals_masking(case: Case) -> None:
    check(case)


def test_group_normalization_keeps_the_size_of_a_group() -> None:
    case = next(c for c in CASES if c.name == "GroupNormalization loses whole groups")
    pruned, _, _ = oracle.prune_and_mask(case.model())
    norm = pruned.graph.node[1]
    assert {a.name: a.i for a in norm.attribute} == {"num_groups": 2}
    assert {t.name: list(t.dims) for t in pruned.graph.initializer} == {
        "w": [6, 3, 1, 1], "s": [6], "b": [6], "v": [2, 6, 1, 1]}


def test_group_normalization_of_opset_18_has_a_parameter_a_group() -> None:
    """onnxruntime does not run this version, so only the groups and the shapes are looked at."""
    model = build(f"""{IMAGE} <float[12,3,1,1] w, float[4] s, float[4] b, float[2,12,1,1] v>
        {{ h = Conv(x, w)  a = GroupNormalization <num_groups = 4> (h, s, b)  y = Conv(a, v) }}""", 18)
    assert_groups(coupling_of(model), {"w:0": "4 exact"})
    pruned, _, _ = oracle.prune_and_mask(model)
    assert {t.name: list(t.dims) for t in pruned.graph.initializer} == {
        "w": [6, 3, 1, 1], "s": [2], "b": [2], "v": [2, 6, 1, 1]}


def test_mean_variance_normalization_leaves_other_channels_alone() -> None:
    """A masked channel has no variance, and onnxruntime divides by it; so only what reads the channel is masked."""
    model = build(f"""{IMAGE} <float[8,3,1,1] w, float[2,8,1,1] v>
        {{ h = Conv(x, w)  a = MeanVarianceNormalization <axes = [0, 2, 3]> (h)  y = Conv(a, v) }}""", 9)
    assert_groups(coupling_of(model), {"w:0": "8 exact"})
    pruned, masked, count = oracle.prune_and_mask(model)
    assert count == 4
    masked.graph.initializer[0].CopyFrom(model.graph.initializer[0])
    feeds = random_feeds(model)
    expected, got = (oracle.session(m).run(None, feeds)[0] for m in (masked, pruned))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_batch_normalization_scales_are_known() -> None:
    case = next(c for c in CASES if c.name == "BatchNormalization of rows")
    assert {v.key for v in coupling_of(case.model()).ties.norm_scales} == {"s"}
