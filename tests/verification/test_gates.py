"""Gates: what they measure, what they stop, and the search for the smallest model within them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxprune
from onnxprune.errors import GateError, InputError
from onnxprune.model.model import Model
from onnxprune.runtime.io_slices import WHOLE
from onnxprune.verification import gates
from onnxprune.verification.drift import drift
from tests.support.commands import Cli, assert_refused, contents
from tests.support.paths import MODELS

MLP, DATA = str(MODELS / "sk_mlp.onnx"), str(MODELS / "digits_calib_flat.npz")

TWO = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,4] x) => (float[N,{width}] scores, int64[N] class)
{{
  scores = MatMul (x, w)
  class = ArgMax <axis = 1, keepdims = 0> (scores)
}}
"""


def two(weight: NDArray[Any]) -> onnx.ModelProto:
    """Scores and their choice."""
    model = onnx.parser.parse_model(TWO.format(width=weight.shape[1]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), "w"))
    return model


def batches(count: int = 3) -> list[dict[str, NDArray[Any]]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(n + 2, 4)).astype(np.float32)} for n in range(count)]


def test_sums_over_batches_are_those_of_all_samples_at_once() -> None:
    """Drift and cosine as the verification has them, agreement as counted by hand."""
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(4, 5))
    other = weight + rng.normal(size=(4, 5))
    before, after = two(weight), two(other)
    asked = gates.make_gates(
        Model(before), {"drift": 1, "cosine:scores": 0, "agreement": 0, "agreement:class": 0}, data=True
    )
    found = gates.measure(asked, Model(before), Model(after), batches(), WHOLE)
    x = np.concatenate([b["x"] for b in batches()])
    a, b = x @ weight.astype(np.float32), x @ other.astype(np.float32)
    whole, same = drift(a, b), float(np.mean(a.argmax(axis=1) == b.argmax(axis=1)))
    assert found["scores"] == pytest.approx({"drift": whole.rel_rms, "cosine": whole.cosine, "agreement": same})
    assert found["class"]["agreement"] == same and 0 < same < 1
    verdicts = {g.name: g.verdict(found)["measured"] for g in asked}
    assert verdicts["drift"] == found["scores"]["drift"]  # of the class nobody can say how far it moved


def test_what_cannot_be_compared_meets_no_gate() -> None:
    weight = np.eye(4)
    with np.errstate(all="ignore"):
        broken = two(np.where(weight > 0, np.nan, weight))
    asked = gates.make_gates(Model(two(weight)), {"drift": 1e9, "cosine": -1}, data=True)
    found = gates.measure(asked, Model(two(weight)), Model(broken), batches(), WHOLE)
    assert [g.verdict(found) for g in asked] == [
        {"asked": limit, "measured": None, "met": False} for limit in (1e9, -1)
    ]


def test_two_models_that_give_no_number_meet_no_gate() -> None:
    """Nothing that is not a number is as near to itself as asked."""
    broken = two(np.full((4, 4), np.nan))
    asked = gates.make_gates(Model(broken), {"drift": 0.1, "cosine": 0.9, "agreement": 0.9}, data=True)
    found = gates.measure(asked, Model(broken), Model(broken), batches(), WHOLE)
    assert {(g.verdict(found)["measured"], g.verdict(found)["met"]) for g in asked} == {(None, False)}


