"""Calibration where numbers or models are awkward: large offsets, samples that are not finite, layers that read
constants, other types."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxprune
from onnxprune.model.model import load
from onnxprune.sparsity.solvers import inverse_factor
from onnxprune.statistics.covariance import Centred
from onnxprune.statistics.moments import Moments
from onnxprune.verification.output_error import relative_errors

WAYS: list[dict[str, Any]] = [
    {"ratio": 0.5},
    {"target": {"macs": 0.6}},
    {"pattern": "2:4"},
    {"pattern": "weights=0.5", "global_ranking": True},
]


def net(
    rng: np.random.Generator,
    body: str,
    shape: str,
    kind: type[np.floating[Any]] = np.float32,
    **weights: tuple[int, ...],
) -> onnx.ModelProto:
    letter = {np.float32: "float", np.float16: "float16"}[kind]
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        net ({letter}[{shape}] x) => ({letter}[N,M] y) {{ {body} }}""")
    for name, size in weights.items():
        array = (rng.standard_normal(size) / np.sqrt(np.prod(size[1:]))).astype(kind)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def convolutions(rng: np.random.Generator, kind: type[np.floating[Any]] = np.float32) -> onnx.ModelProto:
    made = net(
        rng,
        "a = Conv <pads = [1, 1, 1, 1]> (x, w1) b = Clip (a, low, high) c = Conv <pads = [1, 1, 1, 1]> (b, w2)"
        "d = Relu (c) e = GlobalAveragePool (d) f = Flatten (e) y = Gemm <transB = 1> (f, w3)",
        "N,4,8,8",
        kind,
        w1=(16, 4, 3, 3),
        w2=(16, 16, 3, 3),
        w3=(6, 16),
    )
    for name, value in {"low": 0.0, "high": 6.0}.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, kind), name))
    return made


def test_moments_with_a_large_mean(rng: np.random.Generator) -> None:
    """The standard deviation is 1e-5 of the mean, so that E[x^2] - E[x]^2 cancels in float32."""
    x = (1000 + 0.01 * rng.standard_normal((2, 40_000, 5))).astype(np.float32)
    exact = np.stack([np.cov(g.astype(np.float64).T, bias=True) for g in x])
    found = Centred.of(x)
    np.testing.assert_allclose(found.mean, x.mean(axis=1, dtype=np.float64), rtol=1e-7)
    np.testing.assert_allclose(found.covariance, exact, atol=1e-7)
    np.testing.assert_allclose(found.cross(x[..., :2])[0], exact[:, :, :2], atol=1e-7)
    joined = Centred.of(x[:, :15_000]).joined(Centred.of(x[:, 15_000:]), x)
    np.testing.assert_allclose(joined.mean, found.mean, rtol=1e-7)
    np.testing.assert_allclose(joined.covariance, exact, atol=1e-7)
    parts = [Moments.of(x[:, :15_000]), Moments.of(x[:, 15_000:])]
    whole = parts[0] + parts[1]
    np.testing.assert_allclose([whole.covariance(g) for g in range(2)], exact, atol=1e-7)


