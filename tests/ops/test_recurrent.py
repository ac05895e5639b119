"""Recurrent networks: hidden units go with their gates and states."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ops.case import Case, build, check, coupling_of, group
from tests.support.lanes import spread

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}

NET = """(float[5,2,3] x) => (float[5,2,2] y, float[2,4] z)
<float[3,4] w, float[{d},{g},4] W, float[{d},{g},6] R, float[{e},2] v, float[6,4] u{weights}>
{{
  h = MatMul(x, w)
  s, t{last} = {op} <hidden_size = 6{attributes}> (h, W, R{inputs})
  p = Transpose <perm = [0, 2, 1, 3]> (s)
  shape = Constant <value = int64[3] {{5, 2, -1}}> ()
  q = Reshape(p, shape)
  y = MatMul(q, v)
  k = ReduceMax <axes = [0], keepdims = 0> (t)
  z = MatMul(k, u)
}}"""


def net(name: str, op: str, directions: int = 1, *, attributes: str = "", weights: str = "", inputs: str = "",
        last: str = "", **more: Any) -> Case:
    """A recurrent layer between two products, its last state in a third."""
    text = NET.format(op=op, d=directions, e=6 * directions, g=6 * GATES[op], attributes=attributes, weights=weights,
                      inputs=inputs, last=last)
    return Case(name, text, {"w:1": "4 exact", "W:1": "6 exact"}, opset=17, **more)


BOTH = ', direction = "bidirectional"'
CASES = [
    *(net(op, op) for op in GATES),
    *(net(f"{op} backwards", op, attributes=', direction = "reverse"') for op in GATES),
    *(net(f"{op} in both directions", op, 2, attributes=BOTH) for op in GATES),
    *(net(f"{op} with a bias", op, weights=f", float[1,{12 * g}] B", inputs=", B") for op, g in GATES.items()),
    *(net(f"{op} with a start", op, weights=f", float[1,{12 * g}] B, float[1,2,6] h0", inputs=", B, , h0")
      for op, g in GATES.items()),
    net("lengths of sequences", "GRU", weights=", int32[2] n", inputs=", , n", constants={"n": [5, 3]}),
    net("reset after the product", "GRU", attributes=", linear_before_reset = 1", weights=", float[1,36] B",
        inputs=", B"),
    net("peepholes and both starts", "LSTM", last=", c",
        weights=", float[1,48] B, float[1,2,6] h0, float[1,2,6] c0, float[1,18] P", inputs=", B, , h0, c0, P"),
    net("forget gate from the input gate", "LSTM", attributes=", input_forget = 1"),
    net("clipped", "LSTM", attributes=", clip = 0.5"),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", spread(CASES, 4), ids=lambda c: c.name)
def test_layers(case: Case) -> None:
    check(case)


SUM = """(float[5,2,3] x) => (float[5,1,2] y)
<float[1,{g},3] W, float[1,{g},6] R{weights}>
{{
  s = {op} <hidden_size = 6{attributes}> (x, W, R{inputs})
  y = ReduceL2 <axes = [3], keepdims = 0> (s)
}}"""


def summed(name: str, op: str, grade: str, *, attributes: str = "", weights: str = "", inputs: str = "") -> Case:
    """A sum over the hidden units: exact if a masked unit is zero all the way."""
    text = SUM.format(op=op, g=6 * GATES[op], attributes=attributes, weights=weights, inputs=inputs)
    return Case(name, text, {"W:1": f"6 {grade}"}, opset=17)


MIXED = "mixing: sums over"
SUMS = [
    *(summed(op, op, "exact") for op in GATES),
    summed("RNN of a sigmoid", "RNN", MIXED, attributes=', activations = ["Sigmoid"]'),
    summed("RNN of a rectifier", "RNN", "exact", attributes=', activations = ["Relu"]'),
    summed("LSTM whose gates alone are other", "LSTM", "exact",
           attributes=', activations = ["HardSigmoid", "Tanh", "Tanh"]'),
    summed("LSTM that gives a sigmoid", "LSTM", MIXED, attributes=', activations = ["Sigmoid", "Tanh", "Sigmoid"]'),
    summed("GRU of a sigmoid", "GRU", MIXED, attributes=', activations = ["Sigmoid", "Sigmoid"]'),
    summed("GRU with a start", "GRU", "exact", weights=", float[1,2,6] h0", inputs=", , , h0"),
]


@pytest.mark.parametrize("case", SUMS, ids=lambda c: c.name)
def test_zero_units(case: Case) -> None:
    check(case)


def test_batch_first() -> None:
    text = """(float[2,5,3] x) => (float[2,5,1,6] y)
    <float[1,18,3] W, float[1,18,6] R, float[6,6] v>
    {
      s = GRU <hidden_size = 6, layout = 1> (x, W, R)
      y = MatMul(s, v)
    }"""
    assert group(coupling_of(build(text, 17)), "W:1").units == 6


ZEROS = """(float[5,N,3] x) => (float[5,N,2] y)
<float[1,24,3] W, float[1,24,6] R, float[1,{g},6] U, float[1,{g},6] S, float[6,2] v, int64[1] one, int64[{k}] hidden>
{{
  shape = Shape(x)  n = Gather(shape, one)  full = Concat <axis = 0> (one, n, hidden)  zero = {zero}
  s, = LSTM <hidden_size = 6> (x, W, R, , , {first})  t = Squeeze(s, one)
  u, = {op} <hidden_size = 6> (t, U, S, , , {second})  w = Squeeze(u, one)  y = MatMul(w, v)
}}"""
STARTS = {
    "a shared start of zeros": ("ConstantOfShape(full)", "zero, zero", "zero", 1),
    "a shared start that is not zero is kept apart, too": (
        "ConstantOfShape <value = float[1] {0.5}> (full)", "zero, zero", "zero", 1,
    ),
    "a shared start that is expanded from one number": (
        "Constant <value = float {0.0}> ()  wide = Expand(zero, full)", "wide, wide", "wide", 1,
    ),
    "a shared start that is repeated, with an axis more": (
        """Constant <value = float[1,1] {0.5}> ()  twice = Concat <axis = 0> (n, hidden)  flat = Tile(zero, twice)
        nil = Constant <value = int64[1] {0}> ()  wide = Unsqueeze(flat, nil)""", "wide, wide", "wide", 1,
    ),
    "the starts of all layers in one tensor": (
        """Constant <value = int64[1] {2}> ()  every = Concat <axis = 0> (zero, n, hidden)
        filled = ConstantOfShape(every)  a, b = Split <axis = 0> (filled)""", "a, a", "b", 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
@pytest.mark.parametrize("start", spread(STARTS, 4))
def test_layers_that_share_a_computed_start_are_two_groups(start: str, op: str) -> None:
    zero, first, second, k = STARTS[start]
    text = ZEROS.format(op=op, g=6 * GATES[op], zero=zero, first=first, second=second, k=k)
    case = Case(f"{start}, {op}", text, {"W:1": "6 exact", "U:1": "6 exact"}, opset=17,
                constants={"one": 1, "hidden": 6})  # fmt: skip
    check(case)


def test_one_reader_of_computed_zeros_needs_no_copy() -> None:
    text = """(float[5,N,3] x) => (float[5,N,2] y)
        <float[1,24,3] W, float[1,24,6] R, float[6,2] v, int64[1] one, int64[1] hidden>
        { shape = Shape(x)  n = Gather(shape, one)  full = Concat <axis = 0> (one, n, hidden)
          zero = ConstantOfShape(full)  s, = LSTM <hidden_size = 6> (x, W, R, , , zero, zero)
          w = Squeeze(s, one)  y = MatMul(w, v) }"""
    case = Case("one reader", text, {"W:1": "6 exact"}, opset=17, constants={"one": 1, "hidden": 6})
    check(case)
    assert not coupling_of(case.model()).constant_cuts
