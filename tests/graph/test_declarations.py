"""Models that state what cannot be: the rest of them is pruned, or one line says what is wrong."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.errors import InputError
from onnxprune.pipeline.kept_indices import kept_indices
from tests.support.oracle import session

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[2,3,8,8] x) => (float[2,4,8,8] y)
{
  a = Conv <pads = [1, 1, 1, 1]> (x, w1)
  b = Relu (a)
  c = Conv (b, w2)
  d = Relu (c)
  y = Conv (d, w3)
}
"""


def net() -> onnx.ModelProto:
    model = onnx.parser.parse_model(NET)
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (16, 3, 3, 3)), ("w2", (16, 16, 1, 1)), ("w3", (4, 16, 1, 1))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype("f"), name))
    return model


def x(count: int = 8) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 2, 3, 8, 8)).astype("f")


@pytest.mark.slow
@pytest.mark.parametrize("repair", ["none", "data-free", "calibrated"])
def test_a_layer_whose_output_is_declared_with_another_width(repair: str) -> None:
    """onnxruntime warns of it and runs the model: it is pruned where nothing depends on what is declared."""
    model = net()
    model.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, (2, 5, 8, 8)))
    calib = [{"x": one} for one in x()] if repair == "calibrated" else None
    result = onnxprune.prune(model, 0.5, repair=repair, calib=calib)
    assert result.report.verified
    assert session(result.proto).run(None, {"x": x()[0]})[0].shape == (2, 4, 8, 8)


def test_a_layer_whose_output_is_declared_with_fewer_axes() -> None:
    model = net()
    model.graph.node.append(helper.make_node("Conv", ["b", "w2"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (16,)))  # of rank 4 in fact
    coupling = onnxprune.analyze(model).coupling
    assert kept_indices(coupling, np.zeros(coupling.classes.elements, dtype=bool)).layers == {"a", "c", "y"}


def whole(model: onnx.ModelProto, *names: str) -> bool:
    """Whether pruning leaves some weights as they are."""
    result = onnxprune.prune(model, 0.5, repair="none", verify=False)
    before, after = ({t.name: t.SerializeToString() for t in m.graph.initializer} for m in (model, result.proto))
    return all(before[name] == after[name] for name in names)


def test_groups_of_an_axis_of_two_lengths() -> None:
    """The choice between groups and places within them is none where neither has as many indices as the axis."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3,4,4] x) => (float[2,3] y) {
            a = Conv <group = 3> (x, w1)  f = Flatten (a)  y = Gemm <transB = 1> (f, w2, x) }""")
    for name, shape in (("w1", (12, 1, 1, 1)), ("w2", (3, 192))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, "f"), name))
    assert whole(model, "w1")


@pytest.mark.slow
def test_shapes_beyond_64_bits() -> None:
    """A length that no integer of a model holds is no length: it is not passed on to shape inference."""
    model = net()
    huge = numpy_helper.from_array(np.array([2**40], "q"), "huge")
    model.graph.initializer.append(huge)
    model.graph.node.extend(
        onnx.parser.parse_graph("""g (int64[1] huge, float[2,4,8,8] y) => (float[A,B] z)
        { p = Mul (huge, huge) s = Concat <axis = 0> (p, p) e = ConstantOfShape (s) z = Identity (e) }""").node
    )
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["A", "B"]))
    result = onnxprune.prune(model, 0.5, verify=False)
    assert {len(t.dims) and t.dims[0] for t in result.proto.graph.initializer if t.name == "w1"} == {8}


def test_a_product_of_lengths_beyond_64_bits() -> None:
    model = net()
    model.graph.node.extend(
        onnx.parser.parse_graph("""g (float[2,4,8,8] y) => (float[A] z)
        { e = Expand (y, far)  z = Flatten <axis = 4> (e) }""").node
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**31, 1, 2**31, 1, 2**31, 1], "q"), "far"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["A", "B"]))
    result = onnxprune.prune(model, 0.5, verify=False)
    assert {t.dims[0] for t in result.proto.graph.initializer if t.name == "w1"} == {8}


def test_an_input_of_no_known_type() -> None:
    model = net()
    model.graph.input[0].type.tensor_type.elem_type = 99
    with pytest.raises(InputError, match="'x' is of no type that is known"):
        onnxprune.prune(model, 0.5, calib=[{"x": one} for one in x()])


@pytest.mark.parametrize("group", [0, -1])
def test_a_convolution_of_no_groups(group: int) -> None:
    """What cannot be analysed is left whole, and why is told."""
    model = net()
    model.graph.node[2].attribute.append(helper.make_attribute("group", group))
    result = onnxprune.prune(model, 0.5, verify=False)
    assert [t.SerializeToString() for t in result.proto.graph.initializer if t.name == "w2"] == [
        t.SerializeToString() for t in model.graph.initializer if t.name == "w2"
    ]
    reasons = {reason for g in result.report.groups if g.name.startswith("w2") for reason in g.pinned}
    assert len(reasons) == 1 and reasons.pop().startswith("Conv 'c' ")