def test_moments_skip_rows_that_are_not_finite(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((2, 50, 3)).astype(np.float32)
    bad = rows.copy()
    bad[0, 7, 1], bad[1, 20, 0] = np.nan, np.inf
    found, expected = Moments.of(bad), Moments.of(np.delete(rows, [7, 20], axis=1))
    assert found.count == 48
    np.testing.assert_array_equal(found.gram, expected.gram)
    np.testing.assert_array_equal(found.zeros, expected.zeros)


def test_a_slightly_indefinite_gram_matrix_is_accepted() -> None:
    gram = np.ones((8, 8)) - 1e-9 * np.eye(8)
    upper = inverse_factor(gram.copy(), damp=0)
    assert np.isfinite(upper).all() and np.array_equal(upper, np.triu(upper))


@pytest.mark.slow
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("offset", [0, 3000])
def test_inputs_that_hardly_vary(how: dict[str, Any], offset: float, rng: np.random.Generator) -> None:
    x = (offset + rng.standard_normal((40, 4, 8, 8))).astype(np.float32)
    made = onnxprune.prune(convolutions(rng), calib={"x": x}, **how)
    assert made.report.verified and np.isfinite(made.report.calibration.relative_error)


@pytest.mark.slow
@pytest.mark.parametrize("how", WAYS)
def test_samples_that_are_not_finite(how: dict[str, Any], rng: np.random.Generator) -> None:
    """They are skipped, and the result is as good as without them."""
    model = convolutions(rng)
    good, new = rng.standard_normal((2, 64, 4, 8, 8)).astype(np.float32)
    bad = good.copy()
    bad[:8, 0, 3, 3] = np.nan
    pruned = [onnxprune.prune(model, calib={"x": x}, **how).proto for x in (good, bad)]
    errors = relative_errors(load(model), [load(p) for p in pruned], [{"x": new}])
    assert errors[1] < 2 * errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", WAYS)
def test_half_precision(how: dict[str, Any], rng: np.random.Generator) -> None:
    """The bounds of a Clip between two layers are float16 too."""
    x = rng.standard_normal((40, 4, 8, 8)).astype(np.float16)
    made = onnxprune.prune(convolutions(rng, np.float16), calib={"x": x}, **how)
    assert made.report.verified and any(r.penalty is not None for r in made.report.repair)


@pytest.mark.slow
@pytest.mark.parametrize("how", WAYS)
def test_layers_with_constant_inputs_are_repaired(how: dict[str, Any], rng: np.random.Generator) -> None:
    """As in models with a learned layer over position embeddings: it is refitted as well."""
    model = net(
        rng,
        "p = MatMul (places, v1) q = Relu (p) r = MatMul (q, v2)"
        "a = MatMul (x, w1) b = Add (a, r) c = Relu (b) y = MatMul (c, w2)",
        "N,8",
        places=(1, 4),
        v1=(4, 16),
        v2=(16, 24),
        w1=(8, 24),
        w2=(24, 6),
    )
    x: NDArray[np.float32] = rng.standard_normal((200, 8)).astype(np.float32)
    made = onnxprune.prune(model, calib={"x": x}, **how)
    assert made.report.verified and "r" in {r.layer for r in made.report.repair}


@pytest.mark.slow
def test_zeros_without_any_observed_layer(rng: np.random.Generator) -> None:
    """A weight with several readers belongs to no layer."""
    model = net(rng, "a = MatMul (x, w) b = Relu (a) y = MatMul (b, w)", "N,8", w=(8, 8))
    x = rng.standard_normal((20, 8)).astype(np.float32)
    made = onnxprune.prune(model, calib={"x": x}, pattern="weights=0.5", global_ranking=True)
    assert made.report.zeroed == {"w": pytest.approx(0.5)}


@pytest.mark.slow
@pytest.mark.parametrize("how", WAYS)
def test_a_new_bias_has_the_type_of_the_layer_and_a_unique_name(how: dict[str, Any], rng: np.random.Generator) -> None:
    """The bias that is added to a convolution has its compute type and a unique name."""
    model = net(
        rng,
        "v = Cast <to = 1> (w2) a = Conv <pads = [1, 1, 1, 1]> (x, w1) b = Relu (a) c = Conv (b, v)"
        "d = Mul (c, c_bias) e = GlobalAveragePool (d) y = Flatten (e)",
        "N,4,8,8",
        w1=(16, 4, 3, 3),
        c_bias=(6, 1, 1),
    )
    w2 = (rng.standard_normal((6, 16, 3, 3)) / 12).astype(np.float16)
    model.graph.initializer.append(onnx.numpy_helper.from_array(w2, "w2"))
    x = (1 + rng.standard_normal((40, 4, 8, 8))).astype(np.float32)
    made = onnxprune.prune(model, calib={"x": x}, **how)
    assert made.report.verified
    (conv,) = (n for n in made.proto.graph.node if n.output[0] == "c")
    (bias,) = (t for t in made.proto.graph.initializer if t.name == conv.input[2])
    assert bias.data_type == onnx.TensorProto.FLOAT and bias.name != "c_bias"


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {"pattern": "weights=0.6"},
        {"pattern": "2:4", "only": ["."]},
        {"pattern": "weights=0.6", "global_ranking": True},
        {"pattern": "weights=0.6", "repair": "data-free"},
    ],
)
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_zeros_of_recurrent_layers_are_kept_by_the_repair(
    kind: str, how: dict[str, Any], rng: np.random.Generator
) -> None:
    """Refitted weights have exactly the zeros that the report and the plan list."""
    gates = {"LSTM": 4, "GRU": 3}[kind]
    model = net(
        rng,
        f"h, last = {kind} <hidden_size = 16> (x, w, r, b) s = Squeeze (h, one) q = ReduceMean <axes = [0]> (s)"
        "t = Squeeze (q, zero) y = MatMul (t, v)",
        "12,N,8",
        w=(1, 16 * gates, 8),
        r=(1, 16 * gates, 16),
        b=(1, 32 * gates),
        v=(16, 6),
    )
    for name, place in {"one": 1, "zero": 0}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([place]), name))
    x = rng.standard_normal((12, 100, 8)).astype(np.float32)
    made = onnxprune.prune(model, calib={"x": x}, **how)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in made.proto.graph.initializer}
    assert {"w", "r"} <= set(made.report.zeroed)
    for name, share in made.report.zeroed.items():
        assert (arrays[name] == 0).mean() == pytest.approx(share, abs=1e-3)
        assert share == pytest.approx(0.5 if "only" in how else 0.6, abs=0.02 if not how.get("across") else 0.4)
    assert onnxprune.apply(made.plan, model).report.zeroed.keys() == made.report.zeroed.keys()
