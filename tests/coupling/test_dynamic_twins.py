"""A graph with free lengths loses what its static twin loses: computed shapes are followed as expressions.

Each idiom is written as exporters write it, with shapes that are computed of `Shape`. Batch size, height and width are
numbers, or one of them is free, or all are.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.coupling.coupling import analyze
from onnxprune.graph.graph import Graph
from tests.ops.case import build, random_feeds
from tests.support.lanes import spread
from tests.support.oracle import assert_equivalent

SIZES = {"N": 2, "H": 8, "W": 12}
FORMS = [(), ("N",), ("H",), ("W",), ("H", "W"), ("N", "H", "W")]
CONSTANTS = {
    **{f"c{n}": n for n in (0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 48)},
    **{f"i{n}": n for n in (0, 1, 2, 3)},
    "neg1": -1,
    "neg2": -2,
    "big": 2**63 - 1,
    "low": -(2**63),
}
DECLARED = ", ".join(f"int64{'' if name.startswith('i') else '[1]'} {name}" for name in CONSTANTS)
IMAGE = "(float[N,3,H,W] x) => (float[N,4,H,W] y) <float[16,3,3,3] a, float[4,16,1,1] z"
STEM = "c = Conv <pads = [1, 1, 1, 1]> (x, a)  r = Relu(c)  s = Shape(r)"
LENGTHS = """
    n0 = Gather(s, i0)  h0 = Gather(s, i2)  w0 = Gather(s, i3)  d0 = Gather(s, i1)
    n = Unsqueeze(n0, c0)  d = Unsqueeze(d0, c0)  h = Unsqueeze(h0, c0)  w = Unsqueeze(w0, c0)
"""
TOKENS = "(float[N,H,48] x) => (float[N,H,48] y) <float[48,48] wq, float[48,48] wk, float[48,48] wv, float[48,48] wo"
SPLIT = """
    s = Shape(x)  n = Gather(s, c0)  l = Gather(s, c1)  apart = Concat <axis = 0> (n, l, neg1, c8)
    q = MatMul(x, wq)  qr = Reshape(q, apart)  qt = Transpose <perm = [0, 2, 1, 3]> (qr)
    v = MatMul(x, wv)  vr = Reshape(v, apart)  vt = Transpose <perm = [0, 2, 1, 3]> (vr)
    k = MatMul(x, wk)  kr = Reshape(k, apart)
"""
MERGE = """
    p = Softmax <axis = -1> (sc)  o = MatMul(p, vt)  ot = Transpose <perm = [0, 2, 1, 3]> (o)
    whole = Concat <axis = 0> (n, l, c48)  om = Reshape(ot, whole)  y = MatMul(om, wo)
