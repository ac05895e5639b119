"""Sensitivity tells what pruning each group alone would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.model.model import load
from onnxprune.pipeline import group_trials
from onnxprune.pipeline.analysis import analyze_loaded
from onnxprune.pipeline.group_trials import SAMPLES, START, WORK, affordable, following
from onnxprune.pipeline.kept_indices import kept_indices
from onnxprune.pipeline.sensitivity import LEAST_DAMAGE, MIDDLE, SHARES
from onnxprune.report.sensitivity import SensitivityPoint, SensitivityReport
from tests.ops.case import build
from tests.support.classifier import classifier, samples
from tests.support.commands import tiny

CHAIN = """(float[N,6] x) => (float[N,4] y)
<float[6,8] w1, float[8,10] w2, float[10,12] w3, float[12,4] w4>
{ a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  d = Relu(c)  e = MatMul(d, w3)  f = Relu(e)  y = MatMul(f, w4) }"""


def chain() -> onnx.ModelProto:
    """Four layers one after the other."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (6, 8), "w2": (8, 10), "w3": (10, 12), "w4": (12, 4)}
    return build(CHAIN, constants={name: rng.standard_normal(shape) for name, shape in shapes.items()})


def data(count: int = 300) -> dict[str, Any]:
    """Inputs of the chain."""
    return {"x": np.random.default_rng(1).standard_normal((count, 6)).astype(np.float32)}


def at(report: SensitivityReport, group: int, share: float) -> SensitivityPoint:
    """What a report tells of one share of one group."""
    return next(p for p in report.groups[group].points if p.share == share)


@pytest.mark.slow
@pytest.mark.parametrize("share", SHARES)
def test_damage_is_that_of_pruning_the_group_alone(share: float) -> None:
    """Without repair exactly: error, choices and metric on the same held-out samples."""
    report = onnxprune.sensitivity(classifier(), calib=samples(), importance="l2", repair="none")
    alone = onnxprune.prune(classifier(), share, calib=samples(), importance="l2", repair="none", time=False).report
    point = at(report, 0, share)
    assert alone.calibration is not None and alone.calibration.decisions is not None and alone.metric is not None
    assert point.measured and point.removed == sum(len(g.removed) for g in alone.groups)
    assert (report.on, report.samples, report.held_out) == ("held-out calibration samples", 60, True)
    assert point.damage == alone.calibration.relative_error
    assert point.agreement == alone.calibration.decisions.agreement.mean
    assert (report.metric, report.before, point.metric) == ("top1", alone.metric.before, alone.metric.after)
    assert alone.metric.drop is not None and point.drop == alone.metric.drop.mean


@pytest.mark.slow
def test_savings_are_those_of_pruning_the_group_alone() -> None:
    """Parameters and MACs, of every group and share."""
    report = onnxprune.sensitivity(chain(), calib=data(), repair="none")
    assert [g.group for g in report.groups] == ["w1:1", "w2:1", "w3:1"]
    for i, group in enumerate(report.groups):
        assert (group.channels, group.layers) == ((8, 10, 12)[i], 2)
        for share in SHARES:
            alone = onnxprune.prune(chain(), share, only=f"^{group.group}$", repair="none", verify=False).report
            point = at(report, i, share)
            for saved, counted in ((point.params, alone.params), (point.macs, alone.macs)):
                assert counted.before is not None and counted.after is not None
                assert saved == pytest.approx(1 - counted.after / counted.before, abs=1e-6)


@pytest.mark.slow
def test_what_follows_is_repaired() -> None:
    """Damage is nearer to what the whole repair of a run leaves than to that of the removal alone."""
    plain = onnxprune.sensitivity(chain(), calib=data(), repair="none")
    report = onnxprune.sensitivity(chain(), calib=data())
    assert "refit" in report.repair and "without" in plain.repair
    for i, group in enumerate(report.groups):
        damage, before = (at(r, i, 0.5).damage for r in (report, plain))
        alone = onnxprune.prune(chain(), 0.5, only=f"^{group.group}$", calib=data(), time=False).report.calibration
        assert damage is not None and before is not None and alone is not None and alone.relative_error is not None
        assert 0.9 * alone.relative_error < damage and damage / alone.relative_error < before / damage


@pytest.mark.slow
def test_a_distilled_repair_is_tried_without_its_training() -> None:
    """The damage is that of the refit, and is called so."""
    refitted, distilled = (
        onnxprune.sensitivity(chain(), calib=data(), repair=repair) for repair in ("calibrated", "distilled")
    )
    assert distilled.groups == refitted.groups and distilled.repair == refitted.repair
    (note,) = set(distilled.notes) - set(refitted.notes)
    assert note.startswith("The training of the repair distilled was left out")


