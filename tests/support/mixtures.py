"""Mixtures of experts that are spelled out, in the forms in which exporters write them.

A router's values decide which experts a token has and with which factors. ``LOOPED`` and ``COMPARED`` take the tokens
of one expert after the other, as an exported loop over experts does; ``SWITCHED`` as well, with one expert a token.
``GATHERED`` looks up the weights of the experts of each token. ``DENSE`` and ``SUMMED`` send all tokens through all
experts, and weigh what they make with a matrix of factors; ``PICKED`` and ``SLICED`` do it expert by expert, with one
column of the matrix each.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.ops.case import build

EXPERTS, WIDTH, INNER, TAKEN = 6, 16, 8, 2
LOOPED, COMPARED, SWITCHED, PICKED, SLICED = "looped", "compared", "switched", "picked", "sliced"
GATHERED, DENSE, SUMMED = "gathered", "dense", "summed"
FORMS = (LOOPED, COMPARED, SWITCHED, PICKED, SLICED, GATHERED, DENSE, SUMMED)
ROUTER, INSIDE = "r:1", {form: "u:2" if form in (GATHERED, DENSE, SUMMED) else "u0:1" for form in FORMS}

HEAD = """
    w = MatMul(x, i)  t = Reshape(w, flat)
    found = MatMul(t, r)  level_of = Add(found, level)  p = Softmax(level_of)
"""
TOP = "v, c = TopK(p, k)"
TAIL = "y = MatMul(s, o)"

ONE_EXPERT = """
    xs%(e)d = GatherND(t, at%(e)d)
    h%(e)d = MatMul(xs%(e)d, u%(e)d)  a%(e)d = Relu(h%(e)d)  m%(e)d = MatMul(a%(e)d, d%(e)d)
"""
COORDINATES = """
    n%(e)d = NonZero(mask%(e)d)  z%(e)d = Transpose(n%(e)d)
    at%(e)d = Slice(z%(e)d, zero, one, one)
"""
WRITTEN = """
    f%(e)d = GatherND(v, z%(e)d)  g%(e)d = Unsqueeze(f%(e)d, last)  q%(e)d = Mul(m%(e)d, g%(e)d)
    s%(next)d = ScatterND <reduction = "add"> (s%(e)d, at%(e)d, q%(e)d)
"""
ALL_TOKENS = """
    h%(e)d = MatMul(t, u%(e)d)  a%(e)d = Relu(h%(e)d)  m%(e)d = MatMul(a%(e)d, d%(e)d)
    q%(e)d = Mul(m%(e)d, g%(e)d)  s%(next)d = Add(s%(e)d, q%(e)d)
"""
MATRIX = """
    wide = Shape(p)  zeros = ConstantOfShape(wide)  factors = ScatterElements <axis = 1> (zeros, c, v)
