"""A dry run plans what the run does, and does nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import onnxprune
from onnxprune import api
from onnxprune.options import Options
from onnxprune.pipeline import attempt
from onnxprune.verification import check
from tests.support.classifier import classifier, samples
from tests.support.commands import Cli, tiny
from tests.support.lanes import spread

DATA: dict[str, Any] = {"calib": samples(60, labelled=False)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    spread(
        [
            {"ratio": 0.5},
            {"ratio": 0.4, **DATA},
            {"target": {"macs": 0.5}, **DATA},
            {"ratio": 0.3, "importance": "fpgm", "global_ranking": True, "round_to": 8},
            {"ratio": 0.3, "pattern": ["channels", "2:4"], **DATA},
            {"pattern": "weights=0.5", **DATA},
            {"pattern": "2:4", "permute": True},
            {"ratio": 0.5, "gate": {"drift": 1e-9}, **DATA},
            {"gate": {"drift": 0.1}, "drift_search": True, "repair": "none", **DATA},
        ],
        6,
    ),
)
def test_the_plan_is_that_of_the_run(options: dict[str, Any]) -> None:
    dry, run = (make(classifier(), Options.of(**options)) for make in (api.dry_run, api.run))
    assert dry.plan == run.plan
    for name in ("params", "macs", "channels", "targets", "whole_because", "interface"):
        assert getattr(dry.report, name) == getattr(run.report, name)


@pytest.mark.parametrize("options", [{}, {**DATA, "gate": {"drift": 0.5}}, {"gate": {"drift": 0.5}}])
def test_nothing_else_is_done(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """No repair, no run of the pruned model: none of what they are made of is called."""

    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("this is left out")

    for home, name in (
        (attempt, "refit_and_train"),
        (attempt, "evaluate"),
        (attempt, "verify_pruned"),
        (check, "time_models"),
    ):
        monkeypatch.setattr(home, name, refuse)
    report = api.dry_run(
        classifier() if "calib" in options else tiny(), Options.of(0.5, importance="l2", **options)
    ).report
    assert set(report.seconds) == {"load", "analyze", "score", "plan", "apply"}
    expected = {"repair", "verify", "time"} | ({"judge"} if "calib" in options else set())
    assert set(report.skipped) == expected | ({"gates"} if options else set())
    assert not report.verified and report.warnings == [] and report.gates == {} and report.drift == {}


def test_a_limit_on_the_drop_is_a_gate_that_is_left_out() -> None:
    report = api.dry_run(classifier(), Options.of(0.5, importance="l2", max_drop=0.5, **DATA)).report
    assert report.skipped == ["repair", "judge", "gates", "verify", "time"] and report.gates == {}


def test_what_was_asked_to_be_left_out_is_not_named() -> None:
    report = api.dry_run(tiny(), Options.of(0.5, importance="l2", repair="none", verify=False, time=False)).report
    assert report.skipped == [] and report.warnings == ["not verified: the runtime check was skipped"]


def test_it_is_said(cli: Cli, model: Path) -> None:
    asked = ["--ratio", 0.5, "--importance", "l2", "--dry-run"]
    ended = cli(model, *asked)
    assert (ended.code, ended.err) == (0, "")
    assert "Dry run without repair, verification and timing" in ended.out and "Accuracy" not in ended.out
    report = json.loads(cli(model, *asked, "--json").out)
    assert report["skipped"] == ["repair", "verify", "time"] and report["output"] is None
    assert sorted(p.name for p in model.parent.iterdir()) == [model.name]


def test_a_run_leaves_nothing_out() -> None:
    assert onnxprune.prune(tiny(), 0.5, repair="none", time=False).report.skipped == []


def test_a_missed_target_is_missed(cli: Cli, model: Path) -> None:
    ended = cli(model, "--target", "params=0.001", "--importance", "l2", "--dry-run")
    assert ended.code == 1 and "target params is missed" in ended.err
