"""Gradients that would lack a part are none; and where formulas are no numbers, or saturate."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.gradients import losses
from onnxprune.gradients.differentiate import differentiate
from onnxprune.gradients.optimizer import RelativeAdam, channel_sizes
from onnxprune.graph.operators import Postprocessing
from onnxprune.losses.label_loss import label_loss
from onnxprune.model.model import Model
from onnxprune.ops.gradients.writer import Writer
from onnxprune.verification.comparable_outputs import Component
from tests.gradients.test_differentiate import gradients
from tests.ops.case import build
from tests.support.finite_differences import evaluator


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "(float[2,3] x) => (float[2,3] z) <float[3] w>"
            "{ a = Mul(x, w) h = Cast <to = 10> (a) i = Mul(h, h) j = Cast <to = 1> (i) z = Add(a, j) }",
            "another precision",
        ),
        (
            "(float[2,3] x) => (float[2,3] z) <float[3,3] w, uint8[2,3] k>"
            "{ a = MatMul(x, w) s = ReduceMax <keepdims = 0> (a) d = DequantizeLinear(k, s) z = Add(a, d) }",
            "the scale of",
        ),
        (
            "(float[2,3] x) => (float[2,3] z) <float[3,3] w, float[3] s, float[3] b>"
            "{ a = MatMul(x, w) y, m = LayerNormalization(a, s, b) z = Mul(y, m) }",
            "does not cover output number 1",
        ),
        (
            "(float[1,2,3] x) => (float[4,2,5] y) <float[4,3,5] w, float[1,1,3] k>"
            '{ a = Mul(x, k) y = Einsum <equation = "bij,bjk->bik"> (a, w) }',
            "stretches an axis",
        ),
    ],
)
def test_a_gradient_that_lacks_a_part_is_none(text: str, says: str) -> None:
    variable = "k" if "Einsum" in text else "w"
    made = differentiate(Model(build(text)), ["y" if "Einsum" in text else "z"], [variable])
    assert not made.gradients and says in made.reasons[variable]


def test_ids_and_conditions_carry_nothing() -> None:
    """What is chosen by a comparison, or looked up by a rank, is no part that is lacking."""
    text = """(double[2,3] x) => (double[2,3] z) <double[3] w, double nought>
        { a = Mul(x, w) p = Greater(a, nought) q = Neg(a) z = Where(p, a, q) }"""
    made = differentiate(Model(build(text, constants={"nought": 0.0})), ["z"], ["w"])
    assert not made.reasons


def test_a_power_of_nought() -> None:
    """The slope of a constant is nothing, also where the base is 0."""
    text = "(double[2,3] x) => (double[2,3] y) <double[3] n> { y = Pow(x, n) }"
    made = differentiate(Model(build(text, constants={"n": [0.0, 1.0, 2.0]})), ["y"], ["x"])
    found = gradients(made, {"x": np.zeros((2, 3)), made.seeds["y"]: np.ones((2, 3))})
    np.testing.assert_array_equal(found["x"], [[0, 1, 0]] * 2)


def test_scores_that_are_surely_wrong_are_still_learnt_from() -> None:
    model = build("(float[N,1] x, float[N,1] t) => (float[N,1] y) { y = Add(x, t) }")
    write = Writer(model)
    name = losses.binary_cross_entropy_of_scores(write, "x", "t")
    model.graph.node.extend(write.nodes)
    model.graph.initializer.extend(write.constants)
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, [1]))
    made = differentiate(Model(model), [name], ["x"])
    x, t = np.array([[-40.0], [18.0]], np.float32), np.array([[1.0], [0.0]], np.float32)
    feeds = {"x": x, "t": t, made.seeds[name]: np.ones(1, np.float32)}
    (found,) = evaluator(made.model.proto).run([made.gradients["x"]], feeds)
    np.testing.assert_allclose(found, [[-1.0], [1.0]], atol=1e-3)


def test_channels_that_grow_and_layers_that_begin_at_zero_move() -> None:
    """Scattered zeros are a pattern and stay; those of whole channels are none."""
    grown = np.ones((4, 6), np.float32)
    grown[:, 3:] = 0
    scattered = np.ones((4, 6), np.float32)
    scattered[np.arange(4), np.arange(4)] = 0
    weights = {"grown": grown, "scattered": scattered, "empty": np.zeros((4, 6), np.float32)}
    optimizer = RelativeAdam(weights, {name: channel_sizes(w, 0) for name, w in weights.items()})
    optimizer.step({name: np.ones_like(w) for name, w in weights.items()}, 0.1)
    assert (optimizer.weights["grown"] != 0).all() and (optimizer.weights["empty"] != 0).all()
    assert ((optimizer.weights["scattered"] == 0) == (scattered == 0)).all()


def test_squares_of_probabilities_are_not_those_of_scores() -> None:
    labels = np.full((5, 3), 1 / 3, np.float32)
    assert (
        label_loss(None, [Component("s", Postprocessing.SOFTMAX)], [np.zeros((1, 3), np.float32)], labels).kind
        == "cross-entropy"
    )
    with pytest.raises(Exception, match="fit no output"):
        label_loss("mse", [Component("s", Postprocessing.SOFTMAX)], [np.zeros((1, 3), np.float32)], labels)


def test_one_hot_labels_in_the_layout_of_the_output() -> None:
    """Classes before positions, as in a segmentation."""
    ids = np.random.default_rng(0).integers(0, 3, (5, 4, 4))
    one_hot = np.moveaxis(np.eye(3, dtype=np.float32)[ids], -1, 1)
    output = np.zeros((1, 3, 4, 4), np.float32)
    found = [label_loss(None, [Component("s", None)], [output], labels) for labels in (ids, one_hot)]
    assert {one.kind for one in found} == {"cross-entropy"}
    np.testing.assert_array_equal(found[0].targets, found[1].targets)
    with pytest.raises(Exception, match="fit no output"):
        label_loss("mse", [Component("s", None)], [np.zeros((1, 3, 4), np.float32)], np.zeros((5, 4, 3), np.float32))
