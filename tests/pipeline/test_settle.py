"""What a run without calibration data does of its own accord."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from tests.ops.case import build
from tests.support.commands import tiny
from tests.support.oracle import session
from tests.support.paths import MODELS


def error(original: onnx.ModelProto, pruned: onnx.ModelProto) -> float:
    """Squared error on smooth random pictures, as a share of the output's variance."""
    rough = np.random.default_rng(3).standard_normal((16, 3, 4, 4)).astype(np.float32)
    x = np.kron(rough, np.ones((4, 4), np.float32))
    a, b = (session(m).run(None, {"x": x})[0] for m in (original, pruned))
    return float(np.mean(np.square(a - b)) / a.var())


@pytest.mark.slow
def test_convolutions_are_scored_and_repaired_on_made_up_inputs() -> None:
    model = tiny()
    plain, auto = (onnxprune.prune(model, 0.5, repair=repair) for repair in ("none", "auto"))
    assert (plain.report.resolved.repair, plain.report.resolved.importance) == ("none", "l2")
    assert (auto.report.resolved.repair, auto.report.resolved.importance) == ("data-free", "obs")
    assert auto.report.unrepaired_because is None
    assert error(model, auto.proto) < 0.5 * error(model, plain.proto)


@pytest.mark.slow
def test_matrix_products_are_left_as_they_are() -> None:
    auto, plain = (onnxprune.prune(MODELS / "sk_mlp.onnx", 0.5, repair=repair) for repair in ("auto", "none"))
    assert "matrix products" in auto.report.unrepaired_because
    assert auto.proto == plain.proto
    assert auto.report.resolved.importance == "l2"


@pytest.mark.slow
def test_a_model_is_what_it_computes_not_what_it_has_most_of() -> None:
    """One convolution with nearly all multiply-accumulates, and three small products."""
    model = build("""(float[N,3,16,16] x) => (float[N,4] y) <float[16,3,3,3] a, float[16,16] b, float[16,16] c, float[16,4] d>
        { e = Conv(x, a)  f = Relu(e)  g = GlobalAveragePool(f)  h = Flatten(g)  i = MatMul(h, b)  j = MatMul(i, c)
          y = MatMul(j, d) }""")
    report = onnxprune.prune(model, 0.5).report
    assert report.resolved is not None and report.resolved.repair == "data-free"
    assert report.unrepaired_because is None


def test_without_layers_nothing_is_said_of_their_kind() -> None:
    model = build("""(float[N,8] x) => (float[N] y) <float[8] w, float[8] v>
        { a = Mul(x, w)  b = Relu(a)  c = Mul(b, v)  axes = Constant <value = int64[1] {1}> ()
          y = ReduceSum <keepdims = 0> (c, axes) }""")
    report = onnxprune.prune(model, 0.5, shrink="x").report
    assert report.unrepaired_because == "no layer has a weight of its own that could be refitted"


def test_what_does_not_run_is_pruned_without_repair() -> None:
    model = tiny()
    model.graph.node[1].op_type, model.graph.node[1].domain = "Unheard", "of"
    model.opset_import.add(domain="of", version=1)
    report = onnxprune.prune(model, 0.5).report
    assert report.repair is None
    assert "does not run on synthetic inputs" in report.unrepaired_because


@pytest.mark.slow
@pytest.mark.parametrize(("options", "repair"), [({"pattern": "weights=0.5"}, "none"), ({"ratio": 0.0}, "data-free")])
def test_nothing_is_repaired_where_no_channel_goes(options: dict[str, Any], repair: str) -> None:
    report = onnxprune.prune(tiny(), **options).report
    assert report.resolved.repair == repair
    assert report.repair is None


@pytest.mark.slow
def test_any_score_from_data_can_be_read_from_made_up_inputs() -> None:
    made = [
        onnxprune.prune(tiny(), 0.5, importance=name, repair="data-free").plan.removed
        for name in ("obs", "wanda", "apoz")
    ]
    assert made[0] != made[1] != made[2]
    with pytest.raises(onnxprune.InputError, match="needs calibration data"):
        onnxprune.prune(tiny(), 0.5, importance="wanda", repair="none")
