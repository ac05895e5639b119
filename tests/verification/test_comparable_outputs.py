"""Outputs that hide errors: a softmax, a choice."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.graph.operators import Postprocessing
from onnxprune.model.model import load
from onnxprune.verification.comparable_outputs import (
    MAX_COMPONENTS,
    outputs_at_many_positions,
    with_comparable_outputs,
    with_scores,
)
from onnxprune.verification.output_error import relative_errors
from tests.support.oracle import session

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,8,8] x) => (%s y)
{
  a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  c = Relu (a)
  s = Conv (c, w2)
  %s
}
"""
ENDS = {
    "map": ("int64[N,8,8]", "y = ArgMax <axis = 1, keepdims = 0> (s)"),
    "softmax first": ("int64[N,8,8]", "p = Softmax <axis = 1> (s) y = ArgMax <axis = 1, keepdims = 0> (p)"),
    "mask": ("bool[N,5,8,8]", "y = Greater (s, half)"),
    "moved": ("int32[N,64]", "m = ArgMax <axis = 1, keepdims = 0> (s) f = Flatten (m) y = Cast <to = 6> (f)"),
}


def built(output: str, nodes: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(NET % (output, nodes))
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (16, 3, 3, 3)), ("b1", (16,)), ("w2", (5, 16, 1, 1))):
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        )
    for name, array in (
        ("half", np.float32(0.5)),
        ("scales", np.float32([1, 1, 4, 4])),
        ("flat", np.int64([0, 10, 64])),
    ):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def net(end: str) -> onnx.ModelProto:
    return built(*ENDS[end])


@pytest.mark.parametrize("end", ENDS)
def test_a_choice_gives_way_to_its_scores(end: str) -> None:
    model = load(net(end))
    x = np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)
    expected = net(end)
    del expected.graph.output[:]
    expected.graph.output.append(onnx.ValueInfoProto(name="s"))
    s = session(expected).run(None, {"x": x})[0]
    copy, _ = with_comparable_outputs(model)
    got = session(copy.proto).run(None, {"x": x})[0]
    np.testing.assert_allclose(got - got.mean(1, keepdims=True), s - s.mean(1, keepdims=True), atol=1e-5)
    assert [o.name for o in model.proto.graph.output] == ["y"]


def test_outputs_of_floats_stay_as_they_are() -> None:
    model = load(net("map"))
    model.proto.graph.output.append(onnx.helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, None))
    assert with_scores(model) is model  # the scores are given out already


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_repair_sees_through_a_choice(end: str) -> None:
    model = net(end)
    x = np.random.default_rng(2).standard_normal((64, 3, 8, 8)).astype(np.float32)
    plain = onnxprune.prune(model, 0.5, repair="none")
    repaired = onnxprune.prune(model, 0.5, calib=[{"x": x[i : i + 8]} for i in range(0, 64, 8)])
    assert any(r.penalty is not None for r in repaired.report.repair)
    before, after = relative_errors(load(model), [load(plain.proto), load(repaired.proto)], [{"x": x}])
    assert 0 < after < before


@pytest.mark.parametrize(
    ("nodes", "name", "axis"),
    [
        ("y = ArgMax <axis = 1, keepdims = 0> (s)", "s", 1),
        ("y = ArgMax <axis = -3, keepdims = 0> (s)", "s", -3),
        ("t = Transpose <perm = [0, 2, 3, 1]> (s) y = ArgMax <axis = -1, keepdims = 0> (t)", "s", 1),
        (
            "t = Transpose <perm = [0, 2, 3, 1]> (s) d = Cast <to = 11> (t) y = ArgMax <axis = 3, keepdims = 0> (d)",
            "s",
            1,
        ),
        ("r = Resize <mode = 'linear'> (s, , scales) y = ArgMax <axis = 1, keepdims = 0> (r)", "s", 1),
        ("f = Flatten <axis = 2> (s) y = ArgMax <axis = 1, keepdims = 0> (f)", "f", 1),
    ],
)
def test_what_chooses_the_largest_is_compared_by_class(nodes: str, name: str, axis: int) -> None:
    """As scores of a softmax are: a class of few positions counts as much as the background."""
    model = load(built("int64[N,a,b]", nodes.replace("'", '"')))
    view, (component,) = with_comparable_outputs(model)
    assert [o.name for o in view.proto.graph.output] == [name]
    assert (component.name, component.scores, component.axis) == (name, Postprocessing.SOFTMAX, axis)
    assert component.output == "y"


