"""Whole models: sums over consumers, free axes, and reasons where there is no gradient."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxprune.gradients.differentiate import GradientModel, differentiate
from onnxprune.model.model import Model
from onnxprune.ops import registry
from onnxprune.ops.gradients.node_gradient import NodeGradient
from tests.ops.case import build, random_feeds
from tests.support.finite_differences import evaluator, finite_differences

DOMAIN = "my.ops"
BLOCK = """(double[2,3,6,6] x) => (double[2,5] y)
    <double[4,3,3,3] w, double[4] b, double[4] s, double[4] o, double[4] km, double[4] posv, double[4,1,3,3] v,
     double[6,4,1,1] u, double[2,4,1,1] t, double[5,8] f, double[5] g>
    { c = Conv <pads = [1,1,1,1]> (x, w, b) n = BatchNormalization (c, s, o, km, posv) r = Relu(n)
      d = Conv <group = 4, pads = [1,1,1,1]> (r, v) a = Add(r, d) p = Conv(a, u) q = Conv(d, t) l = Sigmoid(q)
      j = Concat <axis = 1> (p, l) m = MaxPool <kernel_shape = [2,2], strides = [2,2]> (j)
      e = GlobalAveragePool(m) h = Flatten(e) z = Gemm <transB = 1> (h, f, g) y = LogSoftmax <axis = 1> (z) }"""
WEIGHTS = ["w", "b", "s", "o", "v", "u", "t", "f", "g", "x"]


def gradients(made: GradientModel, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = list(made.gradients)
    return dict(zip(names, evaluator(made.model.proto).run([made.gradients[n] for n in names], feeds), strict=True))


def fed(model: onnx.ModelProto, made: GradientModel, seeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    wanted = {i.name for i in made.model.proto.graph.input}
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name in wanted}
    return {**random_feeds(model), **weights, **{made.seeds[name]: seed for name, seed in seeds.items()}}


@pytest.mark.slow
def test_a_network_with_branches() -> None:
    model = build(BLOCK)
    seeds = {"y": np.random.default_rng(2).standard_normal((2, 5))}
    made = differentiate(Model(model), ["y"], WEIGHTS)
    got, wanted = (
        gradients(made, fed(model, made, seeds)),
        finite_differences(model, random_feeds(model), seeds, WEIGHTS),
    )
    assert set(got) == set(WEIGHTS)
    for name in WEIGHTS:
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("root", ["y = Sqrt(s)", "y = Pow(s, half)"])
def test_the_root_of_a_square_has_no_slope_at_nothing(root: str) -> None:
    """It is the absolute value of x w; frameworks say 0 / 0, which spoils the sums over all other samples as well."""
    text = "(float[4] x, float[4] w) => (float[4] y) <float half> { p = Mul(x, w) s = Mul(p, p) ROOT }"
    model = build(text.replace("ROOT", root), constants={"half": np.float32(0.5)})
    made = differentiate(Model(model), ["y"], ["w"])
    x, w = np.array([2, 0, -3, 1], np.float32), np.array([5, 7, 2, 0], np.float32)
    feeds = {"x": x, "w": w, made.seeds["y"]: np.ones(4, np.float32)}
    (found,) = onnxruntime.InferenceSession(made.model.proto.SerializeToString()).run([made.gradients["w"]], feeds)
    np.testing.assert_allclose(found, [2, 0, 3, 0], rtol=1e-5)


@pytest.mark.parametrize("opset", [9, 11, 13, 18])
def test_onnxruntime_runs_what_is_made(opset: int) -> None:
    """In every operator set: where axes, bounds and pads became inputs."""
    text = BLOCK.replace("double", "float")
    model, exact = build(text, opset), build(BLOCK, 18)
    made, double = (differentiate(Model(m), ["y"], WEIGHTS) for m in (model, exact))
    seeds = {"y": np.random.default_rng(2).standard_normal((2, 5))}
    session = onnxruntime.InferenceSession(made.model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    given = fed(model, made, {"y": seeds["y"].astype(np.float32)})
    wanted = gradients(double, fed(exact, double, seeds))
    for name in WEIGHTS:
        (array,) = session.run([made.gradients[name]], given)
        np.testing.assert_allclose(array, wanted[name], rtol=2e-4, atol=2e-5)


def test_free_axes_stay_free() -> None:
    text = """(float[N,3,H,W] x) => (float[N,4,P,Q] y) <float[4,3,3,3] w, float[4] b, float[4,4,1,1] u, float[4,1,3,3] v>
        { c = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w, b) r = Relu(c) d = Conv(r, u) e = Exp(d)
          y = Conv <group = 4, pads = [1,1,1,1]> (e, v) }"""
    model = build(text, 13)
    names = ["w", "b", "u", "v", "x"]
    made = differentiate(Model(model), ["y"], names)
    assert not made.reasons
    session = onnxruntime.InferenceSession(made.model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for n, h, w in ((1, 6, 6), (2, 7, 4)):
        x = np.random.default_rng(n).standard_normal((n, 3, h, w)).astype(np.float32)
        seed = np.ones((n, 4, -(-h // 2), -(-w // 2)), np.float32)
        static = onnx.ModelProto()
        static.CopyFrom(model)
        for info, shape in ((static.graph.input[0], x.shape), (static.graph.output[0], seed.shape)):
            for dim, length in zip(info.type.tensor_type.shape.dim, shape, strict=True):
                dim.dim_value = length
        fixed = differentiate(Model(static), ["y"], names)
        other = onnxruntime.InferenceSession(fixed.model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
        for name in names:
            feeds = {**fed(static, fixed, {"y": seed}), "x": x}
            (a,) = session.run([made.gradients[name]], feeds)
            (b,) = other.run([fixed.gradients[name]], feeds)
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_repetitions_that_only_the_run_tells() -> None:
    """Lengths and numbers of copies are free: each element gets the sum over its copies."""
    model = build("(double[N,3] x, int64[2] k) => (double[P,Q] y) { y = Tile(x, k) }")
    made = differentiate(Model(model), ["y"], ["x"])
    seed = np.random.default_rng(0).standard_normal((2 * 4, 3 * 3))
    got = gradients(made, {"x": np.ones((4, 3)), "k": np.array([2, 3]), made.seeds["y"]: seed})["x"]
    np.testing.assert_allclose(got, seed.reshape(2, 4, 3, 3).sum((0, 2)))


@pytest.mark.parametrize("shape", [(4, 3), (1, 3), (4, 1), (3,)])
def test_stretching_that_only_the_run_tells(shape: tuple[int, ...]) -> None:
    """Axes of other names may have length 1 or be equal: in onnxruntime too."""
    free = {2: "A,B", 1: "B"}[len(shape)]
    model = build(f"(double[N,M] x, double[{free}] b) => (double[P,Q] y) {{ y = Mul(x, b) }}")
    made = differentiate(Model(model), ["y"], ["b"])
    x, seed, b = (np.random.default_rng(i).standard_normal(s) for i, s in enumerate([(4, 3), (4, 3), shape]))
    feeds = {"x": x, "b": b, made.seeds["y"]: seed}
    stretched = tuple(i for i, length in enumerate((1, *shape)[-2:]) if length == 1)
    wanted = (x * seed).sum(stretched).reshape(shape)
    np.testing.assert_allclose(gradients(made, feeds)["b"], wanted)
    session = onnxruntime.InferenceSession(made.model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run([made.gradients["b"]], feeds)[0], wanted)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pooling_of_any_number_of_samples(op: str) -> None:
    text = f"(double[N,2,5,4] x) => (double[N,2,3,2] y) {{ y = {op} <kernel_shape = [3,2], strides = [2,2], pads = [1,0,1,0]> (x) }}"
    x, seed = (np.random.default_rng(i).standard_normal(s) for i, s in enumerate([(2, 2, 5, 4), (2, 2, 3, 2)]))
    found = []
    for batch in ("N", "2"):
        made = differentiate(Model(build(text.replace("N,", f"{batch},"))), ["y"], ["x"])
        found.append(gradients(made, {"x": x, made.seeds["y"]: seed})["x"])
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("node", "taken"),
    [
        ("Gather <axis = 1> (x, first)", np.s_[:, 0]),
        ("Gather <axis = 1> (x, some)", np.s_[:, [2, -1, 2]]),
        ("Slice (x, one, end, one)", np.s_[:, 1:]),
        ("Slice (x, last, end, one)", np.s_[:, -1:]),
        ("Slice (x, none, last, one)", np.s_[:, :-1]),
    ],
)
def test_parts_of_an_axis_whose_length_only_the_run_tells(node: str, taken: Any) -> None:
    """Each element gets the sum of what was taken of it."""
    numbers = {"first": 0, "some": [2, -1, 2], "one": [1], "last": [-1], "none": [0], "end": [2**31 - 1]}
    used = {name: numbers[name] for name in re.findall(r"\w+", node.split("(")[1]) if name != "x"}
    kinds = ", ".join(f"int64{'' if value == 0 else f'[{len(value)}]'} {name}" for name, value in used.items())
    rank = "[N,3]" if "first" in node else "[N,P,3]"
    model = build(f"(double[N,M,3] x) => (double{rank} y) <{kinds}> {{ y = {node} }}", constants=used)
    made = differentiate(Model(model), ["y"], ["x"])
    x = np.zeros((2, 5, 3))
    seed = np.random.default_rng(0).standard_normal(x[taken].shape)
    np.add.at(x, taken, seed)
    np.testing.assert_allclose(gradients(made, {"x": np.ones_like(x), made.seeds["y"]: seed})["x"], x)


def test_a_weight_that_two_nodes_read() -> None:
    model = build(
        "(double[2,3] x) => (double[2,3] y) <double[3,3] w> { a = MatMul(x, w) b = Tanh(a) y = MatMul(b, w) }"
    )
    seeds = {"y": np.ones((2, 3))}
    made = differentiate(Model(model), ["y"], ["w"])
    wanted = finite_differences(model, random_feeds(model), seeds, ["w"])
    np.testing.assert_allclose(gradients(made, fed(model, made, seeds))["w"], wanted["w"], rtol=1e-6)


def test_a_vector_that_two_nodes_read() -> None:
    """The graph takes it for one value a reader."""
    model = build("(double[2,3] x) => (double[2,3] y) <double[3] b> { a = Add(x, b) c = Tanh(a) y = Mul(c, b) }")
    seeds = {"y": np.ones((2, 3))}
    made = differentiate(Model(model), ["y"], ["b"])
    wanted = finite_differences(model, random_feeds(model), seeds, ["b"])
    np.testing.assert_allclose(gradients(made, fed(model, made, seeds))["b"], wanted["b"], rtol=1e-6)


def test_a_weight_in_a_constant_node() -> None:
    model = build(
        "(double[2,2] x) => (double[2,2] y) { w = Constant <value = double[2,2] {1.0, 2.0, 3.0, 4.0}> () y = MatMul(x, w) }"
    )
    made = differentiate(Model(model), ["y"], ["w"])
    assert "w" in {i.name for i in made.model.proto.graph.input}
    feeds = {**random_feeds(model), made.seeds["y"]: np.ones((2, 2)), "w": np.zeros((2, 2))}
    got = gradients(made, feeds)["w"]
    np.testing.assert_allclose(got, feeds["x"].T @ np.ones((2, 2)))


def test_the_gradient_of_a_computed_value() -> None:
    model = build("(double[2,3] x) => (double[2,3] y) { a = Exp(x) y = Mul(a, a) }")
    made = differentiate(Model(model), ["y"], ["a"])
    feeds = {**random_feeds(model), made.seeds["y"]: np.ones((2, 3))}
    np.testing.assert_allclose(gradients(made, feeds)["a"], 2 * np.exp(feeds["x"]))


STOPPED = """(double[2,3] x) => (double[2,3] y) <double[3,3] w, double[3,3] v, double[3,3] u>
    { a = MatMul(x, w) b = OPERATOR(a) c = MatMul(b, v) d = MatMul(x, u) y = Add(c, d) }"""


def test_what_no_rule_covers_stops_the_gradient_with_its_reason() -> None:
    made = differentiate(Model(build(STOPPED.replace("OPERATOR", "Hardmax"))), ["y"], ["w", "v", "u"])
    assert set(made.gradients) == {"v", "u"}
    assert made.reasons == {"w": "Hardmax has no gradient rule"}


def test_an_input_that_a_rule_does_not_cover_stops_no_other_one() -> None:
    text = """(float[1,2,3,3] x) => (float[1,2,6,6] y) <float[2,2,1,1] w, float[4] f = {1, 1, 2, 2}>
        { a = Conv(x, w) y = Resize<mode = "nearest">(a, , f) }"""
    made = differentiate(Model(build(text)), ["y"], ["w", "f"])
    assert set(made.gradients) == {"w"}
    assert made.reasons == {"f": "the gradient rule of Resize covers no input number 2"}


def test_an_incomplete_gradient_is_none() -> None:
    """One of the paths from the weight has no rule: what the other one gives is not the gradient."""
    text = "(double[2,3] x) => (double[2,3] y) <double[3,3] w> { a = MatMul(x, w) b = Hardmax(a) c = Tanh(a) y = Add(b, c) }"
    made = differentiate(Model(build(text)), ["y"], ["w"])
    assert not made.gradients and made.reasons == {"w": "Hardmax has no gradient rule"}


def test_what_no_output_depends_on() -> None:
    text = "(double[2,3] x) => (double[2,3] y, int64[2] z) <double[3,3] w> { a = MatMul(x, w) z = ArgMax<axis = 1, keepdims = 0>(a) y = Tanh(x) }"
    made = differentiate(Model(build(text)), ["y"], ["w"])
    assert made.reasons == {"w": "no output depends on it by operators that can be differentiated"}


def test_an_old_operator_set() -> None:
    made = differentiate(Model(build("(float[2,3] x) => (float[2,3] y) { y = Tanh(x) }", 6)), ["y"], ["x"])
    assert made.reasons == {"x": "opset 6 is older than 7"}


def test_an_unknown_value() -> None:
    with pytest.raises(LookupError, match="no value 'w'"):
        differentiate(Model(build("(float[2,3] x) => (float[2,3] y) { y = Tanh(x) }")), ["y"], ["w"])


@pytest.fixture
def outside() -> Iterator[None]:
    """Rules of a caller's own operators: one that works, one that fails half-way, and one that forgets an input."""

    @registry.gradient("Twice", domain=DOMAIN)
    def twice(g: NodeGradient) -> None:
        g.give(0, g.emit("Add", g.d(), g.d()))

    @registry.gradient("Broken", domain=DOMAIN)
    def broken(g: NodeGradient) -> None:
        g.give(0, g.emit("Neg", g.d()))
        raise ZeroDivisionError("oh")

    @registry.gradient("Forgets", domain=DOMAIN)
    def forgets(g: NodeGradient) -> None:
        g.emit("Neg", g.d())

    yield
    registry.forget("Twice Broken Forgets", domain=DOMAIN)


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        ("Broken", "the gradient rule of Broken failed: oh"),
        ("Forgets", "the gradient rule of Forgets covers no input number 0"),
    ],
)
def test_a_rule_that_fails_stops_the_gradient(operator: str, reason: str) -> None:
    text = f"""(double[2,3] x) => (double[2,3] y) <double[3,3] w> {{ a = MatMul(x, w) y = {DOMAIN}.{operator}(a) }}"""
    model = build(text, domains=[DOMAIN])
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.DOUBLE, [2, 3]))
    made = differentiate(Model(model), ["y"], ["w"])
    assert made.reasons == {"w": reason}
    assert not [n for n in made.model.proto.graph.node if n.op_type == "Neg"]