@pytest.mark.slow
def test_ranks_are_by_gain_for_damage() -> None:
    """Rank 1 saves most MACs for its damage when half of it is removed."""
    report = onnxprune.sensitivity(chain(), calib=data())
    points = [at(report, i, MIDDLE) for i in range(len(report.groups))]
    worth = [p.macs / max(p.damage, LEAST_DAMAGE) for p in points if p.macs is not None and p.damage is not None]
    assert report.gain == "MACs" and len(worth) == 3
    assert [g.rank for g in report.groups] == [sorted(worth, reverse=True).index(w) + 1 for w in worth]


@pytest.mark.slow
def test_a_group_that_hardly_matters_has_little_damage() -> None:
    """Half of the classifier's channels are a hundredth of the others."""
    report = onnxprune.sensitivity(classifier(), calib=samples())
    small, large = at(report, 0, 0.5).damage, at(report, 0, 0.9).damage
    assert small is not None and large is not None and small < 1e-3 < 0.05 < large


def test_only_layers_that_a_removal_reaches_are_refitted() -> None:
    """The layer that makes the channels and all after it; not the ones before."""
    analysis = analyze_loaded(load(chain()))
    removed = np.zeros(analysis.coupling.classes.elements, dtype=bool)
    (group,) = (g for g in analysis.groups if g.name == "w2:1")
    removed[group.channels[:3]] = True
    kept = kept_indices(analysis.coupling, removed)
    assert kept.layers == {"a", "c", "e", "y"}
    assert following(kept, analysis.coupling.graph).layers == {"c", "e", "y"}


def test_layers_after_a_body_that_may_read_anything_are_refitted() -> None:
    """An If captures a pruned value without an input of it."""
    model = build(
        """(float[N,6] x, bool c) => (float[N,4] y)
        <float[6,8] w1, float[8,4] w2, float[4,4] w3>
        { a = MatMul(x, w1)
          h = If(c) <then_branch = yes () => (float[N,4] t) { t = MatMul(a, w2) },
                     else_branch = no () => (float[N,4] u) { v = MatMul(a, w2) u = Neg(v) }>
          y = MatMul(h, w3) }""",
        constants={n: np.ones(s) for n, s in (("w1", (6, 8)), ("w2", (8, 4)), ("w3", (4, 4)))},
    )
    analysis = analyze_loaded(load(model))
    removed = np.zeros(analysis.coupling.classes.elements, dtype=bool)
    removed[analysis.groups[0].channels[:3]] = True
    kept = kept_indices(analysis.coupling, removed)
    assert "y" in following(kept, analysis.coupling.graph).layers


@pytest.mark.slow
def test_without_data_a_convolutional_model_runs_on_synthetic_inputs() -> None:
    report = onnxprune.sensitivity(tiny())
    assert report.on == "synthetic inputs" and report.samples > 0 and report.metric is None
    assert any("may differ" in note for note in report.notes)
    assert all(p.measured for g in report.groups for p in g.points)


def test_without_data_a_model_of_matrix_products_is_not_run() -> None:
    """What its weights say is not called measured."""
    report = onnxprune.sensitivity(chain())
    assert (report.on, report.samples, report.held_out) == ("weights alone", 0, False)
    assert any("nothing was run" in note for note in report.notes)
    points = [p for g in report.groups for p in g.points]
    assert not any(p.measured for p in points if p.removed)
    assert {p.agreement for p in points} == {None}
    assert {g.rank for g in report.groups} == {None}  # shares of scores of different layers cannot be compared


@pytest.mark.slow
@pytest.mark.parametrize("affordable_shares", [1, 0])
def test_a_large_model_is_measured_at_half_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, affordable_shares: int
) -> None:
    """The rest is predicted, and the report says so. The curve passes through what was measured."""
    whole = onnxprune.sensitivity(chain(), calib=data())
    monkeypatch.setattr(group_trials, "WORK", 1.1 * 3 * START * affordable_shares)
    report = onnxprune.sensitivity(chain(), calib=data())
    assert any("large" in note for note in report.notes) and not any("large" in note for note in whole.notes)
    for i, group in enumerate(report.groups):
        measured = [p.share for p in group.points if p.measured and p.removed]
        assert measured == [MIDDLE] * affordable_shares
        damage = [p.damage for p in group.points if p.damage is not None]
        assert len(damage) == len(SHARES) and damage == sorted(damage)
        seen = at(whole, i, 0.75).damage
        assert seen is not None and 0.3 < damage[3] / seen < 6


