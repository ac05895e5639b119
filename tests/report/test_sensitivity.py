"""Sensitivity as tables and as CSV, also of models with hostile names; and on the command line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.report import tables as drawing
from onnxprune.report.sensitivity import COLUMNS, SensitivityReport, distinct, tables
from tests.support.commands import Cli, assert_refused
from tests.support.paths import MODELS

HOSTILE = [
    '=HYPERLINK("http://example.com")',
    "@sum\n1,2",
    "\x1b[31mred\x07",
    "-1+1",
    "a" * 500,
    "</script><b>\u202e\u05d0\u05d1,\"'",
    "\t+1",
]


def hostile() -> onnx.ModelProto:
    """A chain of layers with names that terminals and spreadsheets take for something else."""
    rng, nodes, value = np.random.default_rng(0), [], "x"
    weights = []
    for i, name in enumerate([*HOSTILE, "last"]):
        weights.append(onnx.numpy_helper.from_array(rng.standard_normal((6, 6)).astype(np.float32), name))
        nodes.append(onnx.helper.make_node("MatMul", [value, name], [f"v{i}"], name=f"{name} node"))
        nodes.append(onnx.helper.make_node("Relu", [f"v{i}"], [f"r{i}"]))
        value = f"r{i}"
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", 6]) for n in ("x", value)]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def report() -> SensitivityReport:
    """Of the hostile model."""
    x = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    return onnxprune.sensitivity(hostile(), calib={"x": x}, repair="none")


@pytest.mark.slow
def test_no_cell_is_a_formula_or_breaks_its_line(report: SensitivityReport) -> None:
    lines = list(csv.reader(io.StringIO(report.to_csv(), newline="")))
    assert lines[0] == list(COLUMNS)
    assert len(lines) == 1 + 5 * len(HOSTILE) == 1 + 5 * len(report.groups)
    for line in lines[1:]:
        assert len(line) == len(COLUMNS)
        for cell in line[:2]:
            assert cell.isprintable() and not cell.startswith(("=", "+", "-", "@"))
        assert all(cell == "" or float(cell) > -10 for cell in line[2:])
    assert {line[0].lstrip("'")[:20] for line in lines[1:]} >= {'=HYPERLINK("http://e', "-1+1:1", "a" * 20}


@pytest.mark.slow
def test_csv_holds_what_the_report_holds(report: SensitivityReport) -> None:
    rows = csv.DictReader(io.StringIO(report.to_csv(), newline=""))
    points = [(g, p) for g in report.groups for p in g.points]
    for row, (group, point) in zip(rows, points, strict=True):
        assert (int(row["channels"]), int(row["layers"]), int(row["rank"])) == (6, 2, group.rank)
        assert (float(row["share"]), int(row["removed"])) == (point.share, point.removed)
        assert (float(row["damage"]), float(row["params_saved"])) == (point.damage, point.params)
        assert row["time_saved"] == "" and row["metric"] == ""


def test_tables_fit_80_columns_whatever_the_names(report: SensitivityReport) -> None:
    text = drawing.text(tables(report), width=80)
    assert all(len(line) <= 80 and line.isprintable() for line in text.split("\n"))
    assert "10%" in text and "90%" in text and "rank" in text
    assert len([line for line in text.split("\n") if "HYPER" in line]) >= 2


def test_groups_can_be_told_apart() -> None:
    """However alike long names are; those of one group in every table are the same."""
    long = [f"encoder.layers.{i}.self_attention.{part}.weight:0" for i in range(3) for part in ("in", "out")]
    assert len(set(distinct(long, 30))) == 6
    assert all(len(name) <= 30 for name in distinct(long, 30))
    assert distinct(["stem", "head"], 30) == ["stem", "head"]


def test_json_is_strict(report: SensitivityReport) -> None:
    assert json.loads(report.to_json(), parse_constant=pytest.fail)["groups"][0]["group"].startswith("=HYPER")


@pytest.mark.slow
def test_command(cli: Cli, tmp_path: Path) -> None:
    """Tables on stdout, files where asked; the model is untouched, and nothing is pruned."""
    model, rows, data = MODELS / "sk_mlp.onnx", tmp_path / "rows.csv", tmp_path / "all.json"
    words = ["sensitivity", model, "--calib", MODELS / "digits_calib_flat.npz", "--samples", 128]
    ended = cli(*words, "--csv", rows, "-o", data)
    assert ended.code == 0 and ended.err == ""
    assert "on 19 held-out calibration samples, after a refit of what follows" in " ".join(ended.out.split())
    found = json.loads(data.read_text())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.json", "rows.csv"]
    assert len(rows.read_text().splitlines()) == 1 + 5 * len(found["groups"])
    printed = json.loads(cli(*words, "--json").out)
    assert {**printed, "seconds": 0} == {**found, "seconds": 0}
    assert (printed["schema"], printed["version"], printed["model"]) == (1, onnxprune.__version__, str(model))


def test_command_refuses(cli: Cli, tmp_path: Path) -> None:
    """The input as output, a pattern that matches nothing, a model that is none."""
    model = tmp_path / "net.onnx"
    onnx.save(hostile(), model)
    before = model.read_bytes()
    assert "is the input" in assert_refused(cli("sensitivity", model, "--csv", model))
    assert "is the input" in assert_refused(cli("sensitivity", model, "-o", model))
    assert "matches no" in assert_refused(cli("sensitivity", model, "--only", "nothing"))
    assert_refused(cli("sensitivity", tmp_path / "none.onnx"))
    assert model.read_bytes() == before
