"""Kernels of onnxruntime and the nodes that they compute."""

from __future__ import annotations

from onnxprune.model.model import Model, load
from onnxprune.runtime.session import runnable
from onnxprune.timing.kernels import name_nodes, nodes_of_kernels
from onnxprune.verification.check import working_feeds
from tests.ops.case import build
from tests.support.paths import MODELS

CHAIN = """(float[1,3,8,8] x) => (float[1,10] y) <float[16,3,3,3] a, float[16,16,3,3] b, float[16,10] e> {
    p = Conv <pads = [1,1,1,1]> (x, a)  q = Relu (p)  r = Conv <pads = [1,1,1,1]> (q, b)
    v = GlobalAveragePool (r)  w = Flatten (v)  y = MatMul (w, e) }"""


def test_names_are_told_by_node_and_by_output() -> None:
    """Layout changes count to the kernel that follows, or to the last one."""
    model = build(CHAIN)
    name_nodes(model)
    kernels = [
        ("ReorderInput_1", 1.0),
        ("q_nchwc", 2.0),
        ("onnxprune_node_2_", 4.0),
        ("onnxprune_node_5_/fusion/", 8.0),
        ("ReorderOutput", 16.0),
    ]
    assert nodes_of_kernels(model, kernels) == {"q": 3.0, "r": 4.0, "y": 24.0}
    assert nodes_of_kernels(model, [("unknown", 1.0)]) == {}


def test_most_of_a_real_model_is_told() -> None:
    """What onnxruntime's profiler says of a network: its convolutions have times of their own, and nothing is lost."""
    model = load(MODELS / "pt_resnet_bn.onnx")
    name_nodes(model.proto)
    feeds, outputs = working_feeds(model)
    with runnable(Model(model.proto)) as ready:
        kernels = ready.profile(outputs, feeds, threads=1, runs=5, seconds=1.0)
    found = nodes_of_kernels(model.proto, kernels)
    assert sum(found.values()) > 0
    assert abs(sum(found.values()) - sum(time for _, time in kernels)) < 1e-12
    made = {name for node in model.proto.graph.node for name in node.output}
    assert set(found) <= made
    convolutions = sum(node.op_type == "Conv" for node in model.proto.graph.node)
    assert len(found) >= convolutions > 3