@pytest.mark.parametrize(
    ("shape", "axis"), [((7, 10), 1), ((7, 5, 10), 2), ((2, 21, 64, 64), 1), ((2, 64, 64, 21), 3), ((10,), 0)]
)
def test_where_the_classes_are(shape: tuple[int, ...], axis: int) -> None:
    assert gates.class_axis(shape, "y") == axis


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({"drfit": 0.1}, "did you mean 'drift'"),
        ({"drift": -0.1}, "between 0 and inf"),
        ({"drift": float("nan")}, "between 0 and inf"),
        ({"cosine": 1.5}, "between -1 and 1"),
        ({"drift:probabilites": 0.1}, "did you mean 'probabilities'"),
        ({"agreement": 0.9}, "needs calibration data"),
    ],
)
def test_refusals(gate: dict[str, float], words: str) -> None:
    with pytest.raises(InputError) as caught:
        onnxprune.prune(MLP, 0.5, gate=gate)
    assert words in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gate": {"drift": 0.1}, "verify": False}, "measured by the verification"),
        ({"drift_search": True}, "needs something to stay within"),
        ({"drift_search": True, "gate": {"drift": 0.1}, "pattern": "weights=0.5"}, "channels, not zeros"),
        ({"run_seconds": 0.0}, "above 0"),
        ({"seed": -1}, "at least 0"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        onnxprune.Options.of(**{"ratio": 0.5, **options} if "pattern" not in options else options)


def test_the_classes_are_along_the_axis_of_the_softmax() -> None:
    """Three classes at each of five positions, whose axis is not the last."""

    def model(weight: NDArray[Any]) -> Model:
        text = """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N,4,5] x) => (float[N,3,5] y) {
          scores = MatMul (w, x)
          y = Softmax <axis = 1> (scores)
        }
        """
        proto = onnx.parser.parse_model(text)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), "w"))
        return Model(proto)

    rng = np.random.default_rng(0)
    x, before = rng.normal(size=(16, 4, 5)).astype(np.float32), rng.normal(size=(3, 4))
    after = before + rng.normal(size=(3, 4))
    asked = gates.make_gates(model(before), {"agreement": 0.5}, data=True)
    found = gates.measure(asked, model(before), model(after), [{"x": x}], WHOLE)
    a, b = (np.einsum("cf,nfp->ncp", w, x).argmax(axis=1) for w in (before, after))
    assert found["y"]["agreement"] == np.mean(a == b) and 0 < np.mean(a == b) < 1


def test_one_score_chooses_nothing() -> None:
    model = two(np.ones((4, 1)))
    with pytest.raises(InputError, match="one score a sample"):
        gates.make_gates(Model(model), {"agreement": 0.9}, data=True)


def test_classes_have_no_distance() -> None:
    """Neither a named output of classes nor a model that has no other is held to drift."""
    for kind in ("drift", "cosine"):
        with pytest.raises(InputError, match="output 'class' cannot be compared"):
            gates.make_gates(Model(two(np.eye(4))), {f"{kind}:class": 0.1}, data=True)
    only = two(np.eye(4))
    del only.graph.output[0]
    with pytest.raises(InputError, match="no output of quantities") as caught:
        gates.make_gates(Model(only), {"drift": 0.1}, data=True)
    assert "agreement" in caught.value.hint


@pytest.mark.slow
def test_a_missed_gate_stops_the_command(cli: Cli, model: Path) -> None:
    """Exit code 1, a warning with the numbers, and nothing written, not even the plan."""
    before = contents(model.parent)
    ended = cli(
        model,
        "--ratio",
        0.5,
        "--gate",
        "drift=0.0001",
        "--gate",
        "cosine:y=-1",
        "--json",
        "--plan",
        model.parent / "p.json",
    )
    assert ended.code == 5
    assert contents(model.parent) == before
    report = json.loads(ended.out)
    assert report["output"] is None and report["plan"] is None
    missed, met = report["gates"]["drift"], report["gates"]["cosine:y"]
    assert (missed["asked"], missed["met"], missed["on"]) == (0.0001, False, "synthetic inputs")
    assert missed["measured"] == report["drift"]["y"]["rel_rms"]
    assert met["met"] and met["measured"] == report["drift"]["y"]["cosine"]
    assert ended.err.startswith("warning: gate drift is missed: ")


@pytest.mark.slow
def test_a_missed_gate_does_not_stop_who_wants_the_model_anyway(cli: Cli, model: Path) -> None:
    ended = cli(model, "--ratio", 0.5, "--gate", "drift=0", "--keep-anyway")
    assert ended.code == 1
    assert "MISSED" in ended.out and (model.parent / "net.pruned.onnx").exists()


@pytest.mark.slow
def test_a_met_gate_lets_through(cli: Cli, model: Path) -> None:
    ended = cli(model, "--ratio", 0.5, "--gate", "drift=100")
    assert ended.code == 0 and (model.parent / "net.pruned.onnx").exists()


def test_gates_on_the_command_line_are_read_with_care(cli: Cli, model: Path) -> None:
    for words in (["drift"], ["drift=x"], ["=1"], ["drift=1", "drift=2"]):
        given = [part for word in words for part in ("--gate", word)]
        assert_refused(cli(model, "--ratio", 0.5, *given))


