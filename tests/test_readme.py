"""README and reference keep their word: links lead somewhere, commands and code run, the numbers are measured again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import onnxprune
from onnxprune.cli import recipe
from onnxprune.cli.prune import prune
from onnxprune.common.text import percent
from onnxprune.extensions import metrics, patterns, points
from tests.support.commands import Cli
from tests.support.paths import ROOT
from tools import bounds

PAGES = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in ("options", "milliseconds", "judging", "verbs", "zeros", "python", "report")
    ),
]
"""The README and the reference, in the order in which commands of one may read what those of another wrote."""
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
TEXT = "\n".join(TEXTS.values())
ENTRIES: dict[str, dict[str, Any]] = {
    e["file"]: e for e in json.loads((ROOT / "models" / "INDEX.json").read_text())["models"]
}
RATIOS = (0.5,)


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.M | re.S)


def commands() -> list[str]:
    """Every line of every shell block."""
    return [line for block in blocks("sh") for line in block.splitlines()]


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", t).strip().lower().replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links(page: Path) -> None:
    """Every relative link leads to a file, every anchor to a heading."""
    targets = re.findall(r"\]\(([^)\s]+)\)", TEXTS[page])
    for target in targets:
        path, _, anchor = target.partition("#")
        if not target.startswith("https://"):
            assert (page.parent / path).exists(), target
            assert not anchor or anchor in anchors(page.parent / path if path else page), target


def test_the_readme_leads_to_every_page() -> None:
    found = {(ROOT / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", TEXTS[PAGES[0]])}
    pages = {*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "howto").glob("*.md")} - {ROOT / "docs/howto/README.md"}
    assert {page.name for page in pages - found} == set()
    assert len(TEXTS[PAGES[0]].splitlines()) < 200


def test_what_it_links_to_comes_with_the_tests() -> None:
    """Also where these run on a built wheel, away from the repository."""
    links = re.findall(r"\]\(([^)]+)\)", TEXTS[PAGES[0]])
    targets = {target.partition("#")[0] for target in links if "://" not in target}
    assert {target.split("/")[0] for target in targets if target} <= set(bounds.BESIDE)


def test_two_commands() -> None:
    """The first command sets up and prunes a model of ours by half, the second runs the tests as CI does."""
    setup, tests = commands()[:2]
    _, install, demo = setup.split(" && ")
    assert install == ".venv/bin/pip install -q -e '.[test]'"
    python, script, model, *options = shlex.split(demo)
    assert python == ".venv/bin/python"
    assert (ROOT / script).is_file()
    assert model.removeprefix("models/") in ENTRIES
    assert options == ["--ratio", "0.5", "--calibrated"]
    assert tests.startswith(f"{python} -m pytest ")
    assert tests.removeprefix(python) in (ROOT / ".ci" / "run").read_text()


@pytest.mark.slow
def test_demo(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The script of the first command prints the table with the measured accuracy."""
    script, *arguments = shlex.split(commands()[0].split(" && ")[-1])[1:]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", [script, *arguments])
    scope: dict[str, Any] = {"__name__": "demo", "__file__": str(ROOT / script)}
    exec(compile((ROOT / script).read_text(), script, "exec"), scope)
    scope["main"]()
    rows = [line for line in capfd.readouterr().out.splitlines() if line.startswith(("parameters", "accuracy"))]
    assert [row.split()[0] for row in rows] == ["parameters", "accuracy"]
    before, after = accuracy(ROOT / arguments[0]), float(rows[1].split()[5])
    assert float(rows[1].split()[4]) == pytest.approx(before, abs=0.002)
    assert abs(after - before) < 0.05


@pytest.mark.slow
def test_commands_run(cli: Cli, clone: Path) -> None:
    """The command lines of the README, in their order."""
    lines = [shlex.split(line)[1:] for line in commands() if line.startswith("onnxprune ")]
    assert {line[0] for line in lines} >= {"inspect", "apply", "compare", "ops"}
    for line in lines:
        ended = cli(*line)
        assert ended.code == 0, ended.err
    assert (clone / "ranked.onnx").read_bytes() == (clone / "again.onnx").read_bytes()