@pytest.mark.usefixtures("outside")
def test_a_rule_of_a_callers_own_operator() -> None:
    model = build(f"(double[2,3] x) => (double[2,3] y) {{ y = {DOMAIN}.Twice(x) }}", domains=[DOMAIN])
    made = differentiate(Model(model), ["y"], ["x"])
    assert set(made.gradients) == {"x"}


def test_half_precision_between_two_casts() -> None:
    """Its gradient is of single precision."""
    text = """(float[2,3] x) => (float[2,3] y) <float[3,3] w>
        { a = MatMul(x, w) h = Cast <to = 10> (a) b = Cast <to = 1> (h) y = Mul(b, b) }"""
    made = differentiate(Model(build(text)), ["y"], ["w"])
    session = onnxruntime.InferenceSession(made.model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x, w, seed = (
        np.random.default_rng(i).standard_normal(s).astype("f") for i, s in enumerate([(2, 3), (3, 3), (2, 3)])
    )
    (found,) = session.run([made.gradients["w"]], {"x": x, "w": w, made.seeds["y"]: 1e-6 * seed})
    np.testing.assert_allclose(found, 2e-6 * x.T @ (seed * (x @ w)), rtol=1e-2)


def test_upsample_whose_scales_are_an_attribute() -> None:
    """Of opset 7 and 8, which the reference evaluator does not compute."""
    node = "{ y = Upsample <scales = [1.0, 1.0, 2.0, 3.0]> (x) }"
    model = build(f"(float[1,2,3,2] x) => (float[1,2,6,6] y) {node}", opset=7)
    made = differentiate(Model(model), ["y"], ["x"])
    session = onnxruntime.InferenceSession(made.model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {"x": rng.random((1, 2, 3, 2), np.float32), made.seeds["y"]: rng.random((1, 2, 6, 6), np.float32)}
    wanted = feeds[made.seeds["y"]].reshape(1, 2, 3, 2, 2, 3).sum(axis=(3, 5))
    given = {name: feeds[name] for name in (i.name for i in session.get_inputs())}
    np.testing.assert_allclose(session.run([made.gradients["x"]], given)[0], wanted, rtol=1e-5)
