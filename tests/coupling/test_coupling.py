"""Groups: what is tied lives and dies together, with a grade and with reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxprune
from onnxprune.coupling.groups import Grade
from onnxprune.ops import registry
from onnxprune.ops.op import Op
from onnxprune.planning.fingerprint import fingerprint
from tests.ops.case import Case, assert_groups, build, check, coupling_of, group, random_feeds
from tests.support import oracle

CASES = [
    Case(
        "graph inputs and outputs stay",
        "(float[N,3] x) => (float[N,6] y) <float[3,6] w> { y = MatMul(x, w) }",
        {"w:0": "3 pinned: graph input 'x'", "w:1": "6 pinned: graph output 'y'"},
    ),
    Case(
        "an inner value that is returned stays",
        """(float[N,3] x) => (float[N,2] y, float[N,6] h)
        <float[3,6] w, float[6,2] v> { h = MatMul(x, w)  y = MatMul(h, v) }""",
        {"w:1": "6 pinned: graph output 'h'"},
    ),
    Case(
        "a length that is returned stays",
        """(float[N,3] x) => (float[N,2] y, int64[2] s)
        <float[3,6] w, float[6,2] v> { h = MatMul(x, w)  s = Shape(h)  y = MatMul(h, v) }""",
        {"w:1": "6 pinned: the graph returns its length"},
    ),
    Case(
        "residual",
        """(float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[6,3,1,1] w, float[8,6,1,1] a, float[6,8,1,1] b, float[2,6,1,1] v>
        { h = Conv(x, w)  p = Conv(h, a)  r = Relu(p)  q = Conv(r, b)  s = Add(h, q)  y = Conv(s, v) }""",
        {"w:0": "6 exact", "a:0": "8 exact"},
    ),
    Case(
        "residual with the graph's input",
        """(float[N,6,4,4] x) => (float[N,2,4,4] y)
        <float[8,6,1,1] a, float[6,8,1,1] b, float[2,6,1,1] v>
        { p = Conv(x, a)  r = Relu(p)  q = Conv(r, b)  s = Add(x, q)  y = Conv(s, v) }""",
        {"a:0": "8 exact", "a:1": "6 pinned: graph input 'x'"},
    ),
    Case(
        "concatenation",
        """(float[N,3,4,4] x) => (float[N,2,4,4] y) <float[6,3,1,1] w, float[5,3,1,1] u, float[2,11,1,1] v>
        { h = Conv(x, w)  k = Conv(x, u)  c = Concat <axis = 1> (h, k)  y = Conv(c, v) }""",
        {"w:0": "6 exact", "u:0": "5 exact"},
    ),
    Case(
        "a dense block",
        """(float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[6,3,1,1] w, float[4,6,1,1] u, float[4,10,1,1] t, float[2,14,1,1] v>
        { h = Conv(x, w)  k = Conv(h, u)  c = Concat <axis = 1> (h, k)  l = Conv(c, t)  d = Concat <axis = 1> (c, l)
          y = Conv(d, v) }""",
        {"w:0": "6 exact", "u:0": "4 exact", "t:0": "4 exact"},
    ),
    Case(
        "depthwise",
        """(float[N,3,4,4] x) => (float[N,2,4,4] y) <float[6,3,1,1] w, float[6,1,3,3] d, float[2,6,1,1] v>
        { h = Conv(x, w)  k = Conv <group = 6, pads = [1, 1, 1, 1]> (h, d)  y = Conv(k, v) }""",
        {"w:0": "6 exact"},
    ),
    Case(
        "shared weights tie",
        """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,6] s, float[6,2] v>
        { a = MatMul(x, w)  b = MatMul(a, s)  r = Relu(b)  c = MatMul(r, s)  y = MatMul(c, v) }""",
        {"w:1": "6 exact"},
    ),
    Case(
        "a weight that is shared between two inputs",
        """(float[N,3] x, float[N,3] z) => (float[N,2] y)
        <float[3,6] w, float[6,2] v> { a = MatMul(x, w)  b = MatMul(z, w)  c = Sub(a, b)  d = Abs(c)  y = MatMul(d, v) }""",
        {"w:1": "6 exact"},
    ),
    Case(
        "weights behind Transpose",
        """(float[N,3] x) => (float[N,2] y) <float[6,3] w, float[6,2] v>
        { t = Transpose(w)  h = MatMul(x, t)  y = MatMul(h, v) }""",
        {"w:0": "6 exact"},
    ),
    Case(
        "weights behind Reshape",
        """(float[N,3,4,4] x) => (float[N,2,4,4] y) <float[18] w, float[2,6,1,1] v, int64[4] s>
        { t = Reshape(w, s)  h = Conv(x, t)  y = Conv(h, v) }""",
        {"w:0": "6 exact"},
        constants={"s": [6, 3, 1, 1]},
    ),
    Case(
        "weights behind Identity and Cast",
        """(float[N,3] x) => (float[N,2] y) <float16[3,6] w, float[6,2] v>
        { i = Identity(w)  t = Cast <to = 1> (i)  h = MatMul(x, t)  y = MatMul(h, v) }""",
        {"w:1": "6 exact"},
    ),
    Case(
        "weights held by Constant nodes",
        """(float[N,3] x) => (float[N,2] y) <float[3,2] v>
        { w = Constant <value = float[2,3] {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}> ()  t = Transpose(w)
          m = MatMul(x, v)  h = MatMul(m, w)  y = MatMul(h, t) }""",
        {"w:1": "3 exact", "w:0": "2 pinned: graph output"},
    ),
    Case(
        "an unknown operator pins what it touches and no more",
        """(float[N,3] x) => (float[N,2] y, float[N,6] z)
        <float[3,6] w, float[3,8] u, float[8,2] v> { h = MatMul(x, w)  k = MatMul(x, u)  y = MatMul(k, v)  i = Range(a, b, c)
          z = Mul(h, i) }""".replace("float[8,2] v>", "float[8,2] v, float a, float b, float c>"),
        {"u:1": "8 exact", "w:1": "6 pinned: makes it"},
        constants={"a": 0, "b": 6, "c": 1},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_removal_equals_masking(case: Case) -> None:
    check(case)


UNKNOWN = """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,8] u, float[8,2] v>
    { h = MatMul(x, w)  k = own.Op(h)  p = MatMul(h, u)  y = MatMul(p, v) }"""


def test_an_operator_without_a_rule_pins_what_it_touches() -> None:
    coupling = coupling_of(build(UNKNOWN, domains=["own"]))
    assert_groups(coupling, {"w:1": "6 pinned: no rule for own::Op", "u:1": "8 exact"})
    assert group(coupling, "w:1").reasons == ["no rule for own::Op"]


def test_an_unknown_standard_operator_is_named_without_a_domain() -> None:
    model = build(UNKNOWN, domains=["own"])
    model.graph.node[1].domain = ""
    assert group(coupling_of(model), "w:1").reasons == ["no rule for Op"]


@pytest.fixture
def own_rule() -> Iterator[None]:
    """A caller's rule for an operator of its own."""

    @onnxprune.rule("Op", domain="own")
    def op(op: Op) -> None:
        """Element by element."""
        for axis in op.input(0).axes():
            op.tie(axis, op.output().axis(axis.position), zero=True)

    yield
    registry.forget("Op", domain="own")


