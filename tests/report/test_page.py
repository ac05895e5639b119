"""The report as a page: it holds what the report holds, loads nothing, and names of models do it no harm."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.report import terminal
from onnxprune.report.page.build import run_page, sensitivity_page, sweep_page
from onnxprune.report.page.content import Page
from onnxprune.report.page.render import render
from onnxprune.report.sensitivity import tables
from onnxprune.report.sweep_tables import tables as sweep_tables
from tests.report.test_sensitivity import HOSTILE, hostile
from tests.support import browser
from tests.support.classifier import classifier, samples
from tests.support.commands import Cli, assert_refused
from tests.support.paths import MODELS


class Parsed(HTMLParser):
    """A page as a browser reads it: tags with their attributes, and the JSON data."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        key = attributes.get("id") or tag
        self.texts[key] = self.texts.get(key, "") + data

    @property
    def page(self) -> dict[str, Any]:
        """What the page shows."""
        found: dict[str, Any] = json.loads(self.texts["data"])
        return found


def of_hostile_names() -> Page:
    """The page of the sensitivity of a model whose names are markup, control characters, formulas."""
    report = onnxprune.sensitivity(
        hostile(), calib={"x": np.eye(6, dtype=np.float32).repeat(20, axis=0)}, repair="none"
    )
    coupling = onnxprune.analyze(hostile()).coupling
    return sensitivity_page(
        "</title><script>alert(1)</script>", "onnxprune '</script>'", tables(report), coupling, report
    )


def of_a_run(**options: Any) -> tuple[Page, onnxprune.Result]:
    """The page of a run on the small classifier, and its result."""
    made = onnxprune.prune(classifier(), calib=samples(), repair="none", time=False, **options)
    parts = terminal.run(made.report, "net.onnx", "small.onnx")
    coupling = onnxprune.analyze(classifier()).coupling
    return run_page("net.onnx", "onnxprune net.onnx", parts, coupling, made.plan, made.report), made


@pytest.mark.slow
def test_names_become_no_markup() -> None:
    """The tags of the page are those of the template; the data are those that went in."""
    page = of_hostile_names()
    found, empty = Parsed(render(page)), Parsed(render(Page("", "", {}, [])))
    assert found.tags == empty.tags
    assert found.page == page.to_dict()
    names = [group["name"] for group in found.page["groups"]]
    assert all(any(name.startswith(one) for name in names) for one in HOSTILE)