@pytest.mark.parametrize("nodes", ["y = ArgMin <axis = 1, keepdims = 0> (s)", "y = Greater (s, half)"])
def test_another_choice_has_no_classes(nodes: str) -> None:
    kind = "bool[N,5,8,8]" if "Greater" in nodes else "int64[N,8,8]"
    _, (component,) = with_comparable_outputs(load(built(kind, nodes)))
    assert (component.name, component.scores) == ("s", None)


def test_a_report_on_a_map_of_class_ids_weights_classes_alike() -> None:
    """The small class is lost, the large one is not: most positions agree, and the mean over the classes does not."""
    model, other = net("map"), net("map")
    for proto, height in ((model, 20.0), (other, -20.0)):
        arrays = {t.name: onnx.numpy_helper.to_array(t).copy() for t in proto.graph.initializer}
        arrays["w1"][:], arrays["b1"][:], arrays["w2"][:] = 0, 1, 0
        arrays["w1"][0, 0, 1, 1], arrays["w2"][2, 0], arrays["w2"][1, 1] = 100.0, height, 25.0
        for tensor in proto.graph.initializer:
            tensor.CopyFrom(onnx.numpy_helper.from_array(arrays[tensor.name], tensor.name))
    x = np.zeros((20, 3, 8, 8), np.float32)
    x[:, 0, 0, 0] = 1
    seen = onnxprune.compare(model, other, calib={"x": x}).models[1].decisions
    assert seen is not None and (seen.output, seen.by_class) == ("y", True)
    assert seen.agreement.mean == pytest.approx(0.0)


ENLARGED = 't = Transpose <perm = [0, 1, 3, 2]> (s) r = Resize <mode = "linear"> (t, , scales) '
LARGE = {
    "scores": ("float[N,5,32,32]", "y = Identity (r)"),
    "moved": ("float[N,32,32,5]", "y = Transpose <perm = [0, 2, 3, 1]> (r)"),
    "choice": ("int64[N,32,32]", "m = Transpose <perm = [0, 2, 3, 1]> (r) y = ArgMax <axis = 3, keepdims = 0> (m)"),
}


def enlarging(output: str, nodes: str) -> onnx.ModelProto:
    return built(output, ENLARGED + nodes)


@pytest.mark.parametrize("end", LARGE)
def test_an_enlarged_map_gives_way_to_what_it_was_made_of(end: str) -> None:
    model = enlarging(*LARGE[end])
    copy, _ = with_comparable_outputs(load(model))
    x = np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)
    found = session(copy.proto).run(None, {"x": x})[0]
    assert found.shape == (4, 5, 8, 8)
    large = with_scores(load(model)).proto
    assert [o.name for o in large.graph.output] == (["s"] if end == "choice" else ["y"])  # what a user sees stays


def test_a_softmax_of_an_enlarged_map_gives_way_as_well() -> None:
    model = load(enlarging("float[N,5,32,32]", "y = Softmax <axis = 1> (r)"))
    copy, (component,) = with_comparable_outputs(model)
    x = np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)
    assert session(copy.proto).run(None, {"x": x})[0].shape == (4, 5, 8, 8)
    assert component.scores is Postprocessing.SOFTMAX and component.axis == 1


def head(pieces: str, features: int = 10) -> onnx.ModelProto:
    return built(
        f"float[N,64,{features}]",
        f"""
        boxes = Mul (s, half)
        t = Transpose <perm = [0, 2, 3, 1]> (s)
        p = Softmax <axis = 3> (t)
        q = Transpose <perm = [0, 3, 1, 2]> (p)
        k = Concat <axis = 1> ({pieces})
        r = Reshape (k, flat)
        y = Transpose <perm = [0, 2, 1]> (r)""",
    )


