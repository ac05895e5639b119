"""Depth: blocks go as a whole, exactly; which ones is told by the outputs, and a plan repeats it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune import testing
from onnxprune.coupling.blocks import Block
from onnxprune.errors import InputError, PlanError
from onnxprune.pipeline import depth_target
from onnxprune.pipeline.block_trials import Removal
from onnxprune.pipeline.depth import least_damaging
from onnxprune.pipeline.progress import Clock
from onnxprune.planning.plan import Plan
from onnxprune.timing.engines import OnnxRuntime
from tests.ops.case import build
from tests.support.paths import MODELS

RESNET, TRANSFORMER, DIGITS = (
    MODELS / "pt_resnet_folded.onnx",
    MODELS / "pt_transformer.onnx",
    MODELS / "digits_calib.npz",
)
QUICK: dict[str, Any] = {"time": False}

TWO = """(float[N,4] x) => (float[N,4] z) <float[4,4] w, float[4,4] u>
    { f = MatMul(x, w)  y = Add(x, f)  g = MatMul(y, u)  z = Add(y, g) }"""


def two_blocks(first: float, second: float) -> onnx.ModelProto:
    """Two blocks that multiply with numbers."""
    eye = np.eye(4, dtype=np.float32)
    return build(TWO, constants={"w": first * eye, "u": second * eye})


@pytest.mark.parametrize(("first", "second", "gone"), [(0.1, 0.5, "f"), (0.5, 0.1, "g")])
def test_the_block_that_does_least_damage_goes(first: float, second: float, gone: str) -> None:
    model = two_blocks(first, second)
    result = onnxprune.prune(model, depth=1, repair="none", **QUICK)
    assert [entry["summand"] for entry in result.plan.depth] == [gone]
    assert [node.op_type for node in result.model.graph.node] == ["MatMul", "Add", *["Identity"] * (gone == "g")]
    stays = second if gone == "f" else first
    assert result.report.drift["z"].rel_rms == pytest.approx(1 - (1 + stays) / ((1 + first) * (1 + second)), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", [RESNET, TRANSFORMER])
def test_blocks_and_channels_go_exactly(model: Path) -> None:
    """The result equals the original with the blocks and channels at zero, and costs are those of the original."""
    result = onnxprune.prune(model, 0.25, depth=1, repair="none", **QUICK)
    testing.assert_equivalent(model, result)
    report, alone = result.report, onnxprune.prune(model, depth=1, repair="none", **QUICK).report
    assert len(report.blocks) == 1 and report.verified
    assert report.params.before == alone.params.before == onnxprune.prune(model, 0.0, **QUICK).report.params.before
    assert (report.params.after or 0) < (alone.params.after or 0) < (alone.params.before or 0)


@pytest.mark.slow
def test_a_wrong_bypass_is_seen() -> None:
    """Equivalence is judged by the original with the block at zero, not by what removal made."""
    result = onnxprune.prune(TRANSFORMER, depth=1, repair="none", **QUICK)
    two = onnxprune.prune(TRANSFORMER, depth=2, repair="none", **QUICK)
    assert not testing.equivalence(TRANSFORMER, two, result.plan).equivalent


@pytest.mark.slow
def test_a_plan_repeats_it() -> None:
    result = onnxprune.prune(RESNET, 0.25, depth=1, repair="none", **QUICK)
    plan = Plan.from_json(result.plan.to_json())
    assert plan == result.plan
    again = onnxprune.apply(plan, RESNET)
    assert again.model.SerializeToString() == result.model.SerializeToString()
    assert again.report.params == result.report.params
    assert onnxprune.plan(onnxprune.analyze(RESNET), 0.25, depth=1, repair="none").depth == plan.depth


@pytest.mark.slow
def test_a_plan_for_another_model_is_refused() -> None:
    plan = onnxprune.prune(RESNET, depth=1, repair="none", **QUICK).plan
    with pytest.raises(PlanError, match="the model has no such sum"):
        onnxprune.apply(plan, TRANSFORMER)


@pytest.mark.slow
def test_a_target_is_of_the_original() -> None:
    """Half of the parameters that there were, not of those that the block leaves."""
    result = onnxprune.prune(RESNET, target={"params": 0.5}, depth=1, repair="none", **QUICK)
    target, before = result.report.targets["params"], result.report.params.before
    assert before is not None and target.asked == pytest.approx(before / 2)
    assert target.met and target.left is not None and target.left > 0.45 * before


@pytest.mark.slow
def test_names_leave_blocks_whole() -> None:
    first = onnxprune.prune(RESNET, depth=1, repair="none", **QUICK).plan.depth[0]
    name = first["nodes"][-1].split("'")[1]
    other = onnxprune.prune(RESNET, depth=1, ignore=name, repair="none", **QUICK).plan.depth[0]
    assert other["sum"] != first["sum"]


def test_names_of_what_is_gone_are_no_fault() -> None:
    """An expression that only the block's names matched asks nothing of what is left."""
    result = onnxprune.prune(two_blocks(0.1, 0.5), depth=1, ignore="^u$", keep={}, repair="none", **QUICK)
    assert [entry["summand"] for entry in result.plan.depth] == ["f"]
    again = onnxprune.prune(two_blocks(0.1, 0.5), depth=1, only="^w$", repair="none", **QUICK)
    assert again.plan.depth == result.plan.depth