@pytest.mark.slow
def test_a_result_that_misses_a_gate_does_not_save_itself(tmp_path: Path) -> None:
    options: dict[str, Any] = {"ratio": 0.5, "calib": DATA, "repair": "none", "gate": {"agreement": 1.0, "drift": 0.0}}
    result = onnxprune.prune(MLP, **options)
    assert result.stopped is not None and "gate drift is missed" in result.stopped
    assert result.report.gates["drift"].on == "held-out calibration samples"
    with pytest.raises(GateError) as caught:
        result.save(tmp_path / "m.onnx")
    assert caught.value.exit_code == 5 and contents(tmp_path) == {}
    onnxprune.prune(MLP, keep_anyway=True, **options).save(tmp_path / "m.onnx")
    assert contents(tmp_path)


def test_a_model_that_does_not_run_meets_no_gate() -> None:
    """What cannot be verified cannot be let through either."""
    text = """<ir_version: 8, opset_import: ["" : 17, "my.ops" : 1]>
        net (float[2,4] x) => (float[2,4] y) <float[2,4] h> { h = my.ops.Odd (x)  y = MatMul (h, w) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    report = onnxprune.prune(model, 0.5, gate={"drift": 1e6}).report
    assert not report.verified and report.gates["drift"].met is False


@pytest.mark.slow
@pytest.mark.parametrize("repair", ["none", "calibrated"])
def test_the_search_stays_inside_the_gates(repair: str) -> None:
    """The model found meets them, the next one that was tried does not, and it is made as a plain run makes it."""
    gate = {"drift": 0.2, "agreement": 0.95}
    result = onnxprune.prune(MLP, calib=DATA, samples=96, repair=repair, gate=gate, drift_search=True)
    report = result.report
    trials, found = report.search.trials, report.search.found
    assert result.stopped is None and all(g.met for g in report.gates.values())
    assert len(trials) <= 9 and [t.met for t in trials].count(True) >= 1
    best = max((t for t in trials if t.met), key=lambda t: t.ratio)
    assert best.ratio == found.ratio and best.params == report.params.after
    assert all(t.ratio > best.ratio for t in trials if not t.met)
    again = onnxprune.prune(MLP, best.ratio, calib=DATA, samples=96, repair=repair)
    assert again.proto.SerializeToString() == result.proto.SerializeToString()


@pytest.mark.slow
def test_a_search_with_zeros_in_what_is_left() -> None:
    """Channels are searched; what stays of them has the pattern, and the gate is held with it, as it is stored."""
    gate = {"drift": 0.3}
    result = onnxprune.prune(
        MLP,
        calib=DATA,
        samples=96,
        pattern=["channels", "weights=0.3"],
        global_ranking=False,
        gate=gate,
        drift_search=True,
        sparse_storage=True,
    )
    assert result.stopped is None
    assert result.report.gates["drift"].measured <= 0.3
    assert 0 < result.report.search.found.ratio < 0.95
    assert result.report.params.after < result.report.params.before
    assert all(0.25 < share < 0.35 for share in result.report.zeroed.values())
    assert result.report.storage is not None


@pytest.mark.slow
def test_zeros_alone_are_held_to_gates() -> None:
    options: dict[str, Any] = {"calib": DATA, "samples": 96, "pattern": "weights=0.9", "repair": "none"}
    measured = onnxprune.prune(MLP, **options, gate={"drift": 10.0}).report.gates["drift"].measured
    assert measured > 0
    assert onnxprune.prune(MLP, **options, gate={"drift": measured / 2}).stopped is not None


@pytest.mark.slow
def test_a_search_over_macs(cli: Cli, tmp_path: Path) -> None:
    ended = cli(
        MLP,
        "--target",
        "macs=0.1",
        "--calib",
        DATA,
        "--samples",
        96,
        "--gate",
        "drift=0.3",
        "--drift-search",
        "-o",
        tmp_path / "m.onnx",
        "--json",
    )
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["gates"]["drift"]["met"] and report["targets"]["macs"]["met"]
    assert set(report["search"]["found"]["target"]) == {"macs"}
    assert report["macs"]["after"] < report["macs"]["before"]


@pytest.mark.slow
def test_a_search_that_finds_nothing_leaves_the_model_whole(cli: Cli, model: Path) -> None:
    ended = cli(model, "--gate", "drift=0", "--drift-search", "--json", "--repair", "none")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["params"]["before"] == report["params"]["after"]
    assert report["search"]["found"] == {"ratio": 0.0} and report["gates"]["drift"]["measured"] == 0
    assert (model.parent / "net.pruned.onnx").read_bytes() == model.read_bytes()
