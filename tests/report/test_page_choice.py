"""What the sliders of a page predict is what a run has of the recipe that they write."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.cli.recipe import read
from onnxprune.common.math import share
from onnxprune.cost.cost_model import macs, nbytes, parameters
from onnxprune.cost.measure import measure
from onnxprune.cost.table import CostTable
from onnxprune.cost.time_model import latency
from onnxprune.coupling.groups import Grade, Group
from onnxprune.options import Options
from onnxprune.pipeline.analysis import Analysis, shares_by_group
from onnxprune.pipeline.group_patterns import group_patterns
from onnxprune.pipeline.scenario import scenario
from onnxprune.report.json_data import plain
from onnxprune.report.page.build import inspection_page
from onnxprune.report.page.content import Page
from onnxprune.report.page.render import render
from tests.report.test_page import needs_browser
from tests.report.test_sensitivity import hostile
from tests.support import browser
from tests.support.commands import Cli
from tests.support.paths import MODELS, PACKAGE
from tests.support.sliders import move
from tests.timing.test_measure import Parameters, times

NODE = shutil.which("node")
NAMES = ["pt_resnet_bn", "pt_mobilenet", "pt_transformer_packed", "pt_bilstm", "keras_cnn"]
EVALUATED = """
const { page, kept } = JSON.parse(require("fs").readFileSync(0, "utf-8"));
const costs = ["params", "macs"].map((name) => page.choice[name]);
const lost = (counts) => counts.map((n, i) => page.groups[page.choice.sliders[i].group].channels - n);
const found = kept.map((counts) => [costs.map((cost) => left(cost, lost(counts))), recipeOf(page, counts)]);
console.log(JSON.stringify(found));
"""


def table_left(table: CostTable, removed: np.ndarray) -> float:
    """The cost by its definition, term by term."""
    lengths, total = list(table.lengths), table.fixed
    for length, group, step in table.slopes:
        lengths[length] -= step * int(removed[group])
    for term in table.terms:
        blocks = term.blocks or [1] * len(term.axes)
        value = term.factor * float(np.prod([-(-lengths[a] // b) * b for a, b in zip(term.axes, blocks, strict=True)]))
        there = not term.causes or any(removed[g] for g in term.causes)
        if there and not (term.odd and lengths[term.odd[0]] % term.odd[1] == 0) and (table.singles or value > 1):
            total += value
    return total


def exact(analysis: Analysis) -> list[Group]:
    return [g for g in analysis.groups if g.grade == Grade.EXACT]


def some_removed(groups: list[Group], count: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.array([rng.integers(0, g.units) for g in groups], dtype=np.int64) for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_tables_say_what_the_costs_say(name: str) -> None:
    analysis = onnxprune.analyze(MODELS / f"{name}.onnx")
    groups, counted = exact(analysis), measure(analysis.model)
    costs = [parameters(analysis.coupling, groups), nbytes(analysis.coupling, groups, 10**6)]
    costs.append(macs(analysis.coupling, groups, counted.shapes))
    for removed in some_removed(groups):
        assert [table_left(cost.table(), removed) for cost in costs] == [cost.left(removed) for cost in costs]


@pytest.mark.slow
def test_the_table_of_a_latency_says_what_it_says() -> None:
    """With lengths that are rounded up, and terms that count off multiples only."""
    analysis = onnxprune.analyze(MODELS / "pt_resnet_bn.onnx")
    groups = exact(analysis)
    cost = latency(analysis.coupling, groups, measure(analysis.model).shapes, times(analysis, Parameters(), copies=12))
    assert cost.table().terms
    for removed in some_removed(groups):
        assert table_left(cost.table(), removed) == pytest.approx(cost.left(removed), rel=1e-9)


def named_after_nodes() -> onnx.ModelProto:
    """Convolutions whose weights have numbers for names, so that groups are named after nodes that others touch too."""
    rng, nodes, weights = np.random.default_rng(0), [], []
    for i in range(4):
        weights.append(
            onnx.numpy_helper.from_array(rng.normal(size=(6, 6, 1, 1)).astype(np.float32), f"onnx::Conv_{i}")
        )
        nodes.append(onnx.helper.make_node("Conv", [f"x{i}", weights[-1].name], [f"x{i + 1}"], name=f"/layer.{i}/Conv"))
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", 6, 4, 4]) for n in ("x0", "x4")]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def models() -> list[Any]:
    stored = [pytest.param(MODELS / f"{name}.onnx", id=name) for name in NAMES]
    return [*stored, pytest.param(hostile(), id="hostile"), pytest.param(named_after_nodes(), id="nodes")]


@pytest.mark.slow
@pytest.mark.parametrize("model", models())
def test_each_group_has_an_expression_of_its_own(model: Any) -> None:
    """In their order every group gets the share that its own expression gives."""
    analysis = onnxprune.analyze(model)
    groups = exact(analysis)
    found = group_patterns(groups)
    assert sorted(one.group for one in found) == list(range(len(groups)))
    shares = {one.pattern: (one.group + 1) / 1000 for one in found}
    assert shares_by_group(analysis, groups, shares) == {i: (i + 1) / 1000 for i in range(len(groups))}


def page_of(model: Any) -> tuple[Page, Analysis]:
    analysis = onnxprune.analyze(model)
    other = scenario(analysis, Options.of(0.0), "onnxprune net.onnx --recipe recipe.toml")
    return inspection_page("net", "onnxprune inspect net.onnx", ["words"], analysis.coupling, other), analysis


def evaluated(page: Page, kept: list[list[int]]) -> list[tuple[list[float], str]]:
    """What the scripts of the page predict and write for some choices."""
    scripts = [(PACKAGE / "report" / "page" / name).read_text(encoding="utf-8") for name in ("costs.js", "choice.js")]
    given = json.dumps({"page": plain(page), "kept": kept})
    command = [str(NODE), "-e", "\n".join([*scripts, EVALUATED])]
    ended = subprocess.run(command, input=given, capture_output=True, text=True, check=True, timeout=60)
    return [(costs, recipe) for costs, recipe in json.loads(ended.stdout)]


@pytest.mark.slow
@pytest.mark.skipif(NODE is None, reason="needs node")
@pytest.mark.parametrize("model", models())
def test_the_scripts_predict_and_write_what_was_chosen(model: Any, tmp_path: Path) -> None:
    page, analysis = page_of(model)
    groups = exact(analysis)
    chosen = [*some_removed(groups), np.zeros(len(groups), dtype=np.int64)]
    units = np.array([g.units for g in groups])
    found = evaluated(page, [(units - removed).tolist() for removed in chosen])
    costs = [parameters(analysis.coupling, groups), macs(analysis.coupling, groups, measure(analysis.model).shapes)]
    for removed, (predicted, recipe) in zip(chosen, found, strict=True):
        assert predicted == [cost.left(removed) for cost in costs]
        assert kept_by(recipe, analysis, tmp_path) == (units - removed).tolist()


def kept_by(recipe: str, analysis: Analysis, folder: Path) -> list[int]:
    """The units that each group keeps by a recipe."""
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    options = read(folder / "recipe.toml")
    assert options["ratio"] == 0.0
    pairs = [text.rpartition("=") for text in options.get("keep", [])]
    groups = exact(analysis)
    shares = shares_by_group(analysis, groups, {name: float(number) for name, _, number in pairs})
    return [g.units - share(1 - shares.get(i, 1.0), g.units) for i, g in enumerate(groups)]


@pytest.mark.slow
@pytest.mark.skipif(NODE is None, reason="needs node")
@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["conv1", "conv2"], ["conv1", "conv2"]),
        (["net/stage/block.1/conv", "net/stage/block.2/conv"], ["…/block.1/conv", "…/block.2/conv"]),
        (["net/block/a/dense_1/bias/read", "net/block/a/dense_2/bias/read"], ["…/dense_1/bias…", "…/dense_2/bias…"]),
        (["net/blocks/first/dense", "net/blocks/first/dense;net/blocks/first/bias"], ["…/first/dense", "…/first/bias"]),
        (["a" * 40, "b" + "a" * 39], ["aaaaaaaa…aaaaaaa", "baaaaaaa…aaaaaaa"]),
        (["b" * 9 + "x" + "a" * 40, "b" * 9 + "y" + "a" * 40], ["b" * 9 + "xaaaaa…", "b" * 9 + "yaaaaa…"]),
        (["a" * 40], ["aaaaaaaa…aaaaaaa"]),
        (["x" * 40] * 2, ["xxxxxxxx…xxxxxxx"] * 2),
    ],
)
def test_long_names_can_be_told_apart(names: list[str], shown: list[str]) -> None:
    code = (PACKAGE / "report" / "page" / "elements.js").read_text(encoding="utf-8")
    command = [str(NODE), "-e", f"{code}\nconsole.log(JSON.stringify(distinct({json.dumps(names)}, 16)));"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(ended.stdout) == shown


CHECKED = "document.querySelector('.controls input[type=checkbox]')"


@pytest.mark.slow
@needs_browser
def test_sliders_move_by_widths_that_the_engine_computes_fast(tmp_path: Path) -> None:
    """Until that is not asked for; of an engine that is given by what times it no such width is known."""
    page, analysis = page_of(MODELS / "pt_resnet_bn.onnx")
    path = tmp_path / "page.html"
    path.write_text(render(page), encoding="utf-8")
    with browser.opened(path) as tab:
        _, recipe = move(tab, [0.3, 0.62, 0.87])
        assert all(kept % 4 == 0 for kept in kept_by(recipe, analysis, tmp_path))
        tab.run(f"{CHECKED}.click()")
        _, recipe = move(tab, [0.3, 0.62, 0.87])
        assert any(kept % 4 for kept in kept_by(recipe, analysis, tmp_path))
        assert tab.complaints() == []
    other = scenario(analysis, Options.of(target={"latency": 0.5}, engine="timer {model}"), "onnxprune net.onnx")
    assert other is not None and set(other.steps) == {1}


@pytest.mark.slow
@pytest.mark.skipif(NODE is None, reason="needs node")
@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 1.46, [0, 0.5, 1, 1.5]),
        (-0.02, 0.13, [-0.05, 0, 0.05, 0.1, 0.15]),
        (0, 0.003, [0, 0.001, 0.002, 0.003]),
        (0, 0, [0, 0.2, 0.4]),
    ],
)
def test_axes_have_round_numbers(low: float, high: float, shown: list[float]) -> None:
    code = (PACKAGE / "report" / "page" / "front.js").read_text(encoding="utf-8")
    command = [str(NODE), "-e", f"{code}\nconsole.log(JSON.stringify(ticks({low}, {high})));"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(ended.stdout) == shown


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("name", ["pt_resnet_bn", "pt_mobilenet", "pt_transformer"])
def test_a_run_of_the_recipe_has_what_the_page_showed(name: str, cli: Cli, tmp_path: Path) -> None:
    """Exactly, in parameters and MACs; the page has the recipe as text, and saves it as a file."""
    page, model = tmp_path / "page.html", MODELS / f"{name}.onnx"
    data = MODELS / "digits_calib.npz"
    flags = ("--repair", "none", "--no-time", "--calib", data)
    assert cli(model, "--target", "macs=0.7", *flags, "-o", tmp_path / "a.onnx", "--html", page).code == 0
    with browser.opened(page) as tab:
        shown, recipe = move(tab, [0.3, 0.62, 0.87, 0.5])
        tab.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        tab.run("[...document.querySelectorAll('button')].find(b => b.textContent.startsWith('Save')).click()")
        tab.run("new Promise(done => setTimeout(done, 500))")
        assert tab.complaints() == []
        assert [url for url in tab.requests() if not url.startswith(("file:", "blob:"))] == []
    assert (tmp_path / "recipe.toml").read_text(encoding="utf-8") == recipe
    command = (model, "--recipe", tmp_path / "recipe.toml", "--calib", data, "--no-time", "--json")
    ended = cli(*command, "-o", tmp_path / "b.onnx")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["options"]["repair"] == "none"
    assert shown["parameters"].count == report["params"]["after"] < report["params"]["before"]
    assert shown["MACs"].count == report["macs"]["after"] < report["macs"]["before"]
    assert "about" in shown["damage"].left
