"""Groups stand in the order in which they run, under names that a person recognises, with the nodes they touch."""

from __future__ import annotations

import onnx
import pytest

import onnxprune
from onnxprune.coupling.group_names import says_something
from onnxprune.coupling.groups import Grade
from tests.ops.case import build
from tests.support.paths import MODELS


def free(model: onnx.ModelProto) -> list[onnxprune.coupling.groups.Group]:  # type: ignore[name-defined]
    return [g for g in onnxprune.analyze(model).groups if g.grade == Grade.EXACT]


NET = """(float[N,3] x) => (float[N,2] y) <float[5,2] {last}, float[3,4] {first}, float[4] {bias}, float[4,5] {middle}>
    {{ a = MatMul(x, {first})  b = Add(a, {bias})  c = Relu(b)  d = MatMul(c, {middle})  y = MatMul(d, {last}) }}"""


def net(first: str, bias: str = "beta", middle: str = "middle", last: str = "last") -> onnx.ModelProto:
    model = build(NET.format(first="first", bias="bias", middle="middle", last="last"))
    names = {"first": first, "bias": bias, "middle": middle, "last": last}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.name = f"/block/{node.output[0]}"
        node.input[:] = [names.get(name, name) for name in node.input]
    return model


def test_groups_are_in_execution_order_whatever_that_of_the_file() -> None:
    assert [g.name for g in free(net("first"))] == ["first:1", "middle:1"]


@pytest.mark.parametrize(
    ("first", "bias", "name"),
    [
        ("encoder.weight", "encoder.bias", "encoder.weight:1"),
        ("onnx::MatMul_17", "encoder.bias", "encoder.bias:0"),
        ("val_3", "onnx::Add_4", "/block/a"),
        ("17", "18", "/block/a"),
    ],
)
def test_a_number_is_no_name(first: str, bias: str, name: str) -> None:
    assert free(net(first, bias))[0].name == name


def test_a_bias_of_another_layer_lends_no_name() -> None:
    """The vector must be read right behind the first layer, and not by the next one."""
    model = net("val_1", "val_2", middle="val_3", last="named")
    assert [g.name for g in free(model)] == ["/block/a", "/block/d"]


def test_without_node_names_the_constant_remains() -> None:
    model = net("val_1", "val_2")
    for node in model.graph.node:
        node.name = ""
    assert free(model)[0].name == "val_1:1"


def test_nodes_are_those_that_read_what_is_sliced_in_order() -> None:
    first, second = free(net("first"))
    assert (first.nodes, second.nodes) == (["/block/a", "/block/b", "/block/d"], ["/block/d", "/block/y"])


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda p: p.stem)
def test_names_of_exported_models_say_something(path: object) -> None:
    """Of PyTorch's two exporters, Keras and scikit-learn: what is open to pruning has a name of a person or a node."""
    analysis = onnxprune.analyze(path)  # type: ignore[arg-type]
    opened = [g for g in analysis.groups if g.grade == Grade.EXACT]
    nodes = {n.proto.name for n in analysis.coupling.graph.nodes}
    for group in opened:
        name = group.name.split("#")[0]
        assert name in nodes or says_something(name.rpartition(":")[0]), group.name
    assert len({g.name for g in analysis.groups}) == len(analysis.groups)


def test_only_and_ignore_take_the_shown_names() -> None:
    """What is shown can be copied into --only."""
    model = net("val_1", "val_2")
    shown = free(model)[0].name
    result = onnxprune.prune(model, 0.5, only=f"^{shown}$", repair="none", time=False)
    assert [g.name for g in result.report.groups if g.removed] == [shown]