def test_what_can_be_tried_is_told_by_the_work() -> None:
    """With ten groups: all shares, the three in the middle, half of each group, with fewer samples, nothing."""
    tried = {
        WORK / 10 / 5: (SHARES, SAMPLES),
        WORK / 10 / 4: (SHARES, 0.8 * SAMPLES),
        WORK / 10 / 2: (SHARES[1:-1], 0.66 * SAMPLES),
        WORK / 10: ((MIDDLE,), SAMPLES),
        4 * WORK / 10: ((MIDDLE,), SAMPLES / 4),
        9 * WORK / 10: ((), 0),
    }
    for whole, (shares, most) in tried.items():
        found = affordable(lambda n, whole=whole: whole * n / SAMPLES, 10, SHARES, MIDDLE)  # type: ignore[misc]
        assert (found.shares, found.samples) == (shares, most // 16 * 16)


@pytest.mark.slow
def test_less_work_without_data_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = onnxprune.sensitivity(tiny())
    monkeypatch.setattr(group_trials, "WORK", 1.1 * START * len(whole.groups))
    report = onnxprune.sensitivity(tiny())
    assert [n for n in report.notes if n not in whole.notes] == [n for n in report.notes if "removal of 50%" in n] != []
    assert all([p.share for p in g.points if p.measured and p.removed] == [MIDDLE] for g in report.groups)


@pytest.mark.slow
def test_a_large_model_without_data_is_run_without_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heights of damage curves are measured at the outputs, so that nobody is told that nothing was run."""
    monkeypatch.setattr(group_trials, "WORK", 0.0)
    report = onnxprune.sensitivity(tiny())
    assert report.on == "synthetic inputs" and report.repair == "once the layers that read the group compensate"
    assert not any("nothing was run" in note for note in report.notes) and any("large" in n for n in report.notes)
    assert None not in {g.rank for g in report.groups}


def test_a_model_without_groups_is_not_called_large() -> None:
    """Nothing is left to try, whatever there is of data."""
    model = build("(float[N,6] x) => (float[N,4] y) <float[6,4] w> { y = MatMul(x, w) }")
    report = onnxprune.sensitivity(model, calib=data())
    assert not report.groups and not any("large" in note for note in report.notes)


@pytest.mark.slow
def test_pinned_groups_come_with_their_reasons() -> None:
    report = onnxprune.sensitivity(tiny(), only="w1")
    assert [g.group for g in report.groups] == ["w1:0"]
    whole = onnxprune.analyze(tiny())
    assert {p.group: p.because for p in report.pinned} == {g.name: g.reasons for g in whole.groups if g.name != "w1:0"}
    assert all(p.because for p in report.pinned)


@pytest.mark.slow
def test_times_give_the_share_of_the_time(tmp_path: Path) -> None:
    """Of an engine whose time is the number of parameters, the time saved is the share of these."""

    def engine(path: str) -> float:
        return sum(t.ByteSize() for t in onnx.load(path).graph.initializer) / 1e3

    times = onnxprune.measure(chain(), engine=engine, copies=24)
    report = onnxprune.sensitivity(chain(), calib=data(), times=times, repair="none")
    assert report.gain == "time"
    for i in range(3):
        point = at(report, i, 0.5)
        assert point.time is not None and point.gain == point.time
        assert point.time == pytest.approx(point.params, abs=0.1)


@pytest.mark.slow
def test_the_same_twice() -> None:
    """But for the seconds; and the JSON data read back are the report."""
    first, second = (onnxprune.sensitivity(chain(), calib=data()) for _ in range(2))
    assert {**first.to_dict(), "seconds": 0} == {**second.to_dict(), "seconds": 0}
    assert SensitivityReport.from_dict(first.to_dict()) == first
    assert repr(first).count("\n") == 0 and "3 groups" in repr(first)


@pytest.mark.slow
def test_a_run_reports_its_damage_curves() -> None:
    """Few points of each, as heights of the outputs where groups are weighed against each other."""
    made = onnxprune.prune(chain(), target={"macs": 0.5}, calib=data(), repair="none", time=False).report
    curves = made.damage_curves
    assert curves is not None and curves.of == "outputs" and list(curves.groups) == ["w1:1", "w2:1", "w3:1"]
    for name, curve in curves.groups.items():
        units = {"w1:1": 8, "w2:1": 10, "w3:1": 12}[name]
        assert len(curve.removed) == len(curve.damage) <= 6 and curve.removed[-1] == units - 1
        assert curve.damage == sorted(curve.damage)
        (group,) = (g for g in made.groups if g.name == name)
        if len(group.removed) in curve.removed:
            assert curve.damage[curve.removed.index(len(group.removed))] == pytest.approx(group.damage, rel=1e-3)
    ratio = onnxprune.prune(chain(), 0.5, calib=data(), repair="none", time=False).report.damage_curves
    assert ratio is not None and ratio.of == "readers"
    assert onnxprune.prune(chain(), 0.5, repair="none", time=False).report.damage_curves is None


def test_nothing_to_prune() -> None:
    report = onnxprune.sensitivity(chain(), ignore=".", calib=data())
    assert report.groups == [] and "0 groups" in repr(report)
    assert [p.group for p in report.pinned if "as asked for" in p.because[0]] == ["w1:1", "w2:1", "w3:1"]
