"""What holds together passes, however odd it is; `test_errors` has what does not."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.model.model import load
from onnxprune.model.tensors import encode, tensors
from onnxprune.model.topology import read_names, topological_order
from onnxprune.model.validation import check
from tests.support.bad_files import calls, dense


def parsed(body: str, functions: str = "") -> onnx.ModelProto:
    """A model from the nodes of its graph."""
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 18, "f" : 1]> g (float[2] x, bool c) => (float[2] y) {{ {body} }} {functions}'
    )


SHADOWED = """
    t = Relu (u)
    y = If (c) <then_branch = a () => (float[2] p) { t = Neg (x) p = Abs (t) },
                else_branch = b () => (float[2] q) { q = Identity (x) }>
    u = Neg (y)
"""
"""The inner t is not the outer one, which needs y: there is no cycle."""


@pytest.mark.parametrize(
    "proto",
    [
        parsed("y = Relu (h) h = Neg (x)"),
        parsed(SHADOWED),
        parsed("y = Clip (x, , )"),
        parsed("y = Identity (x) z = Relu (y)"),
        parsed(
            "y = If (c) <then_branch = a () => (float[2] x) {}, else_branch = b () => (float[2] q) { q = Neg (x) }>"
        ),
        parsed("y = f.F (x)", '<domain: "f", opset_import: ["" : 18]> F (x) => (y) { t = Neg (x) y = Abs (t) }'),
        calls(("F0", ["Relu", "Relu"]), ("F1", ["F0", "F0"]), ("F2", ["F1", "F1"])),
    ],
    ids=["order", "shadow", "absent", "unread", "captured", "function", "functions"],
)
def test_consistent_models_are_accepted(proto: onnx.ModelProto) -> None:
    """Nodes in any order, local names in subgraphs, omitted optional inputs."""
    check(proto)


@pytest.mark.parametrize(
    ("proto", "words"),
    [
        (parsed("y = f.F (x)", '<domain: "f", opset_import: ["" : 18]> F (a) => (b) { b = Neg (x) }'), "reads 'x'"),
        (
            parsed("y = f.F (x)", '<domain: "f", opset_import: ["" : 18]> F (a) => (b) { a = Neg (a) b = Abs (a) }'),
            "twice",
        ),
        (
            parsed("y = f.F (x)", '<domain: "f", opset_import: ["" : 18]> F (a) => (b) { t = Add (a, b) b = Abs (t) }'),
            "cycle",
        ),
        (
            parsed(
                "y = If (c) <then_branch = a () => (float[2] p) { p = Neg (q) }, "
                "else_branch = b () => (float[2] q) { q = Neg (x) }>"
            ),
            "reads 'q', which nothing defines",
        ),
        (
            parsed(
                "y = If (c) <then_branch = a () => (float[2] p) { p = Neg (y) }, "
                "else_branch = b () => (float[2] q) { q = Neg (x) }>"
            ),
            "cycle through If 'y'",
        ),
        (calls(("F0", ["F1"]), ("F1", ["F0"])), "calls itself"),
    ],
    ids=["outside", "twice", "cycle", "other branch", "own result", "each other"],
)
def test_subgraphs_and_functions_are_checked(proto: onnx.ModelProto, words: str) -> None:
    """The same checks apply to functions and branches."""
    with pytest.raises(ModelError, match=words):
        check(proto)


@pytest.mark.parametrize(
    ("kind", "what"), [("TENSOR", "tensor"), ("GRAPH", "graph"), ("SPARSE_TENSOR", "sparse tensor")]
)
def test_an_attribute_without_its_message_is_refused(kind: str, what: str) -> None:
    """Protobuf reads a missing message as an empty one."""
    proto = parsed("y = Relu (x)", '<domain: "f", opset_import: ["" : 18]> F <v> (x) => (y) { y = Neg (x) }')
    attribute = onnx.AttributeProto(name="value", type=onnx.AttributeProto.AttributeType.Value(kind), ref_attr_name="v")
    proto.functions[0].node[0].attribute.append(attribute)
    check(proto)
    attribute.ref_attr_name = ""
    proto.graph.node[0].attribute.append(attribute)
    with pytest.raises(ModelError, match=f"attribute 'value' of Relu 'y' holds no {what}$"):
        check(proto)


KINDS = sorted(set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED})


@pytest.mark.parametrize("kind", KINDS, ids=TensorProto.DataType.Name)
def test_the_size_of_inline_data_is_checked(kind: int) -> None:
    """The number of values, raw or in a typed field, must match the dimensions."""
    values = [b"a", b"b", b"c"] if kind == TensorProto.STRING else [1, 1, 1]
    forms = [helper.make_tensor("t", kind, [3], values)] if "FLOAT6" not in TensorProto.DataType.Name(kind) else []
    if kind != TensorProto.STRING:
        whole = numpy_helper.to_array(forms[0]) if forms else encode_ones(kind)
        forms.append(encode(whole, kind))
    for tensor in forms:
        proto = dense()
        proto.graph.initializer.append(tensor)
        proto.graph.initializer[-1].name = "t"
        check(proto)
        proto.graph.initializer[-1].dims[0] = 30
        with pytest.raises(ModelError, match=r"tensor 't' has .* of data; its type and dimensions ask for"):
            check(proto)


def encode_ones(kind: int) -> np.ndarray:
    """Three ones of a type that `make_tensor` does not know."""
    return np.ones(3).astype(helper.tensor_dtype_to_np_dtype(kind))


def chain(length: int) -> onnx.ModelProto:
    """A chain of nodes in reverse topological order."""
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in reversed(range(length))]
    ends = [helper.make_tensor_value_info(f"v{i}", TensorProto.FLOAT, [1]) for i in (0, length)]
    return helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]), ir_version=8)


@pytest.mark.slow
def test_a_hundred_thousand_nodes() -> None:
    """Ordering takes linear time and no recursion."""
    proto = chain(100_000)
    made = topological_order(proto.graph)
    assert [n.output[0] for n in made] == [f"v{i + 1}" for i in range(100_000)]

    def seconds(length: int) -> float:
        model = chain(length)
        start = time.process_time()
        load(model)
        return time.process_time() - start

    assert seconds(40_000) < 16 * seconds(10_000)  # the square would be that


def test_names_that_a_node_reads() -> None:
    """Names that a subgraph defines itself are not captured."""
    proto = parsed(SHADOWED)
    assert sorted(read_names(proto.graph.node[1])) == ["c", "x", "x"]
    assert [t.name for t in tensors(proto)] == []