def block(name: str) -> Block:
    return Block(name, f"{name}_summand", ())


def test_what_a_block_adds_is_measured_again() -> None:
    """Of two that stand for each other the second one is dear once the first is gone."""

    def damage(gone: Sequence[Block]) -> float:
        names = {one.sum for one in gone}
        return {"a": 1.0, "b": 2.0, "c": 3.0}[min(names)] if len(names) == 1 else 9.0 if names == {"a", "b"} else 4.0

    chosen = least_damaging([block("c"), block("b"), block("a")], 2, damage)
    assert [(one.block.sum, one.damage) for one in chosen] == [("a", 1.0), ("c", 3.0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 9}, "only 2 blocks of the model may go"),
        ({"depth": -1}, "depth"),
        ({"depth": "some"}, "depth"),
        ({"depth": "auto"}, "there is none"),
        ({"depth": "auto", "target": {"params": 0.5}}, "weighs blocks against channels"),
        ({"depth": 1, "pattern": "2:4"}, "depth removes blocks"),
        ({"depth": 1, "ratio": 0.5, "ignore": "."}, "no block of the model may go"),
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        onnxprune.prune(two_blocks(0.1, 0.5), **options)


def test_blocks_are_not_weighed_without_a_calibrated_repair() -> None:
    """The hint is about what is missing: the data, or the repair."""
    asked: dict[str, Any] = {"depth": "auto", "target": {"params": 0.5}}
    for given, hint in (({}, "give some with calib=..."), ({"calib": {}, "repair": "none"}, "leave repair away")):
        with pytest.raises(InputError, match="weighs blocks against channels") as caught:
            onnxprune.prune(two_blocks(0.1, 0.5), **asked, **given)
        assert caught.value.hint == hint


@pytest.mark.slow
def test_blocks_are_weighed_against_channels() -> None:
    """Whatever is chosen meets the target, and is not worse than channels alone by what both are judged by."""
    options: dict[str, Any] = {"target": {"macs": 0.6}, "calib": DIGITS, "samples": 80, **QUICK}
    result = onnxprune.prune(RESNET, depth="auto", **options)
    assert result.report.targets["macs"].met
    errors = [
        run.report.calibration.relative_error or 0.0
        for run in (result, onnxprune.prune(RESNET, **options))
        if run.report.calibration is not None
    ]
    assert len(errors) == 2 and errors[0] < 1.1 * errors[1]


@pytest.mark.parametrize(("errors", "gone"), [({4: 0.9, 2: 0.5, 1: 0.1}, 2), ({4: 0.9, 2: 0.8, 1: 0.7}, 0)])
def test_fewer_blocks_are_tried_where_as_many_as_predicted_are_worse(
    monkeypatch: pytest.MonkeyPatch, errors: dict[int, float], gone: int
) -> None:
    """Half as many each time, until fewer blocks are better than all of them, whose error is 0.6."""
    removals = [Removal(block(name), 0.0) for name in "abcd"]
    made = SimpleNamespace(loaded=SimpleNamespace(data=None), options=None, clock=Clock(), gone=[])
    fakes: dict[str, Any] = {
        "can_tell": lambda *_: True,
        "_ranked": lambda *_: [],
        "_best_share": lambda *_: removals,
        "scored": lambda prepared: prepared,
        "without_blocks": lambda _, taken: SimpleNamespace(**{**vars(made), "gone": taken}),
        "_at_target": lambda prepared: (0.0, errors.get(len(prepared.gone), 0.6)),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(depth_target, name, fake)
    found: Any = depth_target.weighed(cast(Any, made), [], cast(Any, None))
    assert found.gone == removals[:gone]


def test_times_of_what_blocks_left_are_shares_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine gets twice as slow between the two measurements: what is left stays a share of the original.

    Without the block it takes 0.8 of the time, and without the channels 0.8 of that.
    """
    speeds = iter([1.0, 2.0])
    make = OnnxRuntime.__init__

    def slower(self: OnnxRuntime, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        self.speed = next(speeds, 2.0)  # type: ignore[attr-defined]

    monkeypatch.setattr(OnnxRuntime, "__init__", slower)
    monkeypatch.setattr(OnnxRuntime, "milliseconds", lambda self: self.speed)
    monkeypatch.setattr(OnnxRuntime, "ratio", lambda self, copy, io_slices, seconds=1.0: 0.8)
    result = onnxprune.prune(
        two_blocks(0.1, 0.5), target={"latency": 0.9}, depth=1, repair="none", verify=False, **QUICK
    )
    target = result.report.targets["latency"]
    assert (target.asked, target.left) == (pytest.approx(0.9), pytest.approx(0.64)) and target.met
