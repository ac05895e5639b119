"""Quantised operators: scales and zero points follow their channel, and zero means the zero point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import pytest

from tests.ops.case import Case, assert_groups, build, check, coupling_of
from tests.support.lanes import spread

HEAD, MIXED = "(float[2,3] x) => (float[2,2] y)\n", "mixing: sums over"


@dataclass(frozen=True)
class Quantised(Case):
    """A model that may use onnxruntime's own operators."""

    def model(self) -> onnx.ModelProto:
        return build(self.text, self.opset, self.ir, self.constants, ["com.microsoft"])


def weight(name: str, rows: int, columns: int, kind: str = "int8", per: int | None = None, zero: bool = True) -> str:
    """Declaration of a quantised weight with its scale and zero point, per tensor or with `per` entries."""
    dims = "" if per is None else f"[{per}]"
    return (f"{kind}[{rows},{columns}] {name}, float{dims} pos_{name}" + (f", {kind}{dims} z{name}" if zero else ""))


def qdq(
    name: str, weights: str, body: str, groups: dict[str, str], opset: int = 18, constants: Mapping[str, Any] | None = None
) -> Quantised:
    """h (2, 6) out of x, and y out of a."""
    return Quantised(name, f"{HEAD}<{weights}>\n{{ {body} }}", groups, opset=opset, constants=constants or {})


SIX = {"w:1": "6 exact"}
ACT = ", float pos_s, uint8 zs"
ROWS = [
    qdq("weights per tensor", weight("w", 3, 6) + ", float[6,2] v",
        "k = DequantizeLinear(w, pos_w, zw)  h = MatMul(x, k)  y = MatMul(h, v)", SIX),
    qdq("weights per column", weight("w", 3, 6, per=6) + ", float[6,2] v",
        "k = DequantizeLinear <axis = 1> (w, pos_w, zw)  h = MatMul(x, k)  y = MatMul(h, v)", SIX),
    qdq("weights per row", weight("w", 6, 3, per=6) + ", float[6,2] v",
        "k = DequantizeLinear <axis = -2> (w, pos_w, zw)  h = Gemm <transB = 1> (x, k)  y = MatMul(h, v)",
        {"w:0": "6 exact"}),
    qdq("both weights, without zero points",
        weight("w", 3, 6, per=6, zero=False) + ", " + weight("v", 6, 2, zero=False),
        """k = DequantizeLinear <axis = 1> (w, pos_w)  h = MatMul(x, k)  r = Relu(h)
        l = DequantizeLinear(v, pos_v)  y = MatMul(r, l)""", SIX),
    qdq("an integer bias", weight("w", 6, 3, per=6) + ", int32[6] b, float[6] pos_b, float[6,2] v",
        """k = DequantizeLinear <axis = 0> (w, pos_w, zw)  c = DequantizeLinear <axis = 0> (b, pos_b)
        h = Gemm <transB = 1> (x, k, c)  y = MatMul(h, v)""", {"w:0": "6 exact"}),
    qdq("activations", "float[3,6] w, float[6,2] v" + ACT,
        "h = MatMul(x, w)  q = QuantizeLinear(h, pos_s, zs)  a = DequantizeLinear(q, pos_s, zs)  y = MatMul(a, v)",
        SIX),
    qdq("activations keep zero", "float[3,6] w" + ACT,
        """h = MatMul(x, w)  q = QuantizeLinear(h, pos_s, zs)  t = Transpose(q)  r = Transpose(t)
        a = DequantizeLinear(r, pos_s, zs)  n = ReduceL2 <axes = [1]> (a)  y = Concat <axis = 1> (n, n)""", SIX, 17),
    qdq("a table that is looked up in before it is scaled", weight("w", 3, 6) + ", float[3,6] u, int64[2] i",
        """g = Gather(w, i)  k = DequantizeLinear(g, pos_w, zw)  h = MatMul(x, u)  a = Add(k, h)
        n = ReduceL2 <axes = [1]> (a)  y = Concat <axis = 1> (n, n)""", SIX, 17, {"i": [2, 0]}),
    qdq("another zero point loses zero", "float[3,6] w" + ACT,
        """other = Constant <value = uint8 {100}> ()
        h = MatMul(x, w)  q = QuantizeLinear(h, pos_s, zs)  a = DequantizeLinear(q, pos_s, other)
        n = ReduceL2 <axes = [1]> (a)  y = Concat <axis = 1> (n, n)""", {"w:1": f"6 {MIXED}"}, 17),
    qdq("a cast does not know the zero point", "float[3,6] w" + ACT,
        """h = MatMul(x, w)  q = QuantizeLinear(h, pos_s, zs)  a = Cast <to = 1> (q)
        n = ReduceL2 <axes = [1]> (a)  y = Concat <axis = 1> (n, n)""", {"w:1": f"6 {MIXED}"}, 17),
    qdq("scales of blocks", "int8[3,8] w, float[3,2] pos_w, int8[3,2] zw, float[8,2] v",
        """k = DequantizeLinear <axis = 1, block_size = 4> (w, pos_w, zw)  h = MatMul(x, k)  y = MatMul(h, v)""",
        {"w:1": "2 exact"}, 21),
    qdq("dynamic, behind a rectifier", f"float[3,6] w, {weight('v', 6, 2, per=2)}",
        """h = MatMul(x, w)  r = Relu(h)  q, s, z = DynamicQuantizeLinear(r)  i = MatMulInteger(q, v, z, zv)
        f = Cast <to = 1> (i)  t = Mul(s, pos_v)  y = Mul(f, t)""", SIX),
    qdq("dynamic, behind a sigmoid", f"float[3,6] w, {weight('v', 6, 2, per=2)}",
        """h = MatMul(x, w)  r = Sigmoid(h)  q, s, z = DynamicQuantizeLinear(r)  i = MatMulInteger(q, v, z, zv)
        f = Cast <to = 1> (i)  t = Mul(s, pos_v)  y = Mul(f, t)""", {"w:1": f"6 {MIXED}"}),
    qdq("integer columns", f"{weight('w', 3, 6, per=6)}, float[6,2] v",
        """q, s, z = DynamicQuantizeLinear(x)  i = MatMulInteger(q, w, z, zw)  f = Cast <to = 1> (i)  t = Mul(s, pos_w)
        h = Mul(f, t)  y = MatMul(h, v)""", SIX),
]

