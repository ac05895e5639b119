"""What a recipe asks for: tables, files from its folder, names of Python, and what the command line overrides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import onnxprune
from onnxprune.cli import parsing, recipe
from onnxprune.cli.prune import prune
from onnxprune.errors import InputError
from onnxprune.options import Options
from tests.support.commands import Cli, assert_refused, tiny


def asked(path: Path, *arguments: str) -> Options:
    with prune.make_context("onnxprune", ["model.onnx", "--recipe", str(path), *arguments]) as context:
        return parsing.options(context)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[target]\nmacs = 0.5\nbytes = '4MB'", Options.of(target={"macs": 0.5, "bytes": "4MB"})),
        ("target = ['macs=0.5']", Options.of(target={"macs": 0.5})),
        ("ratio = 0.5\n[gate]\ndrift = 0.05\n'drift:a=b' = 1", Options.of(0.5, gate={"drift": 0.05, "drift:a=b": 1})),
        ("ratio = 0.5\n[input_shapes]\n'x:0' = [1, 3]", Options.of(0.5, input_shapes={"x:0": (1, 3)})),
        ("ratio = 0.5\nglobal_ranking = true", Options.of(0.5, global_ranking=True)),
        ("ratio = 0.5\nverify = false\ntime = false", Options.of(0.5, verify=False, time=False)),
        ("ratio = 0.5\nverify = true\nno-time = true", Options.of(0.5, time=False)),
        ("ratio = 0.5\nmemory = 1000\nrun-memory = '2GB'", Options.of(0.5, memory=1000, run_memory=2 * 10**9)),
    ],
)
def test_tables_and_names_of_python(tmp_path: Path, text: str, expected: Options) -> None:
    (tmp_path / "r.toml").write_text(text)
    assert asked(tmp_path / "r.toml") == expected


@pytest.mark.parametrize("text", ["verify = true\nno-verify = true", "global = true\nglobal_ranking = true"])
def test_both_names_of_an_option_are_one_too_many(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.toml").write_text(f"ratio = 0.5\n{text}")
    with pytest.raises(InputError, match="given twice"):
        asked(tmp_path / "r.toml")


AMOUNTS = {
    "ratio": (["--ratio", "0.25"], Options.of(0.25)),
    "target": (["--target", "macs=0.25"], Options.of(target={"macs": 0.25})),
    "zeros": (["--pattern", "weights=0.25"], Options.of(pattern="weights=0.25")),
}


@pytest.mark.parametrize("text", ["ratio = 0.5", "[target]\nmacs = 0.5", "pattern = 'weights=0.5'"])
@pytest.mark.parametrize("name", AMOUNTS)
def test_an_amount_on_the_command_line_overrides_any_in_a_recipe(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    arguments, expected = AMOUNTS[name]
    assert asked(tmp_path / "r.toml", *arguments) == expected


def test_files_are_found_from_the_folder_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    """Whatever the working folder is; folders of images keep their options."""
    folder = tmp_path / "recipes"
    (folder / "images").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (folder / "r.toml").write_text('ratio = 0.5\ncalib = "images,mean=0.5"\nstats = "s.npz"\noutput = "/abs/o.onnx"\n')
    found = recipe.read(folder / "r.toml")
    assert found["calib"] == f"{folder / 'images'},mean=0.5"
    assert (found["stats"], found["output"]) == (str(folder / "s.npz"), "/abs/o.onnx")
    (folder / "r.toml").write_text('ratio = 0.5\ncalib = "nowhere.npz"\n')
    onnxprune_model = tmp_path / "net.onnx"
    onnxprune_model.write_bytes(tiny().SerializeToString())
    assert f"{folder / 'nowhere.npz'}: no such file" in assert_refused(
        cli(onnxprune_model, "--recipe", folder / "r.toml")
    )


@pytest.mark.slow
def test_a_report_is_a_recipe(tmp_path: Path, cli: Cli, model: Path) -> None:
    """A whole report, as ``--json`` prints it, repeats its run."""
    arguments = ["--importance", "random", "--seed", 5, "--repair", "none", "--no-time"]
    first = cli(model, "--ratio", 0.3, *arguments, "-o", tmp_path / "a.onnx", "--json")
    (tmp_path / "report.json").write_text(first.out)
    assert cli(model, "--recipe", tmp_path / "report.json", "-o", tmp_path / "b.onnx").code == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    plan = onnxprune.plan(onnxprune.analyze(tiny()), 0.3, importance="l2")
    (tmp_path / "applied.json").write_text(onnxprune.apply(plan, tiny()).report.to_json())
    assert "holds no options" in assert_refused(cli(model, "--recipe", tmp_path / "applied.json"))


@pytest.mark.parametrize("text", ["[]", "5", "{", '{"options": 5, "schema": 1}', '{"ratio": "x"}', "\ud800"])
def test_a_json_recipe_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_bytes(json.dumps(text).encode() if text == "\ud800" else text.encode())
    with pytest.raises(InputError, match=str(tmp_path)):
        recipe.read(tmp_path / "r.json")


@pytest.mark.parametrize(
    "line",
    [
        "engine = \"sh -c 'touch run; exit 1'\"",
        'engine = "told:time"',
        'metric = "told:x-y"',
        'calib = "told:data"',
        'calib = "told:data,labels=y"',
    ],
)
def test_nothing_that_a_recipe_names_is_run(
    tmp_path: Path, cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("told.py").write_text("open('run', 'w').close()\n")
    Path("r.toml").write_text(f"{line}\n[target]\nlatency = 0.7\n")
    assert "a recipe runs no code" in assert_refused(cli(model, "--recipe", "r.toml", "--dry-run"))
    assert not Path("run").exists()


def test_classes_are_found_from_the_folder_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "d.npz").touch()
    path = tmp_path / "r.toml"
    path.write_text('ratio = 0.5\ncalib = "d.npz,labels=y,classes=c.txt"\n')
    assert recipe.read(path)["calib"] == f"{tmp_path}/d.npz,labels=y,classes={tmp_path}/c.txt"


def test_files_of_a_report_are_found_from_the_current_folder(tmp_path: Path) -> None:
    """They were named there in its run."""
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"schema": 1, "options": {"ratio": 0.5, "calib": "data/d.npz"}}))
    assert recipe.read(path)["calib"] == "data/d.npz"