"""
IDIOMS = {
    # reshaped to blocks of channels that lie in the batch, and back
    "blocks_in_batch": f"""{IMAGE}> {{ {STEM} {LENGTHS}
        m = Mul(n, c4)  folded = Concat <axis = 0> (m, neg1, h, w)  f = Reshape(r, folded)
        sum = ReduceSum <keepdims = 1> (f, c1)  g = Sigmoid(sum)  e = Mul(f, g)
        back = Concat <axis = 0> (n, d, h, w)  u = Reshape(e, back)  y = Conv(u, z) }}""",
    # attention over pixels, heads in the batch, queries, keys and values cut by thirds that are computed
    "heads_in_batch": f"""{IMAGE}, float[48,16,1,1] e> {{ {STEM} {LENGTHS}
        qkv = Conv(r, e)  m = Mul(n, c4)  p = Mul(h, w)  folded = Concat <axis = 0> (m, neg1, p)  f = Reshape(qkv, folded)
        fs = Shape(f)  wide = Gather(fs, c1)  more = Add(wide, c2)  third = Div(more, c3)
        one = Mul(third, c1)  two = Mul(third, c2)  three = Mul(third, c3)
        q = Slice(f, c0, one, c1)  k = Slice(f, one, two, c1)  v = Slice(f, two, three, c1)
        qt = Transpose <perm = [0, 2, 1]> (q)  sc = MatMul(qt, k)  at = Softmax <axis = -1> (sc)
        att = Transpose <perm = [0, 2, 1]> (at)  o = MatMul(v, att)
        back = Concat <axis = 0> (n, neg1, h, w)  u = Reshape(o, back)  y = Conv(u, z) }}""",
    # pixel unshuffle: halves of height and width, lengths that only a later Reshape tells
    "halves_of_space": f"""(float[N,3,H,W] x) => (float[N,4,P,Q] y) <float[16,3,3,3] a, float[4,64,1,1] z> {{ {STEM}
        first = Shape <end = -3> (r)  rest = Shape <start = -3> (r)
        t0 = Concat <axis = 0> (neg1, rest)  v0 = Reshape(r, t0)
        d = Shape <start = 1, end = 2> (v0)  h = Shape <start = 2, end = 3> (v0)  w = Shape <start = 3, end = 4> (v0)
        hh = Div(h, c2)  ww = Div(w, c2)  t1 = Concat <axis = 0> (neg1, d, hh, c2, ww, c2)  v1 = Reshape(v0, t1)
        v2 = Transpose <perm = [0, 1, 3, 5, 2, 4]> (v1)  dd = Mul(d, c4)
        t2 = Concat <axis = 0> (neg1, dd, hh, ww)  v3 = Reshape(v2, t2)
        last = Shape <start = 1> (v3)  t3 = Concat <axis = 0> (first, last)  v4 = Reshape(v3, t3)  y = Conv(v4, z) }}""",
    # pairs of rows in the batch, with channels before them, behind windows that are counted as 1 + (H - 1) // 2
    "windows_in_batch": """(float[N,3,H,W] x) => (float[N,4,P,Q] y) <float[16,3,3,3] a, float[4,16,1,1] z> {
        c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, a)  r = Relu(c)
        n = Shape <start = 0, end = 1> (x)  h = Shape <start = 2, end = 3> (x)  w = Shape <start = 3, end = 4> (x)
        h1 = Add(neg1, h)  h2 = Div(h1, c2)  hs = Add(c1, h2)  w1 = Add(neg1, w)  w2 = Div(w1, c2)  ws = Add(c1, w2)
        hh = Div(hs, c2)  ww = Div(ws, c2)  nc = Mul(n, c16)  nch = Mul(nc, hh)
        t0 = Concat <axis = 0> (nch, c2, ww, c2)  f = Reshape(r, t0)  g = Transpose <perm = [0, 2, 1, 3]> (f)
        hw = Mul(hh, ww)  t1 = Concat <axis = 0> (n, c16, hw, c4)  e = Reshape(g, t1)  i = Relu(e)
        t2 = Concat <axis = 0> (nch, ww, c2, c2)  j = Reshape(i, t2)  k = Transpose <perm = [0, 2, 1, 3]> (j)
        t3 = Concat <axis = 0> (n, c16, hs, ws)  u = Reshape(k, t3)  y = Conv(u, z) }""",
    # frames in the batch
    "frames_in_batch": f"""{IMAGE}> {{ {STEM} {LENGTHS}
        t0 = Concat <axis = 0> (neg1, c2, c16, h, w)  f = Reshape(r, t0)
        mean = ReduceMean <keepdims = 1> (f, c1)  e = Add(f, mean)
        back = Concat <axis = 0> (n, c16, h, w)  u = Reshape(e, back)  y = Conv(u, z) }}""",
    # pixels as tokens, and back
    "tokens": f"""{IMAGE}, float[16,32] e, float[32,16] g> {{ {STEM} {LENGTHS}
        p = Mul(h, w)  flat = Concat <axis = 0> (n, d, p)  f = Reshape(r, flat)  t1 = Transpose <perm = [0, 2, 1]> (f)
        m = MatMul(t1, e)  q = Relu(m)  o = MatMul(q, g)  t2 = Transpose <perm = [0, 2, 1]> (o)
        back = Concat <axis = 0> (n, neg1, h, w)  u = Reshape(t2, back)  y = Conv(u, z) }}""",
    # windows of pixels, in the batch
    "windows": f"""{IMAGE}> {{ {STEM} {LENGTHS}
        hh = Div(h, c4)  ww = Div(w, c4)  t0 = Concat <axis = 0> (n, c16, hh, c4, ww, c4)  v0 = Reshape(r, t0)
        v1 = Transpose <perm = [0, 2, 4, 3, 5, 1]> (v0)
        m0 = Mul(hh, ww)  m = Mul(n, m0)  t1 = Concat <axis = 0> (neg1, c16, c16)  v2 = Reshape(v1, t1)
        top = ReduceMax <keepdims = 1> (v2, c1)  v3 = Sub(v2, top)
        t2 = Concat <axis = 0> (n, hh, ww, c4, c4, neg1)  v4 = Reshape(v3, t2)
        v5 = Transpose <perm = [0, 5, 1, 3, 2, 4]> (v4)
        back = Concat <axis = 0> (n, neg1, h, w)  u = Reshape(v5, back)  y = Conv(u, z) }}""",
    # strided, enlarged again and cut to the first length
    "down_and_up": f"""{IMAGE}, float[16,16,3,3] e, float scale> {{ {STEM} {LENGTHS}
        down = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (r, e)  ds = Shape(down)
        dh = Slice(ds, c2, c4)  up = Mul(dh, c2)  sizes = Concat <axis = 0> (n, c16, up)  big2 = Resize(down, , , sizes)
        cut = Slice(big2, c0, h, c2)  cut2 = Slice(cut, c0, w, c3)  both = Add(cut2, r)  y = Conv(both, z) }}""",
    # a cut to the length of something that is computed along with it
    "cut_by_shape": f"""{IMAGE}> {{ {STEM}
        f = Relu(r)  fs = Shape(f)  i = Slice(fs, c0, c4)  zero4 = ConstantOfShape(c4)  zeros = Cast <to = 7> (zero4)
        cut = Slice(r, zeros, i)  both = Mul(cut, f)  y = Conv(both, z) }}""",
    # a position bias and a mask, both cut by the length
    "mask": f"""(float[N,H,48] x, float[N,1,1,H] mask, float[6,H,H] bias) => (float[N,H,48] y)
        <float[48,48] wq, float[48,48] wk, float[48,48] wv, float[48,48] wo, float[6,1,1] table> {{ {SPLIT}
        kt = Transpose <perm = [0, 2, 3, 1]> (kr)  s0 = MatMul(qt, kt)  back = Neg(l)  b0 = Mul(bias, table)
        b1 = Unsqueeze(b0, c0)  b = Slice(b1, back, big, c2)  m = Slice(mask, c0, l, c3)
        bm = Add(b, m)  sc = Add(s0, bm) {MERGE} }}""",
    # keys through a product of batch and heads, and back
    "keys_flattened": f"""{TOKENS}> {{ {SPLIT} kt = Transpose <perm = [0, 2, 1, 3]> (kr)
        ks = Shape(kt)  rows = Slice(ks, neg2, neg1)  width = Slice(ks, neg1, big)  lead = Slice(ks, low, neg2)
        t0 = Concat <axis = 0> (neg1, rows, width)  k3 = Reshape(kt, t0)  k4 = Transpose <perm = [0, 2, 1]> (k3)
        t1 = Concat <axis = 0> (lead, width, rows)  k5 = Reshape(k4, t1)  sc = MatMul(qt, k5) {MERGE} }}""",
    # batch and heads as one axis throughout, with a bias of that length that is made in the graph
    "heads_and_batch_as_one": f"""{TOKENS}> {{ {SPLIT}
        nh = Mul(n, c6)  t0 = Concat <axis = 0> (nh, l, c8)
        q3 = Reshape(qt, t0)  v3 = Reshape(vt, t0)  k0 = Transpose <perm = [0, 2, 1, 3]> (kr)  k3 = Reshape(k0, t0)
        k4 = Transpose <perm = [0, 2, 1]> (k3)  s0 = MatMul(q3, k4)
        square = Concat <axis = 0> (nh, l, l)  none = ConstantOfShape(square)  s1 = Add(s0, none)
        p = Softmax <axis = -1> (s1)
        vs = Shape(v3)  many = Shape(vs)  zeros = ConstantOfShape(many)  from0 = Cast <to = 7> (zeros)
        v4 = Slice(v3, from0, vs)  o3 = MatMul(p, v4)
        t1 = Concat <axis = 0> (n, neg1, l, c8)  o = Reshape(o3, t1)  ot = Transpose <perm = [0, 2, 1, 3]> (o)
        whole = Concat <axis = 0> (n, l, neg1)  om = Reshape(ot, whole)  y = MatMul(om, wo) }}""",
    # the same, where the length of that axis is also used as a number
    "length_as_number": f"""{TOKENS}> {{ {SPLIT}
        nh = Mul(n, c6)  t0 = Concat <axis = 0> (nh, l, c8)  v3 = Reshape(vt, t0)  vs = Shape(v3)  many = Gather(vs, c0)
        number = Cast <to = 1> (many)  v4 = Div(v3, number)  t1 = Concat <axis = 0> (n, c6, l, c8)  v5 = Reshape(v4, t1)
        kt = Transpose <perm = [0, 2, 3, 1]> (kr)  sc = MatMul(qt, kt)  p = Softmax <axis = -1> (sc)  o = MatMul(p, v5)
        ot = Transpose <perm = [0, 2, 1, 3]> (o)  whole = Concat <axis = 0> (n, l, c48)  om = Reshape(ot, whole)
        y = MatMul(om, wo) }}""",
    # group normalisation as exporters write it: statistics over some channels and all of space
    "group_normalisation": f"""{IMAGE}, float[4] one, float[4] zero> {{ {STEM} {LENGTHS}
        groups = Concat <axis = 0> (c0, c4, neg1)  f = Reshape(r, groups)
        g = InstanceNormalization(f, one, zero)  u = Reshape(g, s)  y = Conv(u, z) }}""",
    # channels and space as one axis, over which a sum and a mean go
    "channels_with_space": f"""{IMAGE}> {{ {STEM} {LENGTHS}
        flat = Concat <axis = 0> (n, neg1)  f = Reshape(r, flat)
        sum = ReduceSum <keepdims = 1> (f, c1)  mean = ReduceMean <keepdims = 1> (f, c1)
        ratio = Div(mean, sum)  e = Mul(f, ratio)  u = Reshape(e, s)  y = Conv(u, z) }}""",
    # shuffled channels
    "shuffle": f"""{IMAGE}> {{ {STEM} {LENGTHS}
        half = Div(d, c4)  t0 = Concat <axis = 0> (n, c4, half, h, w)  f = Reshape(r, t0)
        t = Transpose <perm = [0, 2, 1, 3, 4]> (f)  back = Concat <axis = 0> (n, neg1, h, w)  u = Reshape(t, back)
        y = Conv(u, z) }}""",
}


def twin(text: str, free: tuple[str, ...]) -> onnx.ModelProto:
    """The idiom with some of its lengths free."""
    head, separator, rest = text.partition("=>")
    ends, bracket, nodes = rest.partition("<")
    for name, size in SIZES.items():
        if name not in free:
            head = head.replace(f",{name}", f",{size}").replace(f"[{name}", f"[{size}")
            ends = ends.replace(f",{name}", f",{size}").replace(f"[{name}", f"[{size}")
    return build(f"{head}{separator}{ends}{bracket}{DECLARED}, {nodes}", constants=CONSTANTS)


def groups(model: onnx.ModelProto) -> list[tuple[object, ...]]:
    """What each group is: its name, grade, units, and the constants that it slices."""
    found = analyze(Graph(model)).groups
    return [
        (g.name, str(g.grade), g.units, [(s.value.name, s.axis, s.indices.tolist()) for s in g.slices]) for g in found
    ]


@functools.cache
def groups_of_static(idiom: str) -> list[tuple[object, ...]]:
    return groups(twin(IDIOMS[idiom], ()))


@pytest.mark.parametrize(("idiom", "free"), spread(itertools.product(IDIOMS, FORMS[1:]), 4))
def test_the_twins_have_the_same_groups(idiom: str, free: tuple[str, ...]) -> None:
    static, dynamic = groups_of_static(idiom), groups(twin(IDIOMS[idiom], free))
    assert dynamic == static
    assert any(grade == "exact" for _, grade, *_ in static)


@pytest.mark.slow
@pytest.mark.parametrize("free", FORMS, ids=lambda free: "".join(free) or "static")
@pytest.mark.parametrize("idiom", IDIOMS)
def test_each_twin_is_pruned_exactly(idiom: str, free: tuple[str, ...]) -> None:
    model = twin(IDIOMS[idiom], free)
    for sizes in ({}, {"N": 4, "H": 12, "W": 4}, {"N": 6, "H": 4, "W": 8}) if free else ({},):
        run = {name: sizes.get(name, size) if name in free else size for name, size in SIZES.items()}
        assert assert_equivalent(model, feeds(model, run))


def in_body(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same in a branch of an If; the other branch gives zeros."""
    inner, out = model.graph, model.graph.output[0]
    for node in inner.node:
        node.output[:] = [f"{name}_inside" if name == out.name else name for name in node.output]
    shape = [d.dim_value or SIZES.get(d.dim_param, 1) for d in out.type.tensor_type.shape.dim]
    zeros = helper.make_node("Constant", [], ["zeros"], value=numpy_helper.from_array(np.zeros(shape, np.float32)))
    free = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (f"{out.name}_inside", "zeros")]
    branches = {
        "then_branch": helper.make_graph(inner.node, "then", [], free[:1]),
        "else_branch": helper.make_graph([zeros], "else", [], free[1:]),
    }
    condition = helper.make_tensor_value_info("condition", TensorProto.BOOL, [])
    nodes = [helper.make_node("If", ["condition"], [out.name], **branches)]
    graph = helper.make_graph(nodes, "main", [*inner.input, condition], [out], inner.initializer)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


@pytest.mark.slow
@pytest.mark.parametrize("idiom", spread(IDIOMS, 4))
def test_twins_in_a_body_have_the_same_groups(idiom: str) -> None:
    """Equations of lengths that only a body has hold there, whether it runs or not."""
    static, dynamic = (groups(in_body(twin(IDIOMS[idiom], free))) for free in (FORMS[0], FORMS[-1]))
    assert dynamic == static
    assert any(grade == "exact" for _, grade, *_ in static)


@pytest.mark.slow
@pytest.mark.parametrize("idiom", sorted(set(IDIOMS) - {"down_and_up"}))  # onnx refuses its Resize in a body
def test_twins_in_a_body_are_pruned_exactly(idiom: str) -> None:
    plain = twin(IDIOMS[idiom], FORMS[-1])
    given = feeds(plain, {"N": 4, "H": 12, "W": 4})
    assert assert_equivalent(in_body(plain), {**given, "condition": np.array(True)})


def feeds(model: onnx.ModelProto, run: dict[str, int]) -> dict[str, np.ndarray]:
    """Random inputs with these lengths."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for info in fixed.graph.input:
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = run[dim.dim_param]
    return random_feeds(fixed)