def test_what_is_concatenated_is_looked_at_piece_by_piece() -> None:
    """Boxes and scores; the scores before their softmax."""
    model = head("boxes, q")
    x = np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)
    copy, components = with_comparable_outputs(load(model))
    assert [(c.name, c.scores) for c in components] == [("boxes", None), ("t", Postprocessing.SOFTMAX)]
    boxes, scores = session(copy.proto).run(None, {"x": x})
    np.testing.assert_allclose(scores, 2 * boxes.transpose(0, 2, 3, 1), atol=1e-5)


@pytest.mark.slow
def test_a_long_chain_of_concatenations() -> None:
    """Each reads the one before twice: 2 ** 5000 pieces, if they were not the same."""
    model = head("boxes, q")
    last = "y"
    for i in range(5000):
        model.graph.node.append(onnx.helper.make_node("Concat", [last, last], [f"c{i}"], axis=2))
        last = f"c{i}"
    model.graph.output[0].name = last
    assert [o.name for o in with_comparable_outputs(load(model))[0].proto.graph.output] == ["boxes", "t"]


def test_pieces_that_are_many_stay_together() -> None:
    model = head(", ".join(f"s{i}" for i in range(MAX_COMPONENTS + 1)), 5 * (MAX_COMPONENTS + 1))
    for i in range(MAX_COMPONENTS + 1):
        model.graph.node.insert(3, onnx.helper.make_node("Neg", ["s"], [f"s{i}"]))
    assert [o.name for o in with_comparable_outputs(load(model))[0].proto.graph.output] == ["y"]


PRODUCTS = {
    "a product of probabilities": ("k = Sigmoid (s) o = Sigmoid (t) y = Mul (k, o)", ["k", "o"]),
    "a gate inside the network": ("k = Sigmoid (s) y = Mul (k, t)", ["y"]),
    "a shortcut": ("y = Add (s, t)", ["y"]),
    "a part of probabilities": ("k = Sigmoid (s) y = Slice (k, zero, one, one)", ["y"]),
}


@pytest.mark.parametrize("end", PRODUCTS)
def test_what_is_looked_at_of_products_and_sums(end: str) -> None:
    nodes, names = PRODUCTS[end]
    model = built("float[N,?,8,8]", "t = Conv (c, w2) " + nodes)
    for name, value in (("zero", 0), ("one", 1)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([value]), name))
    _, components = with_comparable_outputs(load(model))
    assert [c.name for c in components] == names
    scored = end.startswith("a p")
    assert all((c.scores is Postprocessing.SIGMOID) == scored for c in components)


@pytest.mark.parametrize(
    ("shape", "many"),
    [("N,10", False), ("N,1,10", False), ("N,80,4", True), ("N,T,10", True), ("N,5,8,8", True), ("N,5,1,1", False)],
)
def test_which_outputs_hold_many_positions(shape: str, many: bool) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> net (float[{shape}] x) => (float[{shape}] y) {{ y = Relu (x) }}'
    )
    assert outputs_at_many_positions(load(model)) == (["y"] if many else [])


def test_the_state_of_a_recurrent_layer_holds_one_value_a_sample() -> None:
    """Samples lie along its second axis."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[N,7] x, float[1,N,9] h) => (float[N,7] y, float[1,N,9] z)
        { y = Relu (x)  z = Relu (h) }"""
    )
    assert outputs_at_many_positions(load(model)) == []


def test_a_map_of_class_ids_holds_many_positions() -> None:
    assert outputs_at_many_positions(load(net("map"))) == ["y"]
    one_a_sample = built("int64[N,1]", "p = GlobalAveragePool (s) f = Flatten (p) y = ArgMax <axis = 1> (f)")
    assert outputs_at_many_positions(load(one_a_sample)) == []
    assert outputs_at_many_positions(load(built("int64[4]", "y = Shape (s)"))) == []
