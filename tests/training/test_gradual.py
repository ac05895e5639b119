"""Pruning while a model is trained: the schedule, what is zero, and that removal is what was trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxprune
from onnxprune.errors import InputError
from onnxprune.extensions.patterns import parse
from onnxprune.extensions.points import as_criterion
from onnxprune.model.model import load
from onnxprune.runtime.session import local_session
from onnxprune.training.gradual import RISE, ChannelPruner, GradualPruning, Ramp, ZeroPruner
from tests.ops.case import build
from tests.support.paths import MODELS
from tests.support.quantised_cases import made
from tests.support.quantised_models import VARIANTS

MODEL = str(MODELS / "sk_mlp.onnx")
TEST = np.load(MODELS / "digits_test_flat.npz")
LABELLED = {"input": TEST["input"], "labels": TEST["labels"]}
NET = """(float[N,3,6,6] x) => (float[N,2] y) <float[8,3,3,3] w, float[8] b, float[8,8,3,3] u, float[2,8] m, float[2] c>
    { h = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu(h)  k = Conv <pads = [1,1,1,1]> (r, u)  e = Relu(k)
      g = GlobalAveragePool(e)  f = Flatten(g)  y = Gemm <transB = 1> (f, m, c) }"""


def arrays(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def test_shares_of_the_schedules() -> None:
    assert [Ramp("linear", 0.1, 0.5, 4).share(k) for k in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    cubic = [Ramp("cubic", 0.0, 0.8, 2).share(k) for k in range(3)]
    assert cubic == pytest.approx([0.0, 0.8 * (1 - 1 / 8), 0.8])


def test_the_schedule_follows_the_training() -> None:
    model = load(build(NET))
    weights = {"u": model.array(model.proto.graph.initializer[2])}
    pruning = GradualPruning(ZeroPruner(model, parse("weights"), as_criterion("l1")), Ramp("linear", 0.0, 0.5, 5))
    shares = []
    for done in (0.0, RISE / 5, RISE / 2, RISE, 1.0):
        pruning.advance(done, weights)
        shares.append(float((pruning.masked(weights)["u"] == 0).mean()))
    assert shares == pytest.approx([0, 0.1, 0.2, 0.5, 0.5], abs=0.01) and pruning.complete


def test_two_of_four_comes_step_by_step() -> None:
    model = load(build(NET))
    weights = {"u": model.array(model.proto.graph.initializer[2])}
    pruner = ZeroPruner(model, parse("2:4"), as_criterion("l1"))
    whole, half = (pruner.masks(weights, 0.0, progress)["u"] for progress in (1.0, 0.5))
    assert whole.mean() == 0.5 and half.mean() == 0.25 and (whole | half == whole).all()
    assert np.abs(weights["u"][half]).max() <= np.abs(weights["u"][whole & ~half]).min()


def test_movement_takes_what_the_loss_pushes_to_zero() -> None:
    model = load(build("(float[N,4] x) => (float[N,1] y) <float[4,1] w> { y = MatMul(x, w) }"))
    pruner, weights = ZeroPruner(model, parse("weights"), None), {"w": np.array([[1.0], [-1], [1], [-1]], np.float32)}
    pruner.observe(weights, {"w": np.array([[0.5], [-0.6], [-0.5], [0.6]], np.float32)})  # the first two shrink
    assert pruner.masks(weights, 0.5, 1.0)["w"].ravel().tolist() == [True, True, False, False]


@pytest.mark.parametrize("importance", ["l2", "movement"])
def test_removed_channels_are_those_that_were_zero(importance: str) -> None:
    """The model without the channels computes what the masked weights computed: masked equivalence."""
    model = load(build(NET))
    weights = {t.name: model.array(t) for t in model.proto.graph.initializer}
    pruner = ChannelPruner(model, None if importance == "movement" else as_criterion(importance), 0)
    pruner.observe(weights, {name: np.ones_like(array) for name, array in weights.items()})
    zero = pruner.masks(weights, 0.5, 1.0)
    masked = {name: np.where(zero[name], 0, array) for name, array in weights.items()}
    before = load(build(NET, constants=masked))
    assert pruner.finish(model, masked) == 0.5
    assert model.array(model.proto.graph.initializer[2]).shape == (4, 4, 3, 3)
    x = {"x": np.random.default_rng(0).standard_normal((3, 3, 6, 6)).astype(np.float32)}
    outputs = [local_session(one).run(["y"], x)[0] for one in (before, model)]
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "share"), [({"pattern": "weights", "end": 0.7}, 0.7), ({"pattern": "2:4"}, 0.5), ({"end": 0.5}, 0.5)]
)
def test_a_model_is_pruned_while_it_is_trained(options: dict[str, Any], share: float) -> None:
    result = onnxprune.finetune(MODEL, LABELLED, schedule="cubic", steps=4, epochs=6, rate=4e-3, **options)
    training, metric = result.report.training, result.report.metric
    assert training.pruned == pytest.approx(share, abs=0.01) and metric is not None
    assert training.best is not None and training.best > 6 * RISE - 1
    assert metric.after is not None and metric.before is not None and metric.after > metric.before - 0.1
    old, new = arrays(onnx.load(MODEL)), arrays(result.model)
    if "pattern" not in options:
        assert new["coefficient1"].shape == tuple(n // 2 for n in old["coefficient1"].shape)
    else:
        assert (new["coefficient1"] == 0).mean() == pytest.approx(share, abs=0.01)
    if options.get("pattern") == "2:4":
        zero = new["coefficient1"].T == 0  # of a MatMul: the inputs are along axis 0
        assert zero.reshape(-1, 4).sum(axis=1).tolist() == [2] * (zero.size // 4)


@pytest.mark.slow
def test_the_same_bytes_again() -> None:
    made = [
        onnxprune.finetune(MODEL, LABELLED, schedule="cubic", end=0.5, epochs=3, importance="movement").model
        for _ in range(2)
    ]
    assert made[0].SerializeToString() == made[1].SerializeToString()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"end": 0.5}, "which nothing asks for"),
        ({"schedule": "exponential", "end": 0.5}, "unknown schedule"),
        ({"schedule": "cubic"}, "end says how much is pruned in the end, and is missing"),
        ({"schedule": "cubic", "end": 0.5, "pattern": "2:4"}, "pattern '2:4' says by itself how much"),
        ({"schedule": "cubic", "end": 0.5, "pattern": "weights=0.5"}, "and so does end"),
        ({"schedule": "cubic", "end": 0.5, "start": 0.6}, "shares must rise"),
        ({"schedule": "cubic", "end": 0.5, "steps": 0}, "steps"),
        ({"schedule": "cubic", "end": 0.5, "importance": "obs"}, "does not choose channels by weights alone"),
        ({"schedule": "cubic", "end": 0.5, "importance": "fpgm", "pattern": "weights"}, "does not choose zeros"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        onnxprune.finetune(MODEL, LABELLED, epochs=1, **options)


def test_zeros_of_quantised_weights_are_stored() -> None:
    model, x = made("qdq-channel")
    data = {"x": x, "labels": np.random.default_rng(0).integers(0, 4, len(x))}
    options: dict[str, Any] = {"schedule": "cubic", "end": 0.5, "pattern": "weights", "steps": 2, "epochs": 2}
    result = onnxprune.finetune(model, data, **options)
    assert result.report.training.pruned == pytest.approx(0.5, abs=0.02)
    weights = [array for array in arrays(result.model).values() if array.ndim > 1]
    assert len(weights) == 3 and all(w.dtype == np.int8 for w in weights)
    assert np.mean(np.concatenate([w.reshape(-1) for w in weights]) == 0) == pytest.approx(0.5, abs=0.05)


def test_channels_of_quantised_weights_are_refused() -> None:
    model, x = made("qdq-channel")
    data = {"x": x, "labels": np.random.default_rng(0).integers(0, 4, len(x))}
    with pytest.raises(InputError, match="quantised weights"):
        onnxprune.finetune(model, data, schedule="cubic", end=0.5)


def test_zeros_in_half_precision_are_stored() -> None:
    half = VARIANTS["float16"](onnx.load(MODEL), [])
    result = onnxprune.finetune(half, LABELLED, schedule="cubic", end=0.5, pattern="weights", steps=2, epochs=2)
    before, after = arrays(half), arrays(result.model)
    assert {name: a.dtype for name, a in before.items()} == {name: a.dtype for name, a in after.items()}
    weights = [name for name, array in before.items() if min(array.shape) > 1 and array.dtype == np.float16]
    assert len(weights) == 3
    for name in weights:
        assert np.mean(after[name] == 0) == pytest.approx(0.5, abs=0.01)
        assert not np.array_equal(after[name][after[name] != 0], before[name][after[name] != 0])  # trained
