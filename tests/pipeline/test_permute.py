"""`--permute`: no less is kept, the zeros have their pattern, and plans repeat it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.coupling.coupling import Coupling, analyze
from onnxprune.graph.graph import Graph
from onnxprune.pipeline import permute, zero
from onnxprune.planning.plan import Plan
from onnxprune.runtime.sample_inputs import sample_inputs
from onnxprune.sparsity import weights
from onnxprune.sparsity.patterns import NOfM
from tests.ops.case import build
from tests.support.commands import Cli, assert_refused
from tests.support.paths import MODELS

NAMES = ["pt_resnet_bn", "pt_transformer", "keras_cnn"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short searches: what holds of their results does not depend on how good they are."""
    real = permute.search
    monkeypatch.setattr(permute, "search", lambda parts, n, rng: real(parts, n, rng, 2e7))


def magnitude(model: onnx.ModelProto) -> float:
    """Sum of the magnitudes of all weights that products read."""
    coupling = analyze(Graph(model))
    return sum(float(np.abs(numpy_helper.to_array(w.value.tensor)).sum(dtype=np.float64)) for w in weights(coupling))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8"])
def test_more_is_kept(name: str, pattern: str) -> None:
    n, m = map(int, pattern.split(":"))
    path = MODELS / f"{name}.onnx"
    plain, moved = (
        onnxprune.prune(path, pattern=pattern, permute=p, repair="none", verify=False) for p in (False, True)
    )
    assert magnitude(moved.proto) > magnitude(plain.proto)
    for w in weights(analyze(Graph(moved.proto))):
        if w.value.key in moved.report.zeroed:
            assert w.layout is not None
            assert NOfM(n, m).holds(numpy_helper.to_array(w.value.tensor) == 0, w.layout)
    told = moved.report.permuted
    assert told.after > told.before
    assert told.whole_because is None
    assert all(g.after > g.before for g in told.groups)
    whole = magnitude(onnx.load(path))
    assert magnitude(plain.proto) / whole == pytest.approx(told.before, abs=0.02)  # weights of other types aside
    assert plain.report.permuted is None


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_model_makes_the_same_before_zeros(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an N:M stage that sets nothing to zero, only the order is other."""
    path = MODELS / f"{name}.onnx"
    monkeypatch.setattr("onnxprune.pipeline.attempt.zero", lambda *_, **__: zero.Zeroed())
    result = onnxprune.prune(path, pattern="2:4", permute=True, repair="none")
    assert result.plan.permuted
    assert result.report.verified
    assert all(d.rel_rms < 1e-5 for d in result.report.drift.values())


@pytest.mark.slow
@pytest.mark.parametrize("extra", [{}, {"ratio": 0.3, "pattern": ["channels", "2:4"]}])
@pytest.mark.parametrize("name", NAMES)
def test_a_plan_repeats_it(name: str, extra: dict[str, Any]) -> None:
    path = MODELS / f"{name}.onnx"
    result = onnxprune.prune(path, **{"pattern": "2:4", "permute": True, "repair": "none", "verify": False, **extra})
    assert result.plan.permuted
    again = onnxprune.apply(Plan.from_json(result.plan.to_json()), path)
    assert again.proto.SerializeToString(deterministic=True) == result.proto.SerializeToString(deterministic=True)


@pytest.mark.slow
def test_the_same_seed_gives_the_same() -> None:
    path = MODELS / "pt_resnet_bn.onnx"
    one, two = (
        onnxprune.prune(path, pattern="2:4", permute=True, repair="none", verify=False, seed=7).plan for _ in range(2)
    )
    assert one.to_json() == two.to_json()


@pytest.fixture(scope="module")
def plan() -> str:
    path = MODELS / "pt_resnet_bn.onnx"
    return onnxprune.prune(path, pattern="2:4", permute=True, repair="none", verify=False).plan.to_json()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda p: p.update(nowhere={"0": [0]}), "which the model lacks"),
        (lambda p: next(iter(p.values())).update({"7": [1, 0]}), "is not one of all its indices"),
        (lambda p: next(iter(p.values())).update({"0": [0, 0]}), "is not one of all its indices"),
        (lambda p: p.popitem(), "only a part of what is tied together"),
        (lambda p: p.update({"fc.weight": {"0": [1, 0, *range(2, 10)]}}), "must stay where it is"),
        (lambda p: next(iter(p.values())).update({"0": "all"}), "is not {axis: [indices]}"),
    ],
)
def test_edited_orders_are_refused(plan: str, edit: Any, words: str) -> None:
    data = json.loads(plan)
    head = next(t.name for t in onnx.load(MODELS / "pt_resnet_bn.onnx").graph.initializer if list(t.dims)[:1] == [10])
    edit(data["permuted"])
    if "fc.weight" in data["permuted"]:
        data["permuted"][head] = data["permuted"].pop("fc.weight")
    with pytest.raises(onnxprune.InputError) as caught:
        onnxprune.apply(Plan.from_json(json.dumps(data)), MODELS / "pt_resnet_bn.onnx")
    assert words in str(caught.value)


def test_it_needs_a_pattern(cli: Cli, model: Path) -> None:
    for amount in (["--ratio", "0.5"], ["--pattern", "weights=0.5"], ["--pattern", "4x1=0.5"]):
        assert "for an N:M pattern" in assert_refused(cli(model, *amount, "--permute"))


@pytest.mark.slow
def test_command_line(cli: Cli, model: Path) -> None:
    ended = cli(model, "--pattern", "2:4", "--permute")
    assert ended.code == 0
    assert "channels in another order" in ended.out
    data = json.loads(cli(model, "--pattern", "2:4", "--permute", "--json", "--dry-run").out)
    assert data["permuted"]["groups"][0]["group"] == "w1:0"


WRONG = """(float[N,4] x) => (float[N,2] y) <float[4,8] w, float[8,2] u>
    { h = MatMul(x, w)  a = Constant <value = int64 {1}> ()  g = CumSum(h, a)  y = MatMul(g, u) }"""


@pytest.mark.slow
def test_a_rule_that_is_wrong_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both orders are run: where the outputs differ, all stays where it was."""
    model = build(WRONG)

    def blind(coupling: Coupling) -> np.ndarray:
        return np.zeros(coupling.classes.elements, dtype=bool)

    plain = onnxprune.prune(model, pattern="2:4", repair="none")
    monkeypatch.setattr("onnxprune.edit.permute._fixed_channels", blind)
    result = onnxprune.prune(model, pattern="2:4", permute=True, repair="none")
    assert "a rule is wrong" in result.report.permuted.whole_because
    assert result.plan.permuted == {}
    assert result.proto == plain.proto
    careless = onnxprune.prune(model, pattern="2:4", permute=True, repair="none", verify=False)
    assert careless.plan.permuted  # so there was something to see


@pytest.mark.slow
def test_layers_are_refitted_to_what_they_made_in_their_order() -> None:
    """With channels gone, the rest moved and zeros set, a calibrated repair still finds its targets."""
    path = MODELS / "pt_resnet_bn.onnx"
    data = str(MODELS / "digits_calib.npz")
    plain, moved = (
        onnxprune.prune(path, 0.2, pattern=["channels", "2:4"], calib=data, samples=40, permute=p, verify=False)
        for p in (False, True)
    )
    assert moved.plan.permuted
    errors = [r.report.calibration.relative_error for r in (plain, moved)]
    assert errors[1] < 1.5 * errors[0]
    assert accuracy(moved.proto) > 0.95


def accuracy(model: onnx.ModelProto) -> float:
    entry = next(e for e in json.loads((MODELS / "INDEX.json").read_text())["models"] if "resnet_bn" in e["file"])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with np.load(MODELS / entry["test"]) as data:
        scores = np.asarray(session.run([entry["output"]], {entry["input"]: data[entry["input"]]})[0])
        return float(np.mean(scores.argmax(axis=1) == data[entry["labels_key"]]))


def test_sample_inputs_are_enough_to_see_a_difference() -> None:
    """The inputs that both orders are run on are no zeros."""
    assert all(np.any(array) for array in sample_inputs(build(WRONG)).values())
