"""Operators that carry few channels or none, and those of ai.onnx.ml."""

from __future__ import annotations

import onnx
import pytest

from tests.ops.case import Case, assert_groups, build, check, coupling_of

HEAD = "(float[2,3] x) => (float[2,2] y)\n<float[3,6] w, float[6,2] v%s>\n{ h = MatMul(x, w)  %s  y = MatMul(a, v) }"


def row(name: str, body: str, grade: str, weights: str = "", opset: int = 18) -> Case:
    """A channel axis of six that goes through the operator."""
    return Case(name, HEAD % (weights, body), {"w:1": f"6 {grade}"}, opset=opset)


ROWS = [
    row("CenterCropPad of another axis", """s = Constant <value = int64[1] {3}> ()
        t = CenterCropPad <axes = [0]> (h, s)
        k = Constant <value = int64[1] {2}> ()  a = CenterCropPad <axes = [0]> (t, k)""", "exact"),
    row("CenterCropPad", """s = Constant <value = int64[1] {6}> ()  a = CenterCropPad <axes = [1]> (h, s)""",
        "pinned: around its middle"),
    row("Optional", "o = Optional(h)  a = OptionalGetElement(o)", "pinned: works on optionals"),
    row("a sequence", "o = SequenceConstruct(h, h)  i = Constant <value = int64 {1}> ()  a = SequenceAt(o, i)",
        "pinned: works on sequences"),
    row("DFT of another axis", """u = Constant <value = int64[2] {0, 3}> ()  e = Unsqueeze(h, u)
        f = DFT <axis = 1> (e)  i = Constant <value = int64[1] {0}> ()  g = Gather <axis = 3> (f, i)
        a = Squeeze(g, u)""", "exact"),
    row("DFT", """u = Constant <value = int64[2] {0, 3}> ()  e = Unsqueeze(h, u)
        f = DFT <axis = 2> (e)  i = Constant <value = int64[1] {0}> ()  g = Gather <axis = 3> (f, i)
        a = Squeeze(g, u)""", "pinned: transforms it"),
    row("Det", """u = Constant <value = int64[2] {2, 3}> ()  e = Unsqueeze(h, u)  a = Det(e)""", "exact"),
]

COLUMNS = Case("Col2Im", """(float[1,3,9] x) => (float[1,2,5,5] y)
<float[24,3,1] w, float[2,6,1,1] v>
{
  h = Conv(x, w)
  size = Constant <value = int64[2] {4, 4}> ()  block = Constant <value = int64[2] {2, 2}> ()
  a = Col2Im(h, size, block)
  y = Conv <pads = [1, 1, 0, 0]> (a, v)
}""", {"w:0": "6 exact"})

SCATTER = Case("TensorScatter", """(float[2,3,3] x, int64[2] at) => (float[2,5,2] y)
<float[2,5,6] c, float[3,6] w, float[6,2] v>
{ h = MatMul(x, w)  a = TensorScatter <axis = 1> (c, h, at)  y = MatMul(a, v) }""",
               {"w:1": "6 exact"}, opset=24, ir=11, feeds={"at": [0, 1]})


