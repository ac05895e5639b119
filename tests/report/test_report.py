"""The report as data and as text."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.coupling.groups import Grade, Group
from onnxprune.repair.layerwise import Refit
from onnxprune.report import tables, terminal
from onnxprune.report.build import whole_because
from onnxprune.report.json_data import plain
from onnxprune.report.report import (
    CalibrationReport,
    Count,
    GroupReport,
    InputReport,
    LatencyReport,
    Report,
    ScaleMismatch,
    TargetReport,
    TrainingMismatch,
)
from onnxprune.report.warnings import warnings
from onnxprune.verification.decisions import Decisions, Estimate
from onnxprune.verification.drift import Drift
from onnxprune.verification.latency import Timing
from tests.ops.case import build
from tests.support.commands import tiny
from tests.support.paths import MODELS


def report(**changes: Any) -> Report:
    """A report on a tiny model, with some fields replaced."""
    made = onnxprune.prune(tiny(), 0.5, repair="none")
    return replace(made.report, **({"many_positions": []} | changes))


def drawn(*, output: str | None = "net.pruned.onnx", width: int | None = None, **changes: Any) -> str:
    """Such a report as text."""
    return tables.text(terminal.run(report(**changes), "net.onnx", output), width=width)


def judged(lost: float, low: float, high: float) -> CalibrationReport:
    """What samples say of an output that chooses classes."""
    decisions = Decisions("y", Estimate(0.9, 0.8, 0.95), Estimate(lost, low, high))
    return CalibrationReport(40, True, 0.9, decisions)


def samples(inputs: dict[str, InputReport] | None = None, **changes: Any) -> CalibrationReport:
    """What is known of samples of a model whose outputs stayed."""
    return CalibrationReport(40, True, 0.01, inputs=inputs or {}, **changes)


def seen(**changes: Any) -> InputReport:
    """What 40 samples hold for an input."""
    return replace(InputReport([3], 0.0, 255.0, 120.0, 60.0, 40, 0, False), **changes)


def timed(before: float, after: float) -> LatencyReport:
    """Times of a run in seconds."""
    old, new = (Timing(t, t, t, t) for t in (before, after))
    return LatencyReport(old, new, after / before, runs=5, threads=1, layers=4, uneven=3)


def test_numbers_agree_with_the_model() -> None:
    """Parameters, bytes and channels are those of the two models."""
    made = onnxprune.prune(tiny(), 0.5, repair="none")
    for key, model in (("before", tiny()), ("after", made.model)):
        assert getattr(made.report.bytes, key) == len(model.SerializeToString())
        assert getattr(made.report.params, key) == sum(
            onnx.numpy_helper.to_array(t).size for t in model.graph.initializer
        )
    assert made.report.channels == Count(32, 16)


def test_options_of_the_run() -> None:
    """What was asked stands in the report under the names of `Options.of`; a plan was asked nothing."""
    made = onnxprune.prune(tiny(), 0.5, repair="none", global_ranking=True, importance="l1")
    asked = made.report.options
    assert (asked["ratio"], asked["global_ranking"], asked["importance"]) == (0.5, True, "l1")
    assert onnxprune.apply(made.plan, tiny()).report.options is None


@pytest.mark.slow
def test_channels_are_those_open_to_pruning() -> None:
    """Channels of grade mixing count only where they were open."""
    source = build(
        """(float[N,3] x) => (float[N,2] y) <float[3,6] w, float[6,5] u, float[5,2] v>
        { h = MatMul(x, w)  r = Relu(h)  k = MatMul(r, u)  m = Hardmax <axis = 1> (k)  y = MatMul(m, v) }"""
    )
    closed = onnxprune.prune(source, 0.5, importance="l2", verify=False).report
    opened = onnxprune.prune(source, 0.5, importance="l2", verify=False, mixing=True).report
    count = {g: sum(e.channels for e in closed.groups if e.grade == g) for g in ("exact", "mixing")}
    assert closed.channels.before == count["exact"]
    assert opened.channels.before == count["exact"] + count["mixing"] > count["exact"]


def test_strict_json() -> None:
    """Numbers that JSON lacks become null."""
    assert plain({"a": [float("nan"), 1.5, {"b": float("-inf")}]}) == {"a": [None, 1.5, {"b": None}]}


def test_what_cannot_be_counted() -> None:
    """Null is shown as unknown, and left out of the sentence."""
    shown = drawn(macs=Count(None, None), drift={"y": Drift(None, None, None)})
    assert re.search(r"^MACs +unknown +unknown +-$", shown, flags=re.M)
    assert "of the MACs" not in shown
    assert re.search(r"^y +- +- +-$", shown, flags=re.M)


def test_plain_text() -> None:
    """Without colour there are no escape codes, no trailing blanks and no lines drawn; with it there are codes."""
    plain = drawn()
    assert plain.isascii()
    assert "\x1b" not in plain
    assert all(line == line.rstrip() for line in plain.splitlines())
    assert "\x1b[1m" in tables.text(terminal.run(report(), "net.onnx", None), colour=True)


def test_width() -> None:
    """On a terminal nothing is wider than it."""
    groups = [GroupReport("n" * 90, 4, [0], "exact", [])]
    shown = drawn(output=None, groups=groups, width=60)
    assert max(map(len, shown.splitlines())) <= 60


def test_long_tables_are_cut() -> None:
    """Thousands of groups and outputs stay readable: the widest groups, the outputs that moved most."""
    groups = [GroupReport(f"w{i}:0", 10 + i, [0, 1], "exact", []) for i in range(140)]
    drift = {f"y{i}": Drift(1.0, i / 100, 0.5) for i in range(12)}
    lines = drawn(output=None, groups=groups, drift=drift).splitlines()
    assert "... and 120 more" in lines
    assert "... and 7 more" in lines
    assert ["w139:0", "149", "2", "147"] in [line.split() for line in lines]
    assert [line.split()[0] for line in lines if line.startswith("y")] == ["y11", "y10", "y9", "y8", "y7"]


def test_reasons_are_told() -> None:
    """Why groups stay whole: the commonest reasons, and how many more there are."""
    groups = [GroupReport(f"w{i}", i, [], "pinned", [f"reason {i}"]) for i in range(1, 6)]
    groups.append(GroupReport("m", 9, [], "mixing", ["LayerNormalization"]))
    shown = drawn(groups=groups)
    assert "6 groups: 0 pruned, 0 left whole, 1 mixing, 5 pinned" in shown
    assert "- mixing: LayerNormalization; --mixing prunes them too" in shown
    assert "- pinned: reason 5; reason 4; reason 3; and 2 more" in shown


def test_long_names_are_cut() -> None:
    """A name of hundreds of characters does not drown the table; its ends stay."""
    name = "MobileNetV2/" + "x" * 300 + "/weight"
    groups = [GroupReport(name, 4, [0], "exact", [])]
    (row,) = [line for line in drawn(output=None, groups=groups).splitlines() if line.startswith("MobileNetV2/")]
    assert len(row) < 90
    assert "/weight" in row


def test_names_cannot_steer_the_terminal() -> None:
    """Control characters and markup in names are shown, not obeyed."""
    shown = drawn(drift={"a\x1b[2Jb\n[red]c": Drift(1.0, 0.1, 1.0)})
    assert "a?[2Jb [red]c" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"verified": False, "unverified_because": "no such operator"}, ["not verified: no such operator"]),
        (
            {"many_positions": ["y"]},
            [
                "accuracy unknown, and at risk: y has values for many positions of a sample (a detector, a map, a "
                "sequence); pruned without samples, such a model may find nothing any more: give some with calib=..."
            ],
        ),
        ({"many_positions": ["y"], "drift": {"y": Drift(1e-6, 1e-6, 1.0)}}, []),
        ({"many_positions": ["y"], "drift": {"y": Drift(None, None, None, equal=1.0)}}, []),
        ({"many_positions": ["y"], "calibration": judged(0.0, 0.0, 0.03)}, []),
        ({"calibration": judged(0.0, 0.0, 0.03)}, []),
        ({"calibration": judged(0.03, -0.01, 0.07)}, []),
        ({"calibration": judged(0.06, 0.03, 0.09)}, ["accuracy is lost: 6.0% (3.0 to 9.0%) on held-out samples"]),
        ({"calibration": CalibrationReport(40, True, 0.02)}, []),
        (
            {"calibration": CalibrationReport(40, True, 0.07)},
            ["the outputs are others than before: squared error 7.0% of their variance on held-out samples"],
        ),
        (
            {"calibration": CalibrationReport(40, True, None)},
            ["the outputs are others than before: squared error not finite on held-out samples"],
        ),
        (
            {"calibration": samples(unused=["z"])},
            ["calibration data: array 'z' is neither an input nor labels, and is not used"],
        ),
        (
            {"calibration": samples({"x": seen(broken=3), "m": seen(alike=True)})},
            ["calibration data: input 'x' has values that are not finite in 3 samples of 40"],
        ),
        (
            {"calibration": samples({"x": seen(alike=True), "m": seen(alike=True)})},
            ["calibration data: all samples are equal"],
        ),
        (
            {"calibration": replace(samples(), held_out=False)},
            ["calibration data: too few samples to hold any back: errors are of samples that were learned from"],
        ),
        ({"calibration": samples(mismatch=TrainingMismatch("n", 0.1))}, []),
        (
            {"calibration": samples({"x": seen()}, mismatch=TrainingMismatch("n", 7.3))},
            [
                "calibration data: running statistics of 'n' are far from what it reads here (divergence 7.3): are the "
                "samples preprocessed as in training? x: low 0, high 255, mean 120, deviation 60"
            ],
        ),
        ({"calibration": samples(scale=ScaleMismatch(256.0, 1.35, 1.0))}, []),
        (
            {"calibration": samples({"x": seen()}, scale=ScaleMismatch(1 / 64, 1.28, 0.64))},
            [
                "calibration data: values 64 times as small suit the weights better (median |mean| / deviation of all "
                "features 0.64, of these samples 1.3): are the samples preprocessed as in training? x: low 0, high "
                "255, mean 120, deviation 60"
            ],
        ),
        ({"macs": Count(100, 50), "latency": timed(1e-3, 0.7e-3)}, []),
        (
            {"macs": Count(100, 50), "latency": timed(1e-3, 0.9e-3)},
            [
                "a run takes 90.0% of the time at 50.0% of the MACs: 3 of the 4 layers that have fewer channels now "
                "have a number of them that is no multiple of 8; round_to=8 keeps multiples; "
                "target={'latency': 0.6} prunes to a time"
            ],
        ),
        ({"macs": Count(100, 50), "latency": timed(1e-5, 0.9e-5)}, []),
        (
            {
                "macs": Count(100, 50),
                "latency": timed(1e-3, 0.9e-3),
                "targets": {"latency": TargetReport(1.0, 0.9, True)},
            },
            [],
        ),
        (
            {"targets": {"latency": TargetReport(1.5, 2.5, False)}},
            ["target latency is missed: 2.5 ms left, 1.5 ms asked"],
        ),
        ({"macs": Count(100, 97), "latency": timed(1e-3, 1e-3)}, []),
        ({"macs": Count(100, None), "latency": timed(1e-3, 1e-3)}, []),
    ],
)
def test_warnings(changes: dict[str, Any], lines: list[str]) -> None:
    """Unverified results, lost accuracy and time that did not fall with the MACs are warned of; drift alone is not."""
    data = report(**{"drift": {"y": Drift(9.0, 9.0, 0.1)}, "latency": None, **changes})
    assert warnings(data) == lines


@pytest.mark.parametrize(
    ("error", "words"), [(0.0123, "squared error of the outputs 1.2% of their variance"), (None, "outputs not finite")]
)
def test_what_the_held_out_samples_say(error: float | None, words: str) -> None:
    shown = drawn(calibration=CalibrationReport(4, True, error))
    assert f"On 4 held-out samples: squared error of the {words.removeprefix('squared error of the ')}" in shown
    assert "Accuracy unknown" not in shown
    shown = drawn(calibration=CalibrationReport(4, False, error))
    assert "On 4 samples that were learned from (too few to hold any out): " in shown


def test_what_inputs_and_outputs_lost_is_no_sameness() -> None:
    same = "with the same inputs and outputs"
    assert f"{same}\n" in drawn(verified=True)
    assert f"{same} but for what these lost\n" in drawn(verified=True, interface={"past": {"1": 2}})


def test_without_samples_the_accuracy_is_unknown() -> None:
    shown = drawn()
    assert "Accuracy unknown: no samples were given to measure it on (--calib)" in shown
    assert "drift of output on synthetic inputs" in shown


def test_decisions_are_told_with_their_interval() -> None:
    shown = drawn(calibration=judged(0.06, 0.03, 0.09))
    assert "- y chooses the same in 90.0% (80.0 to 95.0%)" in shown
    assert "- accuracy lost: 6.0% (3.0 to 9.0%), estimated from the probabilities of the original" in shown


def test_why_nothing_was_taken_is_told_by_weight() -> None:
    """The five reasons that hold most channels, the commonest first, whatever they are called."""
    sizes = {"a": 1, "b": 6, "c": 2, "d": 5, "e": 3, "f": 4}
    groups = [Group(name, np.arange(size), Grade.PINNED, [name], []) for name, size in sizes.items()]
    groups.append(Group("both", np.arange(9), Grade.PINNED, ["f", "d"], []))
    assert whole_because(SimpleNamespace(groups=groups)) == ["d", "f", "b", "e", "c"]  # type: ignore[arg-type]
    free = Group("free", np.arange(4), Grade.EXACT, [], [])
    assert "no whole unit" in whole_because(SimpleNamespace(groups=[*groups, free]))[0]  # type: ignore[arg-type]
    assert whole_because(SimpleNamespace(groups=[])) == ["no weight has an axis that could be pruned"]  # type: ignore[arg-type]


def test_a_report_can_be_read_as_its_json_data() -> None:
    report = onnxprune.prune(tiny(), 0.5, repair="none").report
    assert report["params"] == {"before": report.params.before, "after": report.params.after}
    with pytest.raises(KeyError):
        report["parms"]


def test_layers_are_counted_once() -> None:
    """Whatever a layer was refitted in: alone, in a chain, or as one of several matrices of a recurrent layer."""
    records = [
        Refit("conv", 0.1, 1.0, 0.5),
        Refit("fc", None, 1.0, 1.0),
        Refit("conv + fc", 0.1, 1.0, 0.5),
        Refit("lstm input 0", None, 1.0, 1.0),
        Refit("lstm state 1", 0.1, 1.0, 0.5),
        Refit("head", None, 1.0, 1.0),
    ]
    assert terminal.refitted(records) == {"conv": True, "fc": True, "lstm": True, "head": False}


@pytest.mark.slow
def test_an_error_of_any_size_is_a_plain_number() -> None:
    made = onnxprune.prune(
        MODELS / "sk_mlp.onnx", 0.9, calib=str(MODELS / "digits_calib_flat.npz"), samples=60, repair="none", time=False
    )
    error = replace(made.report.calibration, relative_error=1.9, decisions=None)
    report = replace(made.report, calibration=error)
    assert "squared error of the outputs 190% of their variance" in terminal.accuracy(report)
    assert any("190% of their variance" in line for line in warnings(report))


@pytest.mark.parametrize("width", range(24, 120, 7))
def test_nothing_is_cut_off(width: int) -> None:
    """Whatever the terminal: every character of every cell is drawn, in lines that fit."""
    titles = ["", ">first", ">second", ">third", "words"]
    rows = [
        ["time of a run, default threads", "44 us (100.0%)", "1.11% (-0.58% to 2.80%)", "98.22%", "several of them"],
        ["drift (rel rms) of probabilities", "0.187", "0.0656", "7", "a_name_without_any_space_in_it_at_all"],
    ]
    drawn = tables.text([tables.table(titles, rows)], width=width)
    assert all(len(line) <= width for line in drawn.splitlines())
    assert sorted(drawn.replace("\n", "").replace(" ", "")) == sorted(
        "".join(t.lstrip(">") for t in titles).replace(" ", "") + "".join(rows[0] + rows[1]).replace(" ", "")
    )
