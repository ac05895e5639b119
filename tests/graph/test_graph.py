"""Names become values: scopes nest, constants are found wherever they are held."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.graph.graph import Graph
from onnxprune.graph.stated_types import dimension, tensor_type
from tests.ops.case import build

NESTED = """(float[N,3] x, bool flag) => (float[N,6] y) <float[3,6] w, float[6,6] p>
{
  h = MatMul(x, w)
  y = If (flag) <
    then_branch = yes () => (float[N,6] t) { s = MatMul(h, p)  t = Relu(s) },
    else_branch = no () => (float[N,6] t) { h2 = Neg(h)  t = Tanh(h2) }>
}"""


def test_a_captured_name_is_the_outer_value() -> None:
    graph = Graph(build(NESTED))
    owner = next(n for n in graph.nodes if n.op_type == "If")
    h = graph.main.names["h"]
    readers = [(node.op_type, node.scope.path) for node, _ in h.consumers]
    assert readers == [("MatMul", "y/then_branch"), ("Neg", "y/else_branch")]
    assert {name: body.outputs[0].producer.op_type for name, body in owner.bodies.items()} == {
        "then_branch": "Relu",
        "else_branch": "Tanh",
    }


def test_the_same_name_in_two_bodies_is_two_values() -> None:
    graph = Graph(build(NESTED))
    assert sorted(v.key for v in graph.values if v.name == "t") == ["y/else_branch|t", "y/then_branch|t"]
    assert len({v.key for v in graph.values}) == len(graph.values)


def test_a_body_comes_before_its_node() -> None:
    graph = Graph(build(NESTED))
    order = [n.op_type for n in graph.nodes]
    assert order == ["MatMul", "MatMul", "Relu", "Neg", "Tanh", "If"]
    assert [n.index for n in graph.nodes] == list(range(6))


def test_an_inner_name_hides_the_outer_one() -> None:
    inner = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["b"])],
        "inner",
        [],
        [helper.make_tensor_value_info("b", 1, [2])],
        [numpy_helper.from_array(np.ones(2, np.float32), "a")],
    )
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)]
    outer = helper.make_graph(
        nodes,
        "outer",
        [helper.make_tensor_value_info("c", 9, [])],
        [helper.make_tensor_value_info("y", 1, [2])],
        [numpy_helper.from_array(np.zeros(3, np.float32), "a")],
    )
    graph = Graph(helper.make_model(outer))
    keys = [n.inputs[0].key for n in graph.nodes if n.op_type == "Relu" and n.inputs[0] is not None]
    assert sorted(keys) == ["y/else_branch|a", "y/then_branch|a"]
    assert graph.main.names["a"].consumers == []


def test_absent_inputs_and_outputs_are_none() -> None:
    graph = Graph(build("(float[N,3] x) => (float[N,3] y) <float half> { y, mask = Dropout(x)  z = Clip(x, , half) }"))
    assert [v is None for v in graph.nodes[1].inputs] == [False, True, False]
    model = build("(float[N,4] x) => (float[N,2] y) { y, z = Split <axis = 1> (x) }")
    model.graph.node[0].output[1] = ""
    assert Graph(model).nodes[0].outputs[1] is None


def test_vectors_are_parted_and_matrices_are_not() -> None:
    model = build("""(float[N,3] x) => (float[N,6] y) <float[3,6] w, float[6] b>
        { p = MatMul(x, w)  q = MatMul(x, w)  r = Add(p, b)  s = Add(q, b)  y = Add(r, s) }""")
    graph = Graph(model)
    assert [len(v.consumers) for v in graph.constants() if v.key == "w"] == [2]
    assert [len(v.consumers) for v in graph.constants() if v.key == "b"] == [1, 1]


def test_a_vector_that_the_graph_returns_is_not_parted() -> None:
    model = build("(float[N,6] x) => (float[N,6] y, float[6] b) <float[6] b> { p = Add(x, b)  y = Add(p, b) }")
    graph = Graph(model)
    assert [len(v.consumers) for v in graph.values if v.key == "b"] == [2]


def test_constants_are_initializers_and_constant_nodes() -> None:
    model = build(
        "(float[N,2] x) => (float[N,2] y) <float[2] b> { c = Constant <value = float[2] {1.0, 2.0}> ()  d = Add(x, c)  y = Add(d, b) }"
    )
    graph = Graph(model)
    assert {v.key: v.shape for v in graph.constants()} == {"b": [2], "c": [2]}
    assert graph.main.names["c"].tensor is model.graph.node[0].attribute[0].t  # the proto is the truth


def test_initializers_that_are_inputs_too() -> None:
    """Before IR version 4 every initializer was listed among the inputs."""
    model = build("(float[N,3] x) => (float[N,6] y) <float[3,6] w> { y = MatMul(x, w) }", 8, 3)
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [3, 6]))
    graph = Graph(model)
    assert [v.name for v in graph.main.inputs] == ["x"]
    assert [v.key for v in graph.constants()] == ["w"]


def test_the_long_name_of_the_standard_domain() -> None:
    model = build("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    model.graph.node[0].domain = "ai.onnx"
    model.opset_import[0].domain = "ai.onnx"
    node = Graph(model).nodes[0]
    assert (node.domain, node.opset) == ("", 18)


def test_sparse_initializers_have_a_shape_and_no_tensor() -> None:
    model = build("(float[N,9] x) => (float[N,9] y) { y = Add(x, s) }")
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(2, np.float32), "s"), numpy_helper.from_array(np.array([1, 5])), [9]
    )
    model.graph.sparse_initializer.append(sparse)
    value = Graph(model).main.names["s"]
    assert (value.shape, value.tensor) == ([9], None)


def test_axes_are_numbered_without_gaps() -> None:
    graph = Graph(build(NESTED))
    count = graph.number_axes()
    ids = [axis.id for value in graph.values for axis in value.axes()]
    assert ids == list(range(count))
    assert graph.main.names["w"].axis(-1) == graph.main.names["w"].axis(1)


def test_attributes_are_decoded() -> None:
    node = Graph(
        build('(float[N,4,2,2] x) => (float[N,1,4,4] y) { y = DepthToSpace <blocksize = 2, mode = "CRD"> (x) }')
    ).nodes[0]
    assert (node.attribute("mode"), node.attribute("blocksize"), node.attribute("nothing", 7)) == ("CRD", 2, 7)
    assert node.label == "DepthToSpace 'y'"


def test_stated_types() -> None:
    assert tensor_type(helper.make_tensor_value_info("v", 1, ["N", 3, None])) == (["N", 3, None], 1)
    assert tensor_type(helper.make_tensor_value_info("v", 1, None)) == (None, 1)
    assert tensor_type(helper.make_tensor_sequence_value_info("v", 1, [3])) == (None, 0)
    assert dimension(onnx.TensorShapeProto.Dimension(dim_value=0)) == 0


def test_an_axis_that_a_value_lacks_is_refused_in_words() -> None:
    """Whether its rank is another one or unknown: it ends the analysis of a node with a reason that one can read."""
    graph = Graph(
        onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g (float[3] x) => (y) { y = Abs(x) }')
    )
    for name in ("x", "y"):
        with pytest.raises(LookupError, match=f"{name} has no axis 1"):
            _ = graph.main.names[name].axis(1).length
    assert graph.main.names["x"].axis(-1).length == 3