@pytest.mark.usefixtures("own_rule")
def test_a_rule_of_ones_own() -> None:
    model = build(
        """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,2] v, float[N,6] k>
        { h = MatMul(x, w)  k = own.Op(h)  y = MatMul(k, v) }""",
        domains=["own"],
    )
    model.graph.value_info.append(helper.make_tensor_value_info("k", 1, ["N", 6]))
    assert_groups(coupling_of(model), {"w:1": "6 exact"})
    pruned, _, _ = oracle.prune_and_mask(model)
    assert {t.name: list(t.dims) for t in pruned.graph.initializer} == {"w": [3, 3], "v": [3, 2]}


def test_the_rule_is_gone_again() -> None:
    assert registry.find("own", "Op", 1) is None


def refuses(op: Op) -> None:
    op.norm_scale(op.input(0))
    op.quantised(op.input(0), op.input(0), None, 0)
    op.tie(op.input(0).axis(1), op.output().axis(1))
    raise ValueError("late")


def misspelt(op: Op) -> None:
    op.tye(op.input(0).axis(0), op.output().axis(0))  # type: ignore[attr-defined]


def too_few(op: Op) -> None:
    op.tie(op.input(0).axis(0))  # type: ignore[call-arg]


def asserts(op: Op) -> None:
    assert op.type == "Other", "my assert"