FIXED = "float pos_x, uint8 zx, float pos_h, uint8 zh, float pos_y, uint8 zy"
QLINEAR = [
    qdq("QLinearMatMul", f"{FIXED}, {weight('w', 3, 6, per=6)}, {weight('v', 6, 2)}",
        """q = QuantizeLinear(x, pos_x, zx)  h = QLinearMatMul(q, pos_x, zx, w, pos_w, zw, pos_h, zh)
        p = QLinearMatMul(h, pos_h, zh, v, pos_v, zv, pos_y, zy)  y = DequantizeLinear(p, pos_y, zy)""", SIX),
    qdq("QGemm", f"{FIXED}, {weight('w', 6, 3, per=6)}, int32[6] b, {weight('v', 6, 2)}",
        """q = QuantizeLinear(x, pos_x, zx)
        h = com.microsoft.QGemm <transB = 1> (q, pos_x, zx, w, pos_w, zw, b, pos_h, zh)
        y = com.microsoft.QGemm (h, pos_h, zh, v, pos_v, zv)""", {"w:0": "6 exact"}),
    qdq("QLinearLeakyRelu and QLinearSigmoid", f"{FIXED}, {weight('w', 3, 6)}, {weight('v', 6, 2)}",
        """q = QuantizeLinear(x, pos_x, zx)  h = QLinearMatMul(q, pos_x, zx, w, pos_w, zw, pos_h, zh)
        r = com.microsoft.QLinearLeakyRelu(h, pos_h, zh, pos_h, zh)
        s = com.microsoft.QLinearSigmoid(r, pos_h, zh, pos_x, zx)
        p = QLinearMatMul(s, pos_x, zx, v, pos_v, zv, pos_y, zy)  y = DequantizeLinear(p, pos_y, zy)""", SIX),
    qdq("attention in integers, whose zero points are not known to be the same",
        f"{FIXED}, {weight('w', 3, 6)}, {weight('u', 3, 6)}, {weight('t', 3, 6)}, {weight('v', 6, 2)}, int64[3] s, int64[2] m",
        """q = QuantizeLinear(x, pos_x, zx)  a = QLinearMatMul(q, pos_x, zx, w, pos_w, zw, pos_h, zh)
        b = QLinearMatMul(q, pos_x, zx, u, pos_u, zu, pos_h, zh)  c = QLinearMatMul(q, pos_x, zx, t, pos_t, zt, pos_h, zh)
        a3 = Reshape(a, s)  ah = Transpose <perm = [1, 0, 2]> (a3)  b3 = Reshape(b, s)  bh = Transpose <perm = [1, 2, 0]> (b3)
        c3 = Reshape(c, s)  ch = Transpose <perm = [1, 0, 2]> (c3)  i = QLinearMatMul(ah, pos_h, zy, bh, pos_h, zy, pos_y, zy)
        f = DequantizeLinear(i, pos_y, zy)  p = Softmax <axis = -1> (f)  j = QuantizeLinear(p, pos_x, zx)
        o = QLinearMatMul(j, pos_x, zx, ch, pos_h, zh, pos_h, zh)  oh = Transpose <perm = [1, 0, 2]> (o)  om = Reshape(oh, m)
        z = QLinearMatMul(om, pos_h, zh, v, pos_v, zv, pos_y, zy)  y = DequantizeLinear(z, pos_y, zy)""",
        {"w:1": "2 exact"}, constants={"s": [2, 2, 3], "m": [2, 6], "zh": 3, "zy": 7}),
    qdq("QLinearAdd and QLinearMul", f"{FIXED}, {weight('w', 3, 6)}, {weight('u', 3, 6)}, {weight('v', 6, 2)}",
        """q = QuantizeLinear(x, pos_x, zx)  h = QLinearMatMul(q, pos_x, zx, w, pos_w, zw, pos_h, zh)
        k = QLinearMatMul(q, pos_x, zx, u, pos_u, zu, pos_y, zy)
        a = com.microsoft.QLinearAdd(h, pos_h, zh, k, pos_y, zy, pos_x, zx)
        m = com.microsoft.QLinearMul(a, pos_x, zx, k, pos_y, zy, pos_h, zh)
        p = QLinearMatMul(m, pos_h, zh, v, pos_v, zv, pos_y, zy)  y = DequantizeLinear(p, pos_y, zy)""", SIX),
    qdq("a constant whose zero point is not 0 is no masked summand",
        f"{FIXED}, {weight('w', 3, 6)}, uint8[6] c, float pos_c, uint8 zc",
        """q = QuantizeLinear(x, pos_x, zx)  h = QLinearMatMul(q, pos_x, zx, w, pos_w, zw, pos_h, zh)
        a = com.microsoft.QLinearAdd(h, pos_h, zh, c, pos_c, zc, pos_y, zy)  d = DequantizeLinear(a, pos_y, zy)
        n = ReduceL2 <axes = [1]> (d)  y = Concat <axis = 1> (n, n)""", {"w:1": f"6 {MIXED}"}, 17),
    qdq("QLinearConcat", f"{FIXED}, {weight('w', 3, 6)}, {weight('u', 3, 4)}, {weight('v', 10, 2)}",
        """q = QuantizeLinear(x, pos_x, zx)  h = QLinearMatMul(q, pos_x, zx, w, pos_w, zw, pos_h, zh)
        k = QLinearMatMul(q, pos_x, zx, u, pos_u, zu, pos_y, zy)
        a = com.microsoft.QLinearConcat <axis = 1> (pos_x, zx, h, pos_h, zh, k, pos_y, zy)
        p = QLinearMatMul(a, pos_x, zx, v, pos_v, zv, pos_y, zy)  y = DequantizeLinear(p, pos_y, zy)""",
        {"w:1": "6 exact", "u:1": "4 exact"}),
    qdq("QLinearWhere", f"{FIXED}, bool[2,1] c, {weight('w', 3, 6)}, {weight('u', 3, 6)}, {weight('v', 6, 2)}",
        """q = QuantizeLinear(x, pos_x, zx)  h = QLinearMatMul(q, pos_x, zx, w, pos_w, zw, pos_h, zh)
        k = QLinearMatMul(q, pos_x, zx, u, pos_u, zu, pos_y, zy)
        a = com.microsoft.QLinearWhere(c, h, pos_h, zh, k, pos_y, zy, pos_x, zx)
        p = QLinearMatMul(a, pos_x, zx, v, pos_v, zv, pos_y, zy)  y = DequantizeLinear(p, pos_y, zy)""", SIX),
    qdq("QLinearSoftmax mixes", f"{FIXED}, {weight('w', 3, 6)}, {weight('v', 6, 2)}",
        """q = QuantizeLinear(x, pos_x, zx)  h = QLinearMatMul(q, pos_x, zx, w, pos_w, zw, pos_h, zh)
        s = com.microsoft.QLinearSoftmax <axis = 1, opset = 13> (h, pos_h, zh, pos_x, zx)
        p = QLinearMatMul(s, pos_x, zx, v, pos_v, zv, pos_y, zy)  y = DequantizeLinear(p, pos_y, zy)""",
        {"w:1": "6 mixing"}),
    qdq("DynamicQuantizeMatMul", f"{weight('w', 3, 6, per=6)}, float[6] b, {weight('v', 6, 2)}",
        """h = com.microsoft.DynamicQuantizeMatMul(x, w, pos_w, zw, b)  r = Relu(h)
        y = com.microsoft.DynamicQuantizeMatMul(r, v, pos_v, zv)""", SIX),
    qdq("DynamicQuantizeMatMul behind a sigmoid", f"float[3,6] w, {weight('v', 6, 2)}",
        """h = MatMul(x, w)  r = Sigmoid(h)  y = com.microsoft.DynamicQuantizeMatMul(r, v, pos_v, zv)""",
        {"w:1": f"6 {MIXED}"}),
    qdq("MatMulIntegerToFloat", f"{weight('w', 3, 6, per=6)}, float[6] b, {weight('v', 6, 2, per=2)}",
        """q, s, z = DynamicQuantizeLinear(x)  h = com.microsoft.MatMulIntegerToFloat(q, w, s, pos_w, z, zw, b)
        r = Relu(h)  p, t, c = DynamicQuantizeLinear(r)
        y = com.microsoft.MatMulIntegerToFloat(p, v, t, pos_v, c, zv)""", SIX),
]

