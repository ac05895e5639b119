"""After removal every node still fits: shapes that live in data follow, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.coupling.coupling import analyze
from onnxprune.edit.remove import Names, remove
from onnxprune.edit.resize import KeptLengths
from onnxprune.graph.graph import Graph
from onnxprune.model.model import load
from tests.ops.case import build, random_feeds
from tests.support import oracle


def pruned_of(model: onnx.ModelProto, ratio: float = 0.5) -> onnx.ModelProto:
    """The model without half of the units of each exact group; it must equal the masked one."""
    assert oracle.assert_equivalent(model, random_feeds(model), ratio) > 0
    return oracle.prune_and_mask(model, ratio)[0]


def constants(model: onnx.ModelProto) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t).tolist() for t in model.graph.initializer if t.data_type != 1}


def shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    return {t.name: list(t.dims) for t in model.graph.initializer}


def holding(model: onnx.ModelProto, op_type: str, position: int) -> list[list[int]]:
    """The values of a constant input of every node with an operator."""
    held = constants(model)
    return [held[n.input[position]] for n in model.graph.node if n.op_type == op_type]


FLAT = """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[3,6] u, float[6,2] v, float[6,2] t, int64[2] s>
    { h = MatMul(x, w)  k = MatMul(x, u)  p = Reshape(h, s)  q = Reshape(k, s)  a = MatMul(p, v)  b = MatMul(q, t)
      y = Add(a, b) }"""


def test_a_shape_constant_with_agreeing_readers_is_not_duplicated() -> None:
    new = pruned_of(build(FLAT, constants={"s": [-1, 6]}))
    assert [n.input[1] for n in new.graph.node if n.op_type == "Reshape"] == ["s", "s"]
    assert constants(new)["s"] == [-1, 3]


def test_a_shape_constant_with_disagreeing_readers_is_duplicated() -> None:
    model = build(FLAT, constants={"s": [-1, 6]})
    model.graph.output.append(helper.make_tensor_value_info("q", 1, ["N", 6]))  # keeps its six channels
    new = pruned_of(model)
    assert sorted(holding(new, "Reshape", 1)) == [[-1, 3], [-1, 6]]
    assert constants(new)["s"] == [-1, 6]  # the one that did not change keeps the name


TWO_WIDTHS = """(float[N,3] x) => (float[N,2] y) <float[3,8] w, float[3,8] u, float[8,2] v, float[8,2] t, float[8] s>
    { h = MatMul(x, w)  k = MatMul(x, u)  p = LayerNormalization(h, s)  q = LayerNormalization(k, s)  a = MatMul(p, v)
      b = MatMul(q, t)  y = Add(a, b) }"""


def test_a_weight_that_refilled_nodes_share_is_stored_with_their_zeros() -> None:
    """Nodes that are given zeros read the copies themselves, so that whoever compares files sees what they hold."""
    scale = np.arange(1, 9, dtype=np.float32)
    new = pruned_of(build(TWO_WIDTHS, constants={"s": scale.tolist()}))
    stored = {t.name: numpy_helper.to_array(t) for t in new.graph.initializer}
    read = [node.input[1] for node in new.graph.node if node.op_type == "LayerNormalization"]
    assert len(set(read)) == 2 and "s" in read
    for name in read:
        assert len(stored[name]) == 8 and np.isin(stored[name][:4], scale).all() and not stored[name][4:].any()


def test_a_shape_constant_that_is_an_output_is_kept() -> None:
    model = build(FLAT.replace("(float[N,2] y)", "(float[N,2] y, int64[2] s)"), constants={"s": [-1, 6]})
    new = pruned_of(model)
    assert constants(new)["s"] == [-1, 6]
    assert holding(new, "Reshape", 1) == [[-1, 3], [-1, 3]]


COMPUTED = """(float[N,S,3] x) => (float[N,S,2] y)
    <float[3,12] w, float[12,2] v, int64 nil, int64 one, int64[1] first, int64[2] tail, int64[1] all>
    { h = MatMul(x, w)  sh = Shape(h)  n = Gather(sh, nil)  l = Gather(sh, one)  nu = Unsqueeze(n, first)
      lu = Unsqueeze(l, first)  s = Concat <axis = 0> (nu, lu, tail)  r = Reshape(h, s)  q = Relu(r)
      z = Concat <axis = 0> (nu, lu, all)  f = Reshape(q, z)  y = MatMul(f, v) }"""


@pytest.mark.parametrize("last", [12, -1])
def test_computed_shapes_keep_their_free_entries(last: int) -> None:
    """The pruned model still runs at every batch and sequence length."""
    model = build(COMPUTED, constants={"nil": 0, "one": 1, "first": 0, "tail": [4, 3], "all": last})
    new, masked, count = oracle.prune_and_mask(model)
    assert count == 2  # of four the half
    for n, s in ((1, 1), (2, 5), (7, 3)):
        feeds = {"x": np.random.default_rng(n).standard_normal((n, s, 3)).astype(np.float32)}
        expected, got = (oracle.session(m).run(None, feeds)[0] for m in (masked, new))
        assert got.shape == (n, s, 2)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_shape_computed_from_the_pruned_value_needs_no_edit() -> None:
    """Reshape to Shape(h) of a pruned h needs no change."""
    model = build(
        """(float[N,3,4,4] x) => (float[N,2,4,4] y) <float[6,3,1,1] w, float[2,6,1,1] v, int64[3] s>
        { h = Conv(x, w)  sh = Shape(h)  f = Reshape(h, s)  r = Relu(f)  b = Reshape(r, sh)  y = Conv(b, v) }""",
        constants={"s": [0, 0, -1]},
    )
    new = pruned_of(model)
    assert [n.op_type for n in new.graph.node] == [n.op_type for n in model.graph.node]
    assert constants(new) == constants(model)


def test_a_length_used_as_a_number_keeps_its_value() -> None:
    """The 1 / sqrt(d) of attention, computed from a shape, must not change with d."""
    model = build(
        """(float[N,4,3] x) => (float[N,4,4] y) <float[3,6] q, float[3,6] k, int64 last>
        { a = MatMul(x, q)  b = MatMul(x, k)  t = Transpose <perm = [0, 2, 1]> (b)  s = Shape(a)  d = Gather(s, last)
          f = Cast <to = 1> (d)  r = Sqrt(f)  l = MatMul(a, t)  m = Div(l, r)  y = Softmax <axis = -1> (m) }""",
        constants={"last": -1},
    )
    assert shapes(pruned_of(model))["q"] == [3, 3]


def test_annotations_are_refreshed() -> None:
    model = onnx.shape_inference.infer_shapes(build(FLAT, constants={"s": [-1, 6]}))
    model.graph.value_info.append(helper.make_tensor_value_info("not_there", 1, [6]))
    new = pruned_of(model)
    stated = {v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in new.graph.value_info}
    assert [stated[name][-1] for name in ("h", "k", "p", "q")] == [3, 3, 3, 3]
    assert stated["a"][-1] == 2 and stated["not_there"] == [6]


def test_annotations_of_bodies_are_refreshed() -> None:
    model = build(
        """(float[N,3] x, bool flag) => (float[N,2] y) <float[3,6] w, float[6,6] p, float[6,2] v>
        { h = MatMul(x, w)
          z = If (flag) <then_branch = yes () => (float[N,6] t) <float[N,6] s> { s = MatMul(h, p)  t = Relu(s) },
                         else_branch = no () => (float[N,6] e) { e = Tanh(h) }>
          y = MatMul(z, v) }""",
        17,
    )
    body = next(a.g for a in model.graph.node[1].attribute if a.name == "then_branch")
    if not body.value_info:
        body.value_info.append(helper.make_tensor_value_info("s", 1, ["N", 6]))
    new = pruned_of(model)
    bodies = {a.name: a.g for a in new.graph.node[1].attribute}
    last = {
        v.name: v.type.tensor_type.shape.dim[-1].dim_value for g in bodies.values() for v in [*g.value_info, *g.output]
    }
    assert last == {"s": 3, "t": 3, "e": 3}


def test_removing_nothing_changes_nothing() -> None:
    model = load(build(FLAT, constants={"s": [-1, 6]}))
    before = model.proto.SerializeToString()
    coupling = analyze(Graph(model.proto))
    remove(model, coupling, np.zeros(coupling.classes.elements, dtype=bool))
    assert model.proto.SerializeToString() == before


def test_names_order_and_descriptions_are_kept() -> None:
    model = build(FLAT, constants={"s": [-1, 6]})
    for i, node in enumerate(model.graph.node):
        node.name, node.doc_string = f"node {i}", f"about {i}"
    for t in model.graph.initializer:
        t.doc_string = f"about {t.name}"
    model.graph.name, model.doc_string = "name", "doc"
    new = pruned_of(model)
    assert [n.SerializeToString() for n in new.graph.node] == [n.SerializeToString() for n in model.graph.node]
    assert [(t.name, t.doc_string, t.data_type) for t in new.graph.initializer] == [
        (t.name, t.doc_string, t.data_type) for t in model.graph.initializer
    ]
    assert (new.graph.name, new.doc_string, new.ir_version) == ("name", "doc", 8)
    assert new.opset_import == model.opset_import


def test_kept_values_are_unchanged_in_every_type() -> None:
    for kind in (TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16):
        name = {TensorProto.FLOAT16: "float16", TensorProto.DOUBLE: "double", TensorProto.BFLOAT16: "bfloat16"}[kind]
        model = load(
            build(
                f"({name}[N,3] x) => ({name}[N,2] y) <{name}[3,6] w, {name}[6,2] v> "
                "{ h = MatMul(x, w)  y = MatMul(h, v) }"
            )
        )
        old = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.proto.graph.initializer}
        coupling = analyze(Graph(model.proto))
        gone = np.zeros(coupling.classes.elements, dtype=bool)
        found = next(g for g in coupling.groups if g.name == "w:1")
        gone[found.channels[[0, 4]]] = True
        remove(model, coupling, gone)
        new = {t.name: t for t in model.proto.graph.initializer}
        assert new["w"].data_type == kind
        np.testing.assert_array_equal(numpy_helper.to_array(new["w"]).astype(np.float64), old["w"][:, [1, 2, 3, 5]])
        np.testing.assert_array_equal(numpy_helper.to_array(new["v"]).astype(np.float64), old["v"][[1, 2, 3, 5]])


def test_lengths() -> None:
    coupling = analyze(
        Graph(
            build("""(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,2] v>
        { h = MatMul(x, w)  y = MatMul(h, v) }""")
        )
    )
    gone = np.zeros(coupling.classes.elements, dtype=bool)
    h, y = coupling.graph.main.names["h"], coupling.graph.main.names["y"]
    gone[coupling.channels_of(h.axis(1))[[1, 2, 5]]] = True
    lengths = KeptLengths(coupling, gone)
    assert lengths.kept(h.axis(1)).tolist() == [0, 3, 4] and lengths.removed(h.axis(1)).tolist() == [1, 2, 5]
    assert (lengths.length(h.axis(1)), lengths.length(h.axis(0)), lengths.length(y.axis(1))) == (3, None, 2)
    assert [lengths.position(h.axis(1), i) for i in range(7)] == [0, 1, 1, 1, 2, 3, 3]
    assert (lengths.shape(h), lengths.shape(y)) == (["N", 3], ["N", 2])
    assert lengths.touches(h) and not lengths.touches(y)
    assert lengths.changed(h.axis(1)) and not lengths.changed(h.axis(0))


def test_new_names_are_unique() -> None:
    model = build("(float[N,3] x) => (float[N,3] y) <float[3] a> { b_1 = Add(x, a)  y = Relu(b_1) }")
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, "f"), "a_1"), numpy_helper.from_array(np.zeros(1, np.int64)), [3]
    )
    model.graph.sparse_initializer.append(sparse)
    names = Names(model, ["b_2"])
    assert [names.fresh("b"), names.fresh("b"), names.fresh("a"), names.fresh("x")] == ["b_3", "b_4", "a_2", "x_1"]


def test_before_ir_version_4_new_constants_are_nodes() -> None:
    """An initializer would be an input that callers have to feed."""
    model = build(FLAT, 9, 3, constants={"s": [-1, 6]})
    for t in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)))
    model.graph.output.append(helper.make_tensor_value_info("q", 1, ["N", 6]))
    new = pruned_of(model)
    assert [i.name for i in new.graph.input] == [i.name for i in model.graph.input]
    assert [t.name for t in new.graph.initializer] == [t.name for t in model.graph.initializer]
    made = next(n for n in new.graph.node if n.op_type == "Constant")
    assert numpy_helper.to_array(made.attribute[0].t).tolist() == [-1, 3]


def test_before_opset_9_a_new_shape_is_an_input_with_a_value() -> None:
    """Constant nodes support floating-point types only."""
    model = build(FLAT, 8, 3, constants={"s": [-1, 6]})
    for t in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)))
    model.graph.output.append(helper.make_tensor_value_info("q", 1, ["N", 6]))
    new = pruned_of(model)
    onnx.checker.check_model(new, full_check=True)
    assert sorted(holding(new, "Reshape", 1)) == [[-1, 3], [-1, 6]]
    assert {t.name for t in new.graph.initializer} == {i.name for i in new.graph.input} - {"x"}