@pytest.mark.parametrize("case", [*ROWS, COLUMNS, SCATTER], ids=lambda c: c.name)
def test_operators(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(("body", "opset", "group"), [
    ("i = Constant <value = int64 {1}> ()  a = CumProd(h, i)  y = MatMul(a, v)", 26, "6 mixing"),
    ("i = Constant <value = int64 {0}> ()  a = CumProd(h, i)  y = MatMul(a, v)", 26, "6 exact"),
    ("a = BitCast <to = 6> (h)  b = BitCast <to = 1> (a)  y = MatMul(b, v)", 26, "6 exact"),
    ("a = SwiGLU(h, h)  y = MatMul(a, v)", 28, "6 exact"),
], ids=["CumProd", "CumProd over samples", "BitCast", "SwiGLU"])
def test_operators_newer_than_the_runtime(body: str, opset: int, group: str) -> None:
    if onnx.defs.onnx_opset_version() < opset:
        pytest.skip("this onnx does not know the operator")
    text = f"(float[2,3] x) => (float[2,2] y)\n<float[3,6] w, float[6,2] v>\n{{ h = MatMul(x, w)  {body} }}"
    assert_groups(coupling_of(build(text, opset, 12)), {"w:1": group})


ML = "(float[2,3] x) => (float[2,%d] y)\n<float[3,6] w>\n{ h = MatMul(x, w)  %s }"


@pytest.mark.parametrize(("width", "body", "expected"), [
    (6, "y = ai.onnx.ml.Scaler <offset = [1.0], scale = [2.0]> (h)", "6 pinned: are attributes"),
    (6, 'y = ai.onnx.ml.Normalizer <norm = "L2"> (h)', "6 pinned: are attributes"),
    (2, "i = Constant <value = int64[2] {1, 3}> ()  y = ai.onnx.ml.ArrayFeatureExtractor(h, i)",
     "6 pinned: are attributes"),
    (1, "y = ai.onnx.ml.LinearRegressor <coefficients = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]> (h)",
     "6 pinned: are attributes"),
], ids=["Scaler", "Normalizer", "ArrayFeatureExtractor", "LinearRegressor"])
def test_classical(width: int, body: str, expected: str) -> None:
    check_pinned(ML % (width, body), expected)


def check_pinned(text: str, expected: str) -> None:
    """The model is valid, and the group of six is as expected."""
    model = build(text, domains=["ai.onnx.ml"])
    onnx.checker.check_model(model)
    assert_groups(coupling_of(model), {"w:1": expected})


def test_element_by_element() -> None:
    text = """(float[2,3] x) => (float[2] y) <float[3,6] w>
    { h = MatMul(x, w)  a = ai.onnx.ml.Binarizer <threshold = 0.5> (h)  i = Constant <value = int64[1] {1}> ()
      y = ReduceSum <keepdims = 0> (a, i) }"""
    assert_groups(coupling_of(build(text, domains=["ai.onnx.ml"])), {"w:1": "6 exact"})


PARTS = """(float[2,3] x) => (float[2,2] y)
<float[3,6] w, float[4,2] v, float[2,2] u>
{{
  h = MatMul(x, w)  sizes = Constant <value = {sizes}> ()
  parts = SplitToSequence <axis = -1> (h, sizes)
  one = Constant <value = int64 {{1}}> ()  first = Constant <value = int64 {{{first}}}> ()
  a = SequenceAt(parts, first)  b = SequenceAt(parts, one)
  {end}
}}"""
EACH = {"w:1": "2 exact", "w:1#2": "2 exact", "w:1#3": "2 exact"}
SUM = "p = Concat <axis = 1> (a, b)  y = MatMul(p, v)"


@pytest.mark.parametrize("case", [
    Case("parts of a size", PARTS.format(sizes="int64 {2}", first="0", end=SUM), EACH),
    Case("counted from the end", PARTS.format(sizes="int64 {2}", first="-1", end=SUM), EACH),
    Case("sizes one by one", PARTS.format(sizes="int64[3] {2, 2, 2}", first="0", end=SUM), EACH),
    Case("parts that meet again", PARTS.format(sizes="int64 {2}", first="0", end="p = Add(a, b)  y = MatMul(p, u)"),
         {"w:1": "2 exact", "w:1#2": "2 exact"}),
    Case("another reader", PARTS.format(
        sizes="int64 {2}", first="0", end=f"n = SequenceLength(parts)  f = Cast <to = 1> (n)  z = Mul(b, f)  {SUM}"),
        dict.fromkeys(EACH, "2 pinned: works on sequences")),
], ids=lambda c: c.name)
def test_parts_of_a_sequence(case: Case) -> None:
    check(case)
