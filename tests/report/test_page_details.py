"""What a page shows of a run besides its tables: worst samples, times of layers, weights with zeros."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.model.model import Model
from onnxprune.options import Options
from onnxprune.pipeline.scenario import scenario
from onnxprune.report.page.build import run_page, worst_samples
from onnxprune.report.page.content import Page
from onnxprune.report.page.render import render
from onnxprune.report.page.zeros import page_zeros
from onnxprune.verification.sample_errors import SampleError, SampleErrors
from tests.ops.case import build
from tests.report.test_page import Parsed, needs_browser
from tests.support import browser
from tests.support.classifier import classifier, samples
from tests.support.commands import Cli
from tests.support.paths import MODELS


def test_the_worst_samples_by_hand() -> None:
    """Root mean square of the difference over that of the original on all samples, by positions in the data."""
    errors = SampleErrors()
    errors.add(np.array([[3.0, 4.0], [0.0, 5.0]]), np.array([[3.0, 4.0], [0.0, 0.0]]))
    errors.add(np.array([[5.0, 0.0]]), np.array([[5.0, 1.0]]))
    positions = np.array([7, 20, 31])
    assert errors.worst(positions) == [SampleError(20, 1.0), SampleError(31, 0.2)]
    assert errors.worst(None) == [] == errors.worst(positions[:2])


@pytest.mark.parametrize(("a", "b"), [(["x"], ["y"]), ([1, 2], [2, 1]), ([[1.0]], [[1.0, 2.0]]), (1.0, 2.0)])
def test_outputs_without_distance_have_no_worst_sample(a: Any, b: Any) -> None:
    errors = SampleErrors()
    errors.add(np.array(a), np.array(b))
    assert errors.worst(np.arange(1)) == []


@pytest.mark.slow
def test_positions_are_those_of_the_data() -> None:
    """One sample is far from all others: where it is held out, it is the worst."""
    found = set()
    for position in range(0, 400, 40):
        data = samples()
        data["x"][position] *= 100
        report = onnxprune.prune(classifier(), 0.6, calib=data, repair="none", time=False, verify=False).report
        assert report.calibration is not None
        (output,) = report.calibration.outputs.values()
        assert len(output.worst) == 5 and output.agreement is not None
        errors = [one.error for one in output.worst]
        assert errors == sorted(errors, reverse=True)
        if errors[0] > 5 * errors[1]:
            found.add((position, output.worst[0].sample))
    assert found and all(position == sample for position, sample in found)


def run(**options: Any) -> tuple[onnxprune.Result, Any]:
    made = onnxprune.prune(classifier(), calib=samples(), repair="none", time=False, **options)
    return made, onnxprune.analyze(classifier()).coupling


def of(made: onnxprune.Result, coupling: Any, **more: Any) -> Page:
    return run_page("net", "onnxprune net", [], coupling, made.plan, made.report, model=Model(made.proto), **more)


@pytest.mark.slow
def test_the_page_names_the_worst_samples() -> None:
    made, coupling = run(ratio=0.5)
    assert made.report.calibration is not None
    (output,) = made.report.calibration.outputs.values()
    page = of(made, coupling)
    (row,) = (row for part in page.sections for row in part.rows if row[0] == "scores")
    assert row[2].startswith(f"{output.worst[0].sample} (") and row[2].count("(") == 5
    assert worst_samples(onnxprune.prune(classifier(), 0.5, time=False).report) == []


@pytest.mark.slow
def test_times_are_those_of_a_layer_and_what_follows_it() -> None:
    """The Relu counts to the first product; what belongs to no layer is told apart."""
    made, coupling = run(ratio=0.5)
    times = {"a": (1.0, 0.5), "hidden": (0.25, 0.125), "scores": (2.0, 1.5), "elsewhere": (4.0, 3.0)}
    page = of(made, coupling, times=times)
    assert [layer.times for layer in page.layers] == [[1.25, 0.625], [2.0, 1.5]]
    assert page.other_times == [4.0, 3.0]
    assert of(made, coupling).other_times is None


@pytest.mark.slow
def test_zeros_are_those_of_the_model() -> None:
    made, coupling = run(pattern="2:4")
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in made.proto.graph.initializer}
    page = of(made, coupling)
    assert {z.name for z in page.zeros} == set(made.plan.zeroed) and page.zeros
    for shown in page.zeros:
        array = arrays[shown.name]
        assert (shown.shape, shown.zeros) == (list(array.shape), 0.5)
        assert [[digit == "1" for digit in row] for row in shown.corner] == (array[:32, :32] != 0).tolist()
        assert sum(shown.sizes) == np.count_nonzero(array) and len(shown.sizes) == 24
        assert shown.sizes[-1] >= 1 and "2:4" in shown.pattern


def test_zeros_of_quantised_weights_are_those_of_their_values() -> None:
    """Stored is the zero point."""
    text = """(float[N,8] x) => (float[N,6] y) <uint8[8,6] w, float s, uint8 z>
        { d = DequantizeLinear(w, s, z)  y = MatMul(x, d) }"""
    stored = np.random.default_rng(0).integers(0, 256, (8, 6))
    made = onnxprune.prune(
        build(text, constants={"w": stored, "s": 0.1, "z": 128}), pattern="2:4", repair="none", time=False
    )
    (shown,) = page_zeros(Model(made.proto), made.plan.zeroed)
    assert shown.zeros == 0.5 and all(
        column.count("0") == 4 for column in map("".join, zip(*shown.corner, strict=True))
    )


@pytest.mark.slow
def test_a_timed_run_has_times_of_its_layers(cli: Cli, tmp_path: Path) -> None:
    """Of the original and of the result; none with --no-time."""
    page = tmp_path / "page.html"
    words = (
        MODELS / "pt_resnet_bn.onnx",
        "--ratio",
        0.5,
        "--repair",
        "none",
        "-o",
        tmp_path / "a.onnx",
        "--html",
        page,
    )
    assert cli(*words).code == 0
    found = Parsed(page.read_text(encoding="utf-8")).page
    spent = np.array([layer["times"] for layer in found["layers"]])
    assert len(spent) == 9 and (spent > 0).all()
    assert spent[:, 1].sum() < spent[:, 0].sum()
    assert cli(*words, "--no-time").code == 0
    untimed = Parsed(page.read_text(encoding="utf-8")).page
    assert {json.dumps(layer["times"]) for layer in untimed["layers"]} == {"null"} and untimed["other_times"] is None


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [1100, 400])
def test_details_in_a_browser(tmp_path: Path, width: int) -> None:
    """In a wide and in a narrow window, which the page is never wider than."""
    made, coupling = run(pattern="2:4")
    times = {"a": (1.0, 0.5), "hidden": (0.25, 0.125), "scores": (2.0, 1.5)}
    path = tmp_path / "page.html"
    analysis = onnxprune.analyze(classifier())
    other = scenario(analysis, Options.of(0.5), "onnxprune net.onnx --recipe recipe.toml")
    path.write_text(render(of(made, coupling, times=times, scenario=other)), encoding="utf-8")
    with browser.opened(path, width=width) as tab:
        assert tab.complaints() == []
        assert tab.run("document.documentElement.scrollWidth <= innerWidth")
        assert tab.run("document.querySelectorAll('.shares input').length") == 1
        assert tab.run("[...document.querySelectorAll('.times .share')].map(e => e.textContent)") == [
            "1.25 ms \N{RIGHTWARDS ARROW} 625 \N{MICRO SIGN}s",
            "2 ms \N{RIGHTWARDS ARROW} 1.5 ms",
        ]
        assert tab.run("document.querySelectorAll('svg.corner').length") == len(made.plan.zeroed)
        unnamed = "[...document.querySelectorAll('svg')].filter(e => !e.getAttribute('aria-label')).length"
        assert tab.run(unnamed) == 0