"""
EACH = {
    PICKED: "f%(e)d = Gather <axis = 1> (factors, e%(e)d)  g%(e)d = Unsqueeze(f%(e)d, last)" + ALL_TOKENS,
    SLICED: "g%(e)d = Slice(factors, from%(e)d, to%(e)d, one)" + ALL_TOKENS,
    LOOPED: "mask%(e)d = Gather <axis = 2> (hot, e%(e)d)" + COORDINATES + ONE_EXPERT + WRITTEN,
    COMPARED: "mask%(e)d = Equal(c, e%(e)d)" + COORDINATES + ONE_EXPERT + WRITTEN,
    SWITCHED: "mask%(e)d = Equal(c, e%(e)d)" + COORDINATES + ONE_EXPERT
    + "s%(next)d = ScatterND(s%(e)d, at%(e)d, m%(e)d)",
}  # fmt: skip
BEFORE = {
    LOOPED: TOP + "  hot = OneHot(c, depth, values)  shape = Shape(t)  s0 = ConstantOfShape(shape)",
    COMPARED: TOP + "  shape = Shape(t)  s0 = ConstantOfShape(shape)",
    PICKED: TOP + MATRIX + "  shape = Shape(t)  s0 = ConstantOfShape(shape)",
    SLICED: TOP + MATRIX + "  shape = Shape(t)  s0 = ConstantOfShape(shape)",
    SWITCHED: "c = ArgMax <axis = 1, keepdims = 0> (p)  s0 = Identity(t)",
}
TOGETHER = {
    GATHERED: TOP + """
        ut = Gather(u, c)  dt = Gather(d, c)  t1 = Unsqueeze(t, inner)
        h = MatMul(t1, ut)  a = Relu(h)  m = MatMul(a, dt)  m1 = Squeeze(m, two)
        g = Unsqueeze(v, last)  q = Mul(m1, g)  s = ReduceSum <keepdims = 0> (q, one)""",
    DENSE: TOP + MATRIX + """
        t1 = Unsqueeze(t, zero)  h = MatMul(t1, u)  a = Relu(h)  m = MatMul(a, d)
        turned = Transpose(factors)  g = Unsqueeze(turned, last)  q = Mul(m, g)  s = ReduceSum <keepdims = 0> (q, zero)
        """,
    SUMMED: TOP + """
        c1 = Unsqueeze(c, last)  is = Equal(c1, numbers)  mask = Cast <to = 1> (is)
        weighed = Unsqueeze(v, last)  placed = Mul(mask, weighed)  factors = ReduceSum <keepdims = 0> (placed, one)
        h = Einsum <equation = "nd,edh->neh"> (t, u)  a = Relu(h)  m = Einsum <equation = "neh,ehd->ned"> (a, d)
        g = Unsqueeze(factors, last)  q = Mul(m, g)  s = ReduceSum <keepdims = 0> (q, one)""",
}  # fmt: skip


def mixture(form: str, *, silent: tuple[int, ...] = ()) -> onnx.ModelProto:
    """A model with a mixture of experts.

    Args:
        form: One of `FORMS`.
        silent: Experts whose router value is so low that they are never taken.
    """
    level = np.zeros(EXPERTS, np.float32)
    level[list(silent)] = -1e9
    constants = {
        "flat": [-1, WIDTH],
        "k": [TAKEN],
        "level": level,
        "depth": EXPERTS,
        "values": [0, 1],
        "zero": [0],
        "one": [1],
        "two": [2],
        "last": [-1],
        "inner": [1, 2],
        "numbers": np.arange(EXPERTS),
    } | {f"{name}{e}": value for e in range(EXPERTS) for name, value in (("e", e), ("from", [e]), ("to", [e + 1]))}
    declared = [
        f"float[{WIDTH},{WIDTH}] i", f"float[{WIDTH},{EXPERTS}] r", f"float[{EXPERTS}] level", f"float[{WIDTH},3] o",
        "int64[2] flat", "int64[1] k", "int64 depth", "int64[2] values", "int64[1] zero", "int64[1] one",
        "int64[1] two", "int64[1] last", "int64[2] inner", f"int64[{EXPERTS}] numbers",
    ]  # fmt: skip
    if form in EACH:
        for e in range(EXPERTS):
            declared += [f"float[{WIDTH},{INNER}] u{e}", f"float[{INNER},{WIDTH}] d{e}", f"int64 e{e}"]
            declared += [f"int64[1] from{e}", f"int64[1] to{e}"]
        body = BEFORE[form] + "".join(EACH[form] % {"e": e, "next": e + 1} for e in range(EXPERTS))
        body += f"  s = Identity(s{EXPERTS})"
        if form == SWITCHED:
            body = body.replace("= Identity(s6)", "= Mul(s6, largest)") + "  "
            body = "largest = ReduceMax <keepdims = 1> (p, last)  " + body
    else:
        declared += [f"float[{EXPERTS},{WIDTH},{INNER}] u", f"float[{EXPERTS},{INNER},{WIDTH}] d"]
        body = TOGETHER[form]
    used = [line for line in declared if line.split()[-1] in body + HEAD + TAIL]
    text = f"(float[B,T,{WIDTH}] x) => (float[M,3] y) <{', '.join(used)}> {{ {HEAD} {body} {TAIL} }}"
    return build(text, 18, 8, {name: value for name, value in constants.items() if f" {name}" in " ".join(used)})


def contributions(made: onnx.ModelProto, form: str, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """The mean, over the tokens of each expert, of the norm of what it adds: worked out from the weights."""
    w = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in made.graph.initializer}
    tokens = (x @ w["i"]).reshape(-1, WIDTH)
    found = np.exp(tokens @ w["r"])
    shares = found / found.sum(axis=1, keepdims=True)
    taken = shares >= np.sort(shares, axis=1)[:, [-(1 if form == SWITCHED else TAKEN)]]
    means = np.zeros(EXPERTS)
    for e in range(EXPERTS):
        up, down = (w[f"{n}{e}"] if form in EACH else w[n][e] for n in "ud")
        mine = taken[:, e]
        norms = np.linalg.norm(np.maximum(tokens[mine] @ up, 0) @ down, axis=1)
        factors = 1 if form == SWITCHED else shares[mine, e]
        means[e] = (factors * norms).mean() if mine.any() else 0.0
    return means