PICTURE = "(float[1,3,6,6] x) => (float[1,2] y)\n"


def filters(name: str, out: int, into: int, per: bool) -> str:
    """Declaration of a quantised convolution's weight."""
    dims = f"[{out}]" if per else ""
    return f"int8[{out},{into},3,3] {name}, float{dims} pos_{name}, int8{dims} z{name}"


def conv(name: str, weights: str, body: str, groups: dict[str, str], opset: int = 18) -> Quantised:
    """A convolution over a small picture; y is (1, 2)."""
    return Quantised(name, f"{PICTURE}<{FIXED}, {weights}>\n{{ {body} }}", groups, opset=opset)


CONV = "q = QuantizeLinear(x, pos_x, zx)  h = QLinearConv(q, pos_x, zx, w, pos_w, zw, pos_h, zh, b) "
CONVOLUTIONS = [
    conv("QLinearConv", f"{filters('w', 6, 3, True)}, int32[6] b, {filters('v', 2, 6, False)}",
         f"""{CONV} m = MaxPool <kernel_shape = [2, 2]> (h)
         p = QLinearConv(m, pos_h, zh, v, pos_v, zv, pos_y, zy)  d = DequantizeLinear(p, pos_y, zy)
         y = ReduceMax <axes = [2, 3], keepdims = 0> (d)""", {"w:0": "6 exact"}, 17),
    conv("QLinearConv with channels last", f"{filters('w', 6, 3, True)}, int32[6] b, {filters('v', 2, 6, False)}",
         """q = QuantizeLinear(x, pos_x, zx)  t = Transpose <perm = [0, 2, 3, 1]> (q)
         h = com.microsoft.QLinearConv <channels_last = 1> (t, pos_x, zx, w, pos_w, zw, pos_h, zh, b)
         p = com.microsoft.QLinearConv <channels_last = 1> (h, pos_h, zh, v, pos_v, zv, pos_y, zy)
         d = DequantizeLinear(p, pos_y, zy)  y = ReduceMax <axes = [1, 2], keepdims = 0> (d)""", {"w:0": "6 exact"}, 17),
    conv("QLinearConv in groups",
         f"{filters('w', 6, 3, False)}, int32[6] b, {filters('u', 6, 1, True)}, {filters('v', 2, 6, False)}",
         f"""{CONV} m = QLinearConv <group = 6, pads = [1, 1, 1, 1]> (h, pos_h, zh, u, pos_u, zu, pos_x, zx)
         p = QLinearConv(m, pos_x, zx, v, pos_v, zv, pos_y, zy)  d = DequantizeLinear(p, pos_y, zy)
         y = ReduceMax <axes = [2, 3], keepdims = 0> (d)""", {"w:0": "6 exact"}, 17),
    conv("pools", f"{filters('w', 6, 3, True)}, int32[6] b, {weight('v', 6, 2)}",
         f"""{CONV} a = com.microsoft.QLinearAveragePool <kernel_shape = [2, 2]> (h, pos_h, zh, pos_x, zx)
         g = com.microsoft.QLinearGlobalAveragePool(a, pos_x, zx, pos_h, zh)  f = Flatten(g)
         p = QLinearMatMul(f, pos_h, zh, v, pos_v, zv, pos_y, zy)  y = DequantizeLinear(p, pos_y, zy)""",
         {"w:0": "6 exact"}),
    conv("ConvInteger", f"uint8[6,3,3,3] w, float pos_w, uint8 zw, {weight('v', 6, 2)}",
         """q, s, z = DynamicQuantizeLinear(x)  i = ConvInteger(q, w, z, zw)  c = Cast <to = 1> (i)
         t = Mul(s, pos_w)  h = Mul(c, t)  g = GlobalAveragePool(h)  f = Flatten(g)
         k = DequantizeLinear(v, pos_v, zv)  y = MatMul(f, k)""", {"w:0": "6 exact"}),
]


