"""Models of the tests of model files, and what is in them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.model.model import constants
from onnxprune.model.tensors import is_external, tensors

UNKNOWN_FIELD = b"\xba\x3e\x03abc"  # field 999, three bytes


KINDS = sorted(set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED, TensorProto.STRING})


def network(width=32, layers=3):
    """A chain of matrix products with weights of width * width * 4 bytes."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.standard_normal((width, width), "f"), f"w{i}") for i in range(layers)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(layers)]
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, ["N", width]) for i in (0, layers)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def decorated():
    """A model with something in every corner that a copy could lose."""
    proto = network()
    graph = proto.graph
    proto.metadata_props.add(key="author", value="somebody")
    proto.doc_string = "about the model"
    proto.training_info.add().initialization.node.append(helper.make_node("Constant", [], ["c"], value_float=1.0))
    proto.opset_import.add(domain="custom.domain", version=7)
    body = [helper.make_node("Relu", ["a"], ["b"])]
    proto.functions.append(
        helper.make_function("local", "Act", ["a"], ["b"], body, [helper.make_opsetid("", 17)], doc_string="f")
    )
    graph.node[0].doc_string = "about the node"
    graph.initializer[0].doc_string = "about the weight"
    graph.initializer[1].external_data.add(key="note", value="kept though the data is inline")
    annotation = graph.quantization_annotation.add(tensor_name="x1")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    values = numpy_helper.from_array(np.ones(2, "f"), "sparse")
    places = numpy_helper.from_array(np.array([1, 5]))
    graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [9]))
    graph.initializer.append(helper.make_tensor("typed", TensorProto.FLOAT, [600], np.arange(600.0)))
    graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"\xff"]))
    for message in (proto, graph, graph.node[0], graph.initializer[0]):
        message.MergeFromString(UNKNOWN_FIELD)
    return proto


def write_external(folder, proto=None, name="model.onnx", data="weights.bin"):
    path = folder / name
    onnx.save(proto or network(), path, save_as_external_data=True, location=data, size_threshold=0)
    return path


def values(model):
    return {name: model.array(t) for _, name, t in constants(model.proto)}


def data_of(path):
    """The one data file that a saved model refers to."""
    (location,) = {
        e.value
        for t in tensors(onnx.load(path, load_external_data=False))
        if is_external(t)
        for e in t.external_data
        if e.key == "location"
    }
    return path.with_name(location)


def files_in(folder):
    return sorted(p.name for p in folder.iterdir())


NESTED = """
<ir_version: 8, opset_import: ["" : 17]>
g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
    k = Constant <value = float[2] {3, 4}> ()
    s = Constant <value_float = 1.0> ()
    y, z = If (c) <
        then_branch = t () => (float[2] a, float[2] b) {
            a = If (c) <
                then_branch = tt () => (float[2] d) <float[2] w = {5, 6}> { d = Add (x, w) },
                else_branch = te () => (float[2] e) { e = Identity (x) }
            >
            b = Constant <value = float[2] {7, 8}> ()
        },
        else_branch = f () => (float[2] p, float[2] q) { p = Identity (x) q = Identity (k) }
    >
}
"""
