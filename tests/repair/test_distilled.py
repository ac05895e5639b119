"""Repair by distillation: nearer to the original on samples that were held back, else as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

import onnxprune
from onnxprune.calibration import open_samples
from onnxprune.calibration.disk_cache import DiskCache
from onnxprune.calibration.signature import signature_of
from onnxprune.errors import InputError, RunError
from onnxprune.gradients.trainable import bytes_of_batch, parameters
from onnxprune.graph.graph import Graph
from onnxprune.graph.operators import known_operators
from onnxprune.model.model import Model, load
from onnxprune.repair import distilled
from onnxprune.repair.augmentation import Augmentation
from onnxprune.repair.distillation_student import student
from onnxprune.repair.distillation_teacher import Teacher, Views, views
from onnxprune.repair.distilled import Settings
from onnxprune.repair.kept_indices import KeptAxis, KeptIndices
from onnxprune.repair.training_batches import TrainingBatches
from onnxprune.runtime.io_slices import WHOLE
from onnxprune.verification.output_error import Errors
from tests.ops.case import build
from tests.support.paths import MODELS

DIGITS = str(MODELS / "digits_calib_flat.npz")
NET = """(float[N,3,8,8] x) => (float[N,P,5] y)
    <float[8,3,3,3] w, float[8] b, float[6,8,3,3] v, float[5,6,1,1] u, float[5] c, int64[3] k>
    { a = Conv <pads = [1,1,1,1]> (x, w, b) r = Relu(a) d = Conv(r, v) e = Relu(d) s = Conv(e, u, c)
      t = Transpose <perm = [0,2,3,1]> (s) z = Reshape(t, k) y = HEAD }"""
HEADS = {"classes at positions": "Softmax <axis = -1> (z)", "probabilities": "Sigmoid(z)", "numbers": "Identity(z)"}


def net(head: str, seed: int = 0) -> Model:
    """A small model with outputs at many positions."""
    model = build(NET.replace("HEAD", HEADS[head]), constants={"k": [0, -1, 5]})
    rng = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        if tensor.name != "k":
            array = onnx.numpy_helper.to_array(tensor)
            scale = 2.0 if tensor.name == "u" else 1.0
            moved = scale * (array + 0.1 * seed * rng.standard_normal(array.shape))
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved.astype(np.float32), tensor.name))
    return load(model)


def images(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def both(head: str) -> Views:
    return views(net(head), net(head, 1), KeptIndices(), WHOLE)


@pytest.mark.parametrize("head", list(HEADS))
def test_weights_of_positions_make_the_error_that_models_are_judged_by(head: str) -> None:
    """The squared error of the loss, in the mean over the batches, is the measure of held-back samples."""
    pair, batches = both(head), [{"x": images(4, i)} for i in range(3)]
    teacher = Teacher(pair, batches)
    sessions = [onnxruntime.InferenceSession(m.proto.SerializeToString()) for m in (pair.teacher, pair.student)]
    errors, terms = Errors(1, pair.components), []
    for feeds in batches:
        wanted, made = (s.run(pair.outputs, feeds) for s in sessions)
        errors.add(wanted, [made])
        targets = teacher.targets(feeds)
        other = Teacher(Views(pair.student, pair.student, pair.components, (), KeptIndices(), WHOLE), [feeds])
        rows = other.targets(feeds).values["target/0"]
        terms.append((targets.weights[0] * (rows - targets.values["target/0"]) ** 2).sum())
        if pair.components[0].scores is not None:
            assert targets.shares[0].shape == (len(rows), 1)
    assert np.mean(terms) == pytest.approx(errors.shares()[0], rel=1e-4)


@pytest.mark.parametrize("head", ["classes at positions", "probabilities"])
def test_shares_of_positions_are_one_in_all(head: str) -> None:
    pair, batches = both(head), [{"x": images(4, i)} for i in range(3)]
    teacher = Teacher(pair, batches)
    total = np.mean([teacher.targets(feeds).shares[0].sum() for feeds in batches])
    assert total == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("head", list(HEADS))
def test_steps_bring_the_student_to_its_teacher(head: str) -> None:
    pair, feeds = both(head), {"x": images(8)}
    teacher = Teacher(pair, [feeds])
    targets = teacher.targets(feeds)
    trained = student(pair, feeds, targets, teacher.feature_sizes)
    assert set(trained.parameters) == {"w", "b", "v", "u", "c"} and not trained.reasons
    given = {**feeds, **targets.feeds()}
    weights = {name: p.array for name, p in trained.parameters.items()}
    loss, gradients = trained.step(given, weights)
    for name, gradient in gradients.items():  # a small step along each gradient lowers the loss by as much as it says
        step = 1e-3 * float(np.abs(weights[name]).mean()) / float(np.abs(gradient).mean())
        moved = {**weights, name: weights[name] - np.float32(step) * gradient}
        expected = step * float(np.square(gradient, dtype=np.float64).sum())
        assert loss - trained.step(given, moved)[0] == pytest.approx(expected, rel=0.1), name


def test_features_are_compared_on_the_channels_that_are_kept() -> None:
    kept = KeptIndices(axes={"r": {1: KeptAxis((8,), np.array([0, 3, 4]))}})
    teacher, pruned = net("numbers"), net("numbers")
    for tensor in pruned.proto.graph.initializer:
        array, axis = onnx.numpy_helper.to_array(tensor), {"w": 0, "b": 0, "v": 1}.get(tensor.name)
        if axis is not None:
            taken = array.take([0, 3, 4], axis)
            tensor.CopyFrom(onnx.numpy_helper.from_array(taken, tensor.name))
    pair, feeds = views(teacher, pruned, kept, WHOLE), {"x": images(2)}
    assert list(pair.features) == ["r", "e"]
    first = Teacher(pair, [feeds]).targets(feeds).values["target/r"]
    part = Teacher(views(teacher, pruned, KeptIndices(), WHOLE), [feeds]).targets(feeds).values["target/r"]
    np.testing.assert_array_equal(first, part[:, [0, 3, 4]])


def prune(repair: str = "distilled", ratio: float = 0.8, **more: Any) -> onnxprune.Result:
    asked = {"importance": "l2", "verify": False, "time": False, "calib": DIGITS, "epochs": 12}
    asked |= {} if repair == "distilled" else {"epochs": 40}
    return onnxprune.prune(MODELS / "sk_mlp.onnx", ratio, repair=repair, **{**asked, **more})


@pytest.mark.slow
def test_it_is_nearer_to_the_original_than_a_refit_of_layers() -> None:
    trained, refitted = prune(epochs=25), prune("calibrated")
    record = trained.report.distilled
    assert record is not None and record.best is not None and record.before is not None and record.after is not None
    assert record.after < 0.9 * record.before and 1 <= record.best <= record.epochs == 25
    error = {r: r.report.calibration.relative_error for r in (trained, refitted)}  # samples that neither has seen
    assert error[trained] < error[refitted]
    assert refitted.report.distilled is None


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes() -> None:
    made = [prune(seed=seed, epochs=3).proto.SerializeToString(deterministic=True) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


@pytest.mark.slow
def test_a_training_that_makes_nothing_better_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "__init__", _with_rate(30.0))
    trained = prune(epochs=2)
    record = trained.report.distilled
    assert record is not None and record.best is None and record.after == record.before
    assert trained.proto == prune("calibrated").proto


def _with_rate(rate: float) -> Any:
    plain = Settings.__init__

    def init(self: Settings, *arguments: Any, **options: Any) -> None:
        plain(self, *arguments, **{**options, "rate": rate})

    return init


@pytest.mark.slow
def test_minutes_end_it() -> None:
    record = prune(minutes=1e-9, epochs=1000).report.distilled
    assert record is not None and record.epochs == 1


@pytest.mark.slow
def test_few_samples() -> None:
    record = prune(samples=3).report.distilled
    assert record is not None and record.skipped == "there are too few samples to hold some back"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calib": None, "repair": "distilled"}, "repair 'distilled' needs calibration data"),
        ({"epochs": 3}, "epochs limits a training, and repair 'auto' has none"),
        ({"repair": "calibrated", "minutes": 1}, "minutes limits a training, and repair 'calibrated' has none"),
        ({"repair": "distilled", "epochs": 0}, "epochs must be"),
        ({"repair": "distilled", "minutes": -1}, "minutes must be"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        onnxprune.prune(MODELS / "sk_mlp.onnx", 0.5, **{"calib": DIGITS, **options})


def test_zeros_alone_leave_nothing_to_train() -> None:
    with pytest.raises(InputError, match="refits what is left of channels"):
        onnxprune.prune(MODELS / "sk_mlp.onnx", pattern="2:4", repair="distilled", calib=DIGITS)


@pytest.mark.slow
def test_a_model_that_no_rule_covers_is_repaired_and_says_why_it_was_not_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(known_operators()["", "Asinh"], "gradient", None)
    text = """(float[N,6] x) => (float[N,4] y) <float[6,8] w, float[8,4] v>
        { a = MatMul(x, w) b = Asinh(a) c = MatMul(b, v) y = Asinh(c) }"""
    model, x = build(text), np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    result = onnxprune.prune(model, 0.5, calib={"x": x}, repair="distilled", time=False)
    record = result.report.distilled
    assert record is not None and record.skipped == "Asinh has no gradient rule" and result.report.repair


def test_parameters_are_weights_biases_and_scales() -> None:
    text = """(float[N,4] x) => (float[N,3] y) <float[4,5] w, float[5] b, float[5] s, float[5] o, float m, float[5,3] v>
        { a = MatMul(x, w) d = Add(a, b) n = LayerNormalization(d, s, o) e = Mul(n, m) y = MatMul(e, v) }"""
    found = parameters(load(build(text)))
    assert set(found) == {"w", "b", "s", "o", "v"}
    assert found["w"].size.shape == (1, 5) and found["b"].size.shape == (1,)


def test_batches_of_a_step_are_its_samples() -> None:
    """Of a model that takes one sample at a time too; shifted, but not mixed, they are those of the source."""
    x = np.arange(10 * 4, dtype=np.float32).reshape(10, 4)
    for batch in ("N", "1"):
        model = load(build(f"(float[{batch},4] x) => (float[{batch},3] y) <float[4,3] w> {{ y = MatMul(x, w) }}"))
        samples = open_samples({"x": x}, model.proto)
        still = Augmentation(model, Graph(model.proto), samples.in_batches(1), 0)
        batches = TrainingBatches(samples, DiskCache(signature_of(model.proto), 64), still, 4, 32, seed=0)
        steps = list(batches.epoch(0))
        assert batches.alike and batches.steps == len(steps) == 2
        assert [len(step) for step in steps] == ([1, 1] if batch == "N" else [4, 4])
        rows = np.concatenate([feeds["x"] for step in steps for feeds in step])
        assert len(np.unique(rows[:, 0])) == 8 and set(rows[:, 0]) <= set(x[:, 0])
        again = np.concatenate([feeds["x"] for step in batches.epoch(1) for feeds in step])
        assert not np.array_equal(rows, again)


def test_one_sample_at_a_time_gives_the_gradient_of_a_batch() -> None:
    pair, x = both("classes at positions"), images(4)
    teacher = Teacher(pair, [{"x": x}])
    whole, targets = {"x": x}, teacher.targets({"x": x})
    trained = student(pair, whole, targets, teacher.feature_sizes)
    weights = {name: p.array for name, p in trained.parameters.items()}
    _, batch = trained.step({**whole, **targets.feeds()}, weights)
    parts = [{"x": one[None]} for one in x]
    teacher = Teacher(pair, parts)
    single = student(pair, parts[0], teacher.targets(parts[0]), teacher.feature_sizes)
    each = [single.step({**feeds, **teacher.targets(feeds).feeds()}, weights)[1] for feeds in parts]
    for name, gradient in batch.items():
        mean = np.mean([e[name] for e in each], axis=0)
        np.testing.assert_allclose(mean, gradient, rtol=2e-3, atol=1e-5 * float(np.abs(gradient).max()))


@pytest.mark.slow
def test_a_run_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RunError("no such kernel")

    monkeypatch.setattr(distilled, "student", fails)
    trained = prune(epochs=2)
    assert trained.report.distilled is not None
    assert trained.report.distilled.skipped == "onnxruntime does not run the gradients: no such kernel"
    assert trained.proto == prune("calibrated").proto


@pytest.mark.slow
def test_batches_are_as_large_as_the_memory_allows() -> None:
    """And give the same gradients: a step adds up those of its batches."""
    model = net("numbers")
    one, four = (bytes_of_batch(model, {"x": images(n)}) for n in (1, 4))
    values = (3 + 8 + 8) * 64 + (6 + 6 + 5 + 5 + 5 + 5) * 36
    assert one == 4 * (3 * values + 18 * 8 * 64) and four == 4 * one
    samples = open_samples({"x": images(40)}, model.proto)
    records = [
        distilled.repair(
            model, net("numbers", 1), KeptIndices(), *samples.split(0.2), Settings(epochs=1, memory=memory)
        )
        for memory in (2 * one, 2**30)
    ]
    assert records[0].after == pytest.approx(records[1].after, rel=1e-3)