@pytest.mark.parametrize("case", spread([*ROWS, *QLINEAR, *CONVOLUTIONS], 4), ids=lambda c: c.name)
def test_quantised(case: Quantised) -> None:
    check(case)


def test_packed_storage_is_pinned() -> None:
    text = f"{HEAD}<float[3,6] w, {weight('v', 6, 2)}>{{ h = MatMul(x, w)  y = com.microsoft.QOrderedMatMul(h, v) }}"
    assert_groups(coupling_of(build(text, domains=["com.microsoft"])), {"w:1": "6 pinned: storage is not cut"})


LSTM = """(float[5,2,3] x) => (float[5,2,2] y)
<int8[1,3,24] w, float[1{per}] pos_w, int8[1{per}] zw, int8[1,6,24] r, float[1{per}] pos_r, int8[1{per}] zr,
 float[1,48] b, float[6,2] v>
{{
  s = com.microsoft.DynamicQuantizeLSTM <hidden_size = 6{more}> (x, w, r, b, , , , , pos_w, zw, pos_r, zr)
  a = Constant <value = int64[1] {{1}}> ()
  t = Squeeze(s, a)
  y = MatMul(t, v)
}}"""


@pytest.mark.parametrize(("more", "grade"), [
    ("", "exact"), (', activations = ["Sigmoid", "Tanh", "Tanh"]', "exact"),
    (', activations = ["Sigmoid", "Tanh", "Sigmoid"]', MIXED)], ids=["zero units", "named", "units of a sigmoid"])
def test_lstm(more: str, grade: str) -> None:
    text = LSTM.format(per=",24", more=more)
    zero = {"zw": [[0] * 24], "zr": [[0] * 24]}  # onnxruntime asks for equal zero points
    check(Quantised("", text, {"w:2": f"6 {grade}"}, constants=zero))