@pytest.mark.slow
def test_nothing_is_loaded() -> None:
    """No address in an attribute, a style or a script; and the page forbids it itself."""
    page = render(of_hostile_names()).replace(json.dumps("data"), "")
    code = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.S)
    assert not re.search(r"\b(src|href|action|srcset|poster)\s*=", code)
    assert not re.search(r"url\(|@import|\bimport\s*\(|\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon|EventSource", code)
    assert set(re.findall(r"https?://[^\s\"']+", code)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    policy = [a["content"] for t, a in Parsed(page).tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policy) == 1 and str(policy[0]).startswith("default-src 'none'")


def test_scripts_make_no_markup_of_texts() -> None:
    code = render(Page("", "", {}, []))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", code)


@pytest.mark.slow
def test_layers_are_those_of_the_pruned_model() -> None:
    """Shapes and shares before and after, in execution order, with the groups that tie them."""
    page, made = of_a_run(ratio=0.5)
    shapes = {t.name: list(t.dims) for t in made.proto.graph.initializer}
    assert [layer.before for layer in page.layers] == [[8, 32], [32, 4]]
    assert [layer.after for layer in page.layers] == [shapes["w1"], shapes["w2"]] == [[8, 16], [16, 4]]
    assert [(layer.operator, layer.params, layer.kept) for layer in page.layers] == [
        ("MatMul", 256, 0.5),
        ("MatMul", 128, 0.5),
    ]
    (shared,) = set(page.layers[0].groups) & set(page.layers[1].groups)
    assert (page.groups[shared].channels, page.groups[shared].removed) == (32, 16)
    assert {g.grade for i, g in enumerate(page.groups) if i != shared} == {"pinned"}
    assert all(g.reasons for i, g in enumerate(page.groups) if i != shared)


@pytest.mark.slow
def test_damage_is_what_the_run_knows() -> None:
    """Of what was removed; none where curves were not measured at the outputs."""
    page, made = of_a_run(target={"macs": 0.5})
    (group,) = (g for g in made.report.groups if g.removed)
    (shown,) = (g for g in page.groups if g.name == group.name)
    assert shown.damage == group.damage is not None
    assert made.report.damage_curves is not None and page.curves_of == "the outputs"
    curve = made.report.damage_curves.groups[group.name]
    assert [round(s * 32) for s in page.curves[0].shares] == curve.removed and page.curves[0].damage == curve.damage
    page, _ = of_a_run(ratio=0.5)
    assert {g.damage for g in page.groups} == {None} and "layers that read" in page.curves_of


def test_weights_alone_colour_no_layer() -> None:
    """Shares of scores of different groups cannot be compared, and are of no output."""
    report = onnxprune.sensitivity(classifier())
    page = sensitivity_page("net", "", tables(report), onnxprune.analyze(classifier()).coupling, report)
    assert {g.damage for g in page.groups} == {None} and page.curves_of == "the weights alone"
    assert any("Share of the squared scores" in part.text for part in page.sections)


@pytest.mark.slow
def test_tables_are_those_of_the_terminal() -> None:
    page, made = of_a_run(ratio=0.5)
    rows = {row[0]: row[1:] for part in page.sections for row in part.rows}
    assert rows["parameters"] == ["384", "192", "50.0%"]
    assert rows["prunable channels"] == ["32", "16", "50.0%"]
    text = "\n".join(part.text for part in page.sections)
    assert f"On {made.report.calibration.samples} held-out samples" in text if made.report.calibration else False
    assert page.versions["onnxprune"] == onnxprune.__version__ and page.versions["onnx"] == onnx.__version__


@pytest.mark.slow
def test_a_page_of_a_large_network_is_small() -> None:
    """As many layers as a ResNet-50 has groups and more, with long names: below a megabyte."""
    page, _ = of_a_run(ratio=0.5)
    layers = [{**vars(page.layers[0]), "name": f"/backbone/stage.{i}/block.{i}/convolution/Conv"} for i in range(200)]
    large = Page(**{**vars(page), "layers": [type(page.layers[0])(**layer) for layer in layers]})
    assert len(render(large).encode()) < 10**6 / 4


@pytest.mark.slow
def test_every_verb_that_reports_writes_a_page(cli: Cli, tmp_path: Path) -> None:
    """With the command as it was typed; what is written and said besides is what it was."""
    model, small, plan, page = MODELS / "sk_mlp.onnx", tmp_path / "s.onnx", tmp_path / "p.json", tmp_path / "p.html"
    for words in (
        [model, "--ratio", 0.5, "--repair", "none", "--no-time", "--plan", plan, "-o", small],
        ["apply", plan, model, "-o", tmp_path / "again.onnx"],
        ["inspect", model],
        ["sensitivity", model, "--repair", "none"],
        ["sweep", model, "--ratio", "0.25,0.5", "--repair", "none", "--no-time"],
        ["compare", model, small, "--runs", 1],
        ["verify", model, small, "--plan", plan],
        [model, "--ratio", 0.5, "--dry-run", "-o", tmp_path / "none.onnx"],
    ):
        ended = cli(*words, "--html", page)
        assert ended.code == 0, ended.err
        found = Parsed(page.read_text(encoding="utf-8")).page
        page.unlink()
        assert found["sections"] and found["title"]
        assert found["command"].startswith("onnxprune ") and found["command"].endswith(f"--html {page}")
        assert all(str(word) in found["command"] for word in words)
        assert bool(found["layers"]) == (str(words[0]) not in ("compare", "verify", "sweep"))
        assert bool(found["variants"]) == (words[0] == "sweep")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.onnx", "p.json", "s.onnx"]


def test_a_page_that_cannot_be_written_is_refused_before_the_work(cli: Cli, tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    onnx.save(classifier(), model)
    before = model.read_bytes()
    assert "is the input" in assert_refused(cli(model, "--ratio", 0.5, "--html", model))
    assert "does not exist" in assert_refused(cli("inspect", model, "--html", tmp_path / "no" / "p.html"))
    assert model.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


needs_browser = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium")


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    """The page of hostile names, written."""
    path = tmp_path / "page.html"
    path.write_text(render(of_hostile_names()), encoding="utf-8")
    return path


@pytest.mark.slow
@needs_browser
def test_the_front_in_a_browser(tmp_path: Path) -> None:
    """A point a variant, within the picture; those on the front are filled, come last, and are joined by the line."""
    report = onnxprune.sweep(
        classifier(), (0.25, 0.5, 0.75), importance=("obs", "random"), calib=samples(), repair="none", time=False
    )
    page = tmp_path / "page.html"
    page.write_text(render(sweep_page("net", "onnxprune sweep net.onnx", sweep_tables(report), report)))
    with browser.opened(page) as tab:
        assert tab.complaints() == []
        told = tab.run("[...document.querySelectorAll('.front circle')].map((c) => c.getAttribute('aria-label'))")
        filled = tab.run("document.querySelectorAll('.front circle:not(.predicted)').length")
        joined = tab.run("document.querySelector('.front path').getAttribute('d')")
        inside = tab.run(
            "[...document.querySelectorAll('.front circle')].every((c) => c.cx.baseVal.value >= 44 && "
            "c.cx.baseVal.value <= 548 && c.cy.baseVal.value >= 10 && c.cy.baseVal.value <= 266)"
        )
    assert len(told) == 6 and 0 < filled == len(report.front) < 6 and inside
    assert [line.endswith("on the front") for line in told] == [False] * (6 - filled) + [True] * filled
    assert {line.partition(":")[0] for line in told[-filled:]} == set(report.front)
    assert len(re.findall("[ML]", joined)) == filled


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser(shown: Path, dark: bool) -> None:
    """No complaint, no request but the page's own, every layer and curve there; texts are as light as the paper is dark."""
    with browser.opened(shown, dark=dark) as tab:
        assert tab.complaints() == []
        assert [url for url in tab.requests() if not url.startswith("file:")] == []
        assert tab.run("document.querySelectorAll('.strip li').length") == len(HOSTILE) + 1
        assert tab.run("document.querySelectorAll('.curves svg path').length") == len(HOSTILE)
        assert tab.run("document.querySelectorAll('script').length") == 2
        assert tab.run("document.title").startswith("</title><script>alert(1)</script>")
        wide = tab.run("document.documentElement.scrollWidth <= innerWidth")
        assert wide, "the page is wider than the window"
        paper, ink = (
            np.array(re.findall(r"\d+", tab.run(f"getComputedStyle(document.body).{name}"))[:3], dtype=int).mean()
            for name in ("backgroundColor", "color")
        )
        assert (paper < 60 and ink > 200) if dark else (paper > 200 and ink < 60)


@pytest.mark.slow
@needs_browser
def test_pointing_at_a_layer_shows_what_is_tied(shown: Path) -> None:
    """The layer and its neighbours in the chain; by pointer and by keyboard."""
    tied = "[...document.querySelectorAll('.strip li')].map(row => row.classList.contains('tied'))"
    with browser.opened(shown) as tab:
        tab.run("document.querySelector('.strip').scrollIntoView()")
        tab.point_at(".strip li:nth-child(3)")
        assert tab.run(tied) == [i in (1, 2, 3) for i in range(len(HOSTILE) + 1)]
        assert "MatMul 6\N{MULTIPLICATION SIGN}6" in tab.run("document.querySelector('.told').textContent")
        tab.run("scrollTo(0, 0)")
        tab.point_at("h1")
        assert not any(tab.run(tied))
        tab.press("Tab")
        assert tab.run("document.activeElement === document.querySelector('.strip li')")
        assert tab.run(tied) == [i in (0, 1) for i in range(len(HOSTILE) + 1)]
        assert tab.complaints() == []


@pytest.mark.slow
@needs_browser
def test_it_can_be_printed_and_read_aloud(shown: Path) -> None:
    """A PDF of some pages; every row, picture and table has its words."""
    with browser.opened(shown) as tab:
        made = tab.call("Page.printToPDF", printBackground=True)
        assert len(made["data"]) > 10_000
        unnamed = "[...document.querySelectorAll('svg, .strip li')].filter(e => !e.getAttribute('aria-label')).length"
        assert tab.run(unnamed) == 0
        assert tab.run("document.querySelectorAll('table th[scope=col]').length") > 0
        assert tab.run("document.documentElement.lang") == "en"
        levels = tab.run("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
        assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