@pytest.mark.slow
def test_recipe(cli: Cli, clone: Path) -> None:
    """The recipe fits a model."""
    (block,) = blocks("toml")
    (clone / "r.toml").write_text(block)
    assert cli("models/pt_resnet_bn.onnx", "--recipe", "r.toml").code == 0


@pytest.fixture
def registries() -> Iterator[None]:
    """What an example registers is not there for other tests."""
    kinds = (points.criteria, points.repairs, points.costs, points.sources, patterns.kinds, metrics.metrics)
    before = [kind.names() for kind in kinds]
    yield
    for kind, names in zip(kinds, before, strict=True):
        for name in set(kind.names()) - set(names):
            kind.remove(name)


@pytest.mark.slow
@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("block", blocks("python"))
def test_code_runs(block: str, clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The Python examples run, and print what they say they print."""
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    for said in re.findall(r"print\(.*\)  # (.*)$", block, flags=re.M):
        assert said in capsys.readouterr().out


def test_options() -> None:
    """The table of options is complete, with the true defaults."""
    rows = {m[0]: m[1] for m in re.findall(r"^\| `(?:-o`, `)?(--[a-z-]+)[^|]*\|[^|]*\| ?([^|]*) \|$", TEXT, flags=re.M)}
    assert set(rows) == {p.opts[-1] for p in prune.params if p.opts[-1].startswith("-")} - {"--version", "--help"}
    assert {f"--{key}" for key in recipe.KEYS} == set(rows) - {"--recipe", "--scheduler", "--work"}
    for param in prune.params:
        if isinstance(param.default, (int, str)) and not isinstance(param.default, bool):
            assert rows[param.opts[-1]].strip("` ") == str(param.default)


@pytest.mark.slow
def test_schemas(cli: Cli, clone: Path) -> None:
    """The keys of plan and report are those in the README."""
    ended = cli("models/pt_resnet_bn.onnx", "--ratio", 0.5, "--json", "--plan", "p.json")
    for title, data in (
        ("The plan", json.loads((clone / "p.json").read_text())),
        ("The JSON report", json.loads(ended.out)),
    ):
        section = TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]
        cells = re.findall(r"^\| (`.*?) \|", section, flags=re.M)
        assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == set(data)


def accuracy(model: Path | bytes, name: str | None = None) -> float:
    """Share of the held-out samples that a model classifies correctly."""
    entry = ENTRIES[name or Path(str(model)).name]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    with np.load(ROOT / "models" / entry["test"]) as data:
        scores = np.asarray(session.run([entry["output"]], {entry["input"]: data[entry["input"]]})[0])
        return float(np.mean(scores.argmax(axis=1) == data[entry["labels_key"]]))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_table(name: str) -> None:
    """The row of a model: `tools/demo.py --markdown --ratio 0.5` prints the table anew."""
    (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |")]
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert float(cells[0]) == pytest.approx(accuracy(ROOT / "models" / name), abs=0.002)
    for i, ratio in enumerate(RATIOS):
        data = str(ROOT / "models" / ENTRIES[name]["calibration"])
        ways: list[dict[str, str]] = [{"repair": "none"}, {}, {"calib": data}]
        made = [onnxprune.prune(ROOT / "models" / name, ratio, verify=False, **way) for way in ways]
        expected = [
            percent(pair.after, pair.before) if pair.before and pair.after else "unknown"
            for pair in (made[0].report.params, made[0].report.macs)
        ]
        assert cells[1 + 5 * i : 3 + 5 * i] == expected
        measured = [accuracy(m.proto.SerializeToString(), name) for m in made]
        assert [float(cell) for cell in cells[3 + 5 * i : 6 + 5 * i]] == pytest.approx(measured, abs=0.03)