@pytest.mark.parametrize("function", [refuses, misspelt, too_few, asserts])
def test_a_rule_that_fails_pins_its_node_and_nothing_else(
    function: Callable[[Op], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it raises; what it stated before counts no more, and a fault of the rule is logged."""
    registry.rule("Op", domain="own")(function)
    model = build(
        """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,4] v, float[4,2] u, float[N,6] k>
        { h = MatMul(x, w)  k = own.Op(h)  l = MatMul(k, v)  r = Relu(l)  y = MatMul(r, u) }""",
        domains=["own"],
    )
    model.graph.value_info.append(helper.make_tensor_value_info("k", 1, ["N", 6]))
    try:
        coupling = coupling_of(model)
    finally:
        registry.forget("Op", domain="own")
    assert_groups(coupling, {"v:1": "4 exact"})
    assert "could not be analysed" in group(coupling, "w:1").reasons[0]
    assert not coupling.ties.norm_scales and not coupling.ties.quantised
    assert bool(caplog.records) == (function is not refuses)


def test_a_malformed_node_is_left_whole() -> None:
    model = build(CASES[3].text)
    model.graph.node[1].input.pop()  # a convolution without a weight
    coupling = coupling_of(model)
    assert all(g.grade == Grade.PINNED for g in coupling.groups if g.name in ("w:0", "a:0"))
    assert any("could not be analysed" in r or "rank unknown" in r for r in group(coupling, "w:0").reasons)


def test_a_shared_vector_is_split_where_its_readers_part() -> None:
    """One bias for two layers of the same width says nothing about whether their channels belong together."""
    model = build("""(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6] b, float[6,6] u, float[6,2] v>
        { h = Gemm(x, w, b)  r = Relu(h)  k = Gemm(r, u, b)  s = Tanh(k)  y = MatMul(s, v) }""")
    assert_groups(coupling_of(model), {"w:1": "6 exact", "u:1": "6 exact"})
    assert oracle.assert_equivalent(model, random_feeds(model)) == 6
    pruned, _, _ = oracle.prune_and_mask(model)
    biases = [n.input[2] for n in pruned.graph.node if n.op_type == "Gemm"]
    assert len(set(biases)) == 2 and "b" in biases


def test_both_uses_of_a_parted_vector_are_in_the_plan() -> None:
    model = build(
        """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6] b, float[6,6] u, float[6,2] v>
        { h = Gemm(x, w, b)  r = Relu(h)  k = Gemm(r, u, b)  s = Tanh(k)  y = MatMul(s, v) }""",
        constants={"w": [[10, 20, 30, 40, 50, 60]] * 3, "u": [[60, 50, 40, 30, 20, 10]] * 6},
    )
    made = onnxprune.plan(onnxprune.analyze(model), 0.5)
    ((copy, original),) = made.split.items()
    assert original == "b" and copy != "b"
    assert made.removed["b"] == {"0": made.removed["w"]["1"]}
    assert made.removed[copy] == {"0": made.removed["u"]["1"]}
    assert (made.removed["b"], made.removed[copy]) == ({"0": [0, 1, 2]}, {"0": [3, 4, 5]})


def test_initializers_that_are_inputs_are_resized_there_too() -> None:
    model = build(
        "(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,2] v> { h = MatMul(x, w)  y = MatMul(h, v) }", 8, 3
    )
    for t in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)))
    onnx.checker.check_model(model, full_check=True)
    assert oracle.assert_equivalent(model, random_feeds(model)) == 3
    pruned, _, _ = oracle.prune_and_mask(model)
    stated = {i.name: [d.dim_value or d.dim_param for d in i.type.tensor_type.shape.dim] for i in pruned.graph.input}
    assert stated == {"x": ["N", 3], "w": [3, 3], "v": [3, 2]}


def test_only_float_like_constants_make_groups() -> None:
    """What is computed from whole numbers alone is not worth pruning."""
    model = build(
        "(int64[N,3] x) => (int64[N,2] y) <int64[3,6] w, int64[6,2] v> { h = MatMul(x, w)  y = MatMul(h, v) }"
    )
    assert coupling_of(model).groups == []


def test_slices_say_what_a_unit_owns() -> None:
    found = group(coupling_of(CASES[5].model()), "u:0")
    owned = {(s.value.key, s.axis): s.indices.tolist() for s in found.slices}
    assert owned == {("u", 0): [[i] for i in range(5)], ("v", 1): [[6 + i] for i in range(5)]}


def test_groups_have_names_of_their_own() -> None:
    model = build(
        """(float[N,3] x) => (float[N,2] y) <float[3,9] w, float[4,2] u, float[5,2] v>
        { h = MatMul(x, w)  p, q = Split <axis = 1, split = [4, 5]> (h)  a = MatMul(p, u)  b = MatMul(q, v)
          y = Add(a, b) }""",
        11,
    )
    assert [g.name for g in coupling_of(model).groups if g.grade == Grade.EXACT] == ["w:1", "w:1#2"]


def test_reasons_are_few() -> None:
    lines = "  ".join(f"y{i} = ArgMax <axis = 1, keepdims = 0> (h)" for i in range(9))
    outputs = ", ".join(f"int64[N] y{i}" for i in range(9))
    model = build(f"(float[N,3] x) => ({outputs}) <float[3,6] w> {{ h = MatMul(x, w)  {lines} }}")
    assert len(group(coupling_of(model), "w:1").reasons) == 5


def test_the_analysis_reads_no_weight() -> None:
    """External tensors that are not there do not matter."""
    model = build(CASES[3].text)
    for t in model.graph.initializer:
        dims = list(t.dims)
        t.ClearField("raw_data")
        t.data_location = onnx.TensorProto.EXTERNAL
        t.external_data.add(key="location", value="nowhere.bin")
        assert dims == list(t.dims)
    from onnxprune.coupling.coupling import analyze
    from onnxprune.graph.graph import Graph

    assert_groups(analyze(Graph(model)), CASES[3].groups)


def test_mixing_channels_are_exact_for_nobody() -> None:
    """A group that mixes really changes its survivors: masking and removal part there."""
    model = build(
        "(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,2] v> "
        "{ h = MatMul(x, w)  e = Softmax <axis = 0> (h)  s = Softmax(e)  y = MatMul(s, v) }"
    )
    found = group(coupling_of(model), "w:1")
    assert found.grade == Grade.MIXING
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    x = random_feeds(model)["x"]
    shares = np.exp(x @ weights["w"])
    whole = np.exp(shares / shares.sum(0))
    masked = whole / whole.sum(1, keepdims=True)
    less = whole[:, 1:] / whole[:, 1:].sum(1, keepdims=True)
    assert np.abs(masked[:, 1:] @ weights["v"][1:] - less @ weights["v"][1:]).max() > 1e-3


def test_shape_operands_may_be_external_data(tmp_path: Path) -> None:
    """Small tensors are read with the model, wherever they are: a plan fits either form."""
    model = build("""(float[N,6] x) => (float[1,N,2] y) <float[6,8] w, float[8,2] v>
        { h = MatMul(x, w)  r = Unsqueeze(h, where)  y = MatMul(r, v) }""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "where"))
    path = tmp_path / "outside.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, path, save_as_external_data=True, location="outside.data", size_threshold=0)
    outside, inside = onnxprune.analyze(path), onnxprune.analyze(model)
    assert [(g.name, g.grade, g.units) for g in outside.groups] == [(g.name, g.grade, g.units) for g in inside.groups]
    assert any(g.grade == Grade.EXACT for g in outside.groups)
    assert fingerprint(outside.model.proto) == fingerprint(inside.model.proto)
