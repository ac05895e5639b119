"""How far a run is: one number for all of it, told to whoever asks, drawn on a terminal only."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune.cli.progress import what
from onnxprune.common.progress import Meter, Progress, part, step
from onnxprune.options import Options
from onnxprune.pipeline.progress import work
from tests.support.classifier import classifier, samples
from tests.support.commands import Cli, tiny
from tests.support.lanes import spread
from tests.support.paths import MODELS

DATA: dict[str, Any] = {"calib": samples(60, labelled=False)}


def followed(**options: Any) -> tuple[list[Progress], onnxprune.Report]:
    seen: list[Progress] = []
    return seen, onnxprune.prune(**{"model": classifier(), **options}, progress=seen.append).report


RUNS: list[dict[str, Any]] = [
    {"ratio": 0.5},
    {"ratio": 0.5, **DATA},
    {"ratio": 0.5, **DATA, "steps": 2},
    {"pattern": "weights=0.5", **DATA},
    {**DATA, "gate": {"drift": 0.2}, "drift_search": True, "repair": "none"},
    {"model": tiny(), "ratio": 0.5},
]


Run = tuple[dict[str, Any], list[Progress], onnxprune.Report]
"""Options, what the callback was told, and the report."""


@pytest.fixture(scope="module", params=spread(RUNS, 4))
def run(request: pytest.FixtureRequest) -> Run:
    return request.param, *followed(**request.param)


@pytest.mark.slow
def test_one_number_from_beginning_to_end(run: Run) -> None:
    """It never falls, stays within its total, and reaches it."""
    _, seen, _ = run
    done = [p.done / p.total for p in seen]
    assert done == sorted(done) and done[0] == 0 and done[-1] == pytest.approx(1)
    assert len({p.total for p in seen}) == 1
    elapsed = [p.elapsed for p in seen]
    assert elapsed == sorted(elapsed)
    assert all(p.remaining is None or p.remaining >= 0 for p in seen)


@pytest.mark.slow
def test_every_stage_has_its_work(run: Run) -> None:
    """The estimate knows every stage that a run of any kind has."""
    options, _, report = run
    planned = work(Options.of(**{k: v for k, v in options.items() if k != "model"}))
    assert set(report.seconds) <= set(planned) | {"plan", "apply", "repair", "judge"}


@pytest.mark.slow
def test_stages_and_layers_are_named() -> None:
    seen, report = followed(ratio=0.5, **DATA)
    stages = list(dict.fromkeys(p.stage for p in seen))
    assert (
        stages
        == [*report.seconds]
        == ["load", "analyze", "score", "plan", "apply", "repair", "judge", "verify", "time"]
    )
    layers = {p.item for p in seen if p.stage == "repair"}
    assert {r.layer for r in report.repair or [] if " + " not in r.layer} <= layers


@pytest.mark.slow
def test_trials_of_a_search_are_numbered() -> None:
    seen, report = followed(**DATA, gate={"drift": 0.2}, drift_search=True, repair="none")
    assert report.search is not None and len(report.search.trials) > 1
    for number in range(1, len(report.search.trials) + 1):
        assert any(p.stage == f"search, model {number}: judge" for p in seen)


def test_an_exception_of_the_callback_ends_the_run() -> None:
    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.stage == "repair":
            raise Stop

    with pytest.raises(Stop):
        onnxprune.prune(classifier(), 0.5, **DATA, progress=stop)


@pytest.mark.slow
def test_the_callback_changes_nothing() -> None:
    plain, told = (onnxprune.prune(classifier(), 0.5, **DATA, progress=p).proto for p in (None, lambda progress: None))
    assert plain == told


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=6), st.integers(1, 4))
def test_ranges_are_kept(stages: list[tuple[str, int]], parts: int) -> None:
    """Whatever is called in a stage reports within its range; work that nobody expected takes none."""
    seen: list[Progress] = []
    meter = Meter(seen.append)
    meter.expect({"a": 1.0, "b": 2.0, "c": 1.0})
    bounds = {"a": (0, 1), "b": (1, 3), "c": (3, 4)}
    for name, steps in stages:
        before = seen[-1].done if seen else 0.0
        with meter.stage(name, name):
            for i in range(parts):
                with part(i / parts, (i + 1) / parts):
                    for k in range(steps):
                        step(f"{k}", k, steps)
                        assert seen[-1].done <= max(before, bounds[name][1]) + 1e-9
    step("outside", 0, 1)
    assert not seen or seen[-1].item != "outside"


sessions = pytest.importorskip("tools.sessions", reason="needs pseudo-terminals")


def drawn(*words: str) -> str:
    """What a terminal sees of a run."""
    calib = str(MODELS / "digits_calib_flat.npz")
    command = [str(MODELS / "sk_mlp.onnx"), "--ratio", "0.5", "--calib", calib, "--samples", "60"]
    target = [*command, "--no-time", "-o", os.devnull + ".onnx", *words] if "-o" in words else [*command, *words]
    text, returned = sessions.on_terminal(target, {"TERM": "xterm", "COLUMNS": "120"}, stdout=False)
    assert returned == 0
    return text


@pytest.mark.slow
def test_a_terminal_sees_one_bar(tmp_path: Any) -> None:
    """With the share of the work and the stage; in JSON runs too, as stderr is not stdout."""
    for words in ([], ["--json"]):
        text = drawn("--force", *words, "--output", str(tmp_path / "o.onnx"))
        assert "%" in text and any(stage in text for stage in ("score", "repair", "judge"))  # some are soon over


def test_a_bar_names_the_layer() -> None:
    assert what(Progress("repair", "mul_result", 1.0, 2.0, 0.5, None)) == "repair mul_result"


@pytest.mark.slow
@pytest.mark.parametrize("word", ["--quiet", "--no-progress"])
def test_it_can_be_left_away(word: str, tmp_path: Any) -> None:
    assert "repair" not in drawn(word, "--output", str(tmp_path / "o.onnx"))


def test_elsewhere_lines_are_written_if_asked_for(cli: Cli, tmp_path: Any) -> None:
    given_ = [MODELS / "sk_mlp.onnx", "--ratio", 0.5, "--repair", "none", "--no-time", "-o", tmp_path / "o.onnx"]
    assert cli(*given_).err == ""
    lines = cli(*given_, "--progress").err.splitlines()
    assert [line.split()[-1] for line in lines] == ["load", "analyze", "score", "plan", "apply", "verify", "save"]
    assert all(line.split()[0].endswith("%") for line in lines[:-1])
