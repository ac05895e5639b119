"""The command's main job: what it writes, prints and refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import onnx
import pytest

import onnxprune
from onnxprune.cli import recipe
from onnxprune.cli.prune import prune
from tests.support.commands import Cli, assert_refused, contents, tiny
from tests.support.paths import MODELS

REPORT_KEYS = {"params", "macs", "bytes", "drift", "groups", "seconds"}


def test_writes_beside_the_input(cli: Cli, model: Path) -> None:
    """Without --output, the command writes MODEL.pruned.onnx and leaves the input as it is."""
    before = model.read_bytes()
    ended = cli(model, "--ratio", 0.5, "--repair", "none")
    assert ended.code == 0
    assert sorted(contents(model.parent)) == ["net.onnx", "net.pruned.onnx"]
    assert model.read_bytes() == before
    shapes = {t.name: list(t.dims) for t in onnx.load(model.parent / "net.pruned.onnx").graph.initializer}
    assert shapes == {"w1": [16, 3, 3, 3], "b1": [16], "w2": [5, 16, 3, 3]}
    table = [line.split() for line in ended.out.splitlines()]
    assert ["parameters", "2.34", "k", "1.17", "k", "50.0%"] in table
    assert ["prunable", "channels", "32", "16", "50.0%"] in table
    assert "ratio 0.5 took 50.0% of the prunable channels, 50.0% of the parameters" in ended.out


@pytest.mark.slow
def test_overwriting(cli: Cli, model: Path) -> None:
    """An existing file is replaced when it is named or with --force, and only then."""
    target = model.parent / "net.pruned.onnx"
    target.write_text("precious")
    assert "exists already" in assert_refused(cli(model, "--ratio", 0.5))
    assert target.read_text() == "precious"
    assert cli(model, "--ratio", 0.5, "--force").code == 0
    forced = target.read_bytes()
    target.write_text("precious")
    assert cli(model, "--ratio", 0.5, "-o", target).code == 0
    assert target.read_bytes() == forced


def bad_files(folder: Path) -> None:
    """Every kind of input that is no model."""
    onnx.save(tiny(), folder / "good.onnx")
    whole = (folder / "good.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "text.onnx").write_text("this is no model\n")
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "odd.toml").write_text("ratoi = 0.5\n")
    onnx.save(tiny(), folder / "lost.onnx", save_as_external_data=True, location="lost.data", size_threshold=0)
    (folder / "lost.data").unlink()
    onnx.save(tiny(), folder / "outside.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    outside = onnx.load(folder / "outside.onnx", load_external_data=False)
    for tensor in outside.graph.initializer:
        tensor.external_data[0].value = "../w.data"
    (folder / "outside.onnx").write_bytes(outside.SerializeToString())
    (folder / "inner").mkdir()
    shutil.move(folder / "outside.onnx", folder / "inner" / "outside.onnx")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.onnx", "--ratio", "0.5"], "no such file"),
        (["goof.onnx", "--ratio", "0.5"], "did you mean good.onnx?"),
        (["inner", "--ratio", "0.5"], "is a folder"),
        (["cut.onnx", "--ratio", "0.5"], "not an ONNX model"),
        (["text.onnx", "--ratio", "0.5"], "not an ONNX model"),
        (["empty.onnx", "--ratio", "0.5"], "not an ONNX model"),
        (["lost.onnx", "--ratio", "0.5"], "lost.data"),
        (["inner/outside.onnx", "--ratio", "0.5"], "outside the model's folder"),
        (["good.onnx"], "nothing says how much"),
        (["good.onnx", "--ratio", "1.5"], "below 1, not 1.5"),
        (["good.onnx", "--ratio", "1"], "below 1, not 1"),
        (["good.onnx", "--ratio", "-0.1"], "at least 0"),
        (["good.onnx", "--ratio", "nan"], "not nan"),
        (["good.onnx", "--ratio", "half"], "--ratio: 'half'"),
        (["good.onnx", "--ratio", "0.5", "--pattern", "weights=0.5"], "both say how much"),
        (["good.onnx", "--pattern", "weights=0.5", "--pattern", "weights=0.7"], "both say which weights"),
        (["good.onnx", "--pattern", "weights"], "does not say how much"),
        (["good.onnx", "--pattern", "2:4", "--global"], "takes as much of every weight"),
        (["good.onnx", "--pattern", "2:4", "--importance", "fpgm"], "ranks channels, not zeros"),
        (["good.onnx", "--pattern", "2:4", "--importance", "alps"], "needs calibration data"),
        (["good.onnx", "--pattern", "2:4", "--importance", "wanda", "--repair", "data-free"], "goes without"),
        (["good.onnx", "--ratio", "0.5", "--importance", "sparsegpt"], "chooses zeros, not channels"),
        (["good.onnx", "--pattern", "chanels", "--ratio", "0.5"], "unknown pattern 'chanels'"),
        (["good.onnx", "--ratio", "0.5", "--importance", "fpmg"], "did you mean 'fpgm'?"),
        (["good.onnx", "--ratio", "0.5", "--repair", "some"], "unknown repair"),
        (["good.onnx", "--ratio", "0.5", "--only", "nothing_like_it"], "'nothing_like_it' matches no"),
        (["good.onnx", "--ratio", "0.5", "--ignore", "nothing_like_it"], "'nothing_like_it' matches no"),
        (["good.onnx", "--ratio", "0.5", "--ignore", "("], "not a regular expression"),
        (["good.onnx", "--ratio", "0.5", "--min-channels", "0"], "min-channels must be at least 1"),
        (["good.onnx", "--ratio", "0.5", "--round-to", "0"], "round-to must be at least 1"),
        (["good.onnx", "--ratio", "0.5", "-o", "no/such/folder/out.onnx"], "no/such/folder does not exist"),
        (["good.onnx", "--ratio", "0.5", "-o", "inner"], "is a folder"),
        (["good.onnx", "--ratio", "0.5", "-o", "./good.onnx"], "is the input"),
        (["good.onnx", "--ratio", "0.5", "-o", "/dev/null"], "is not a regular file"),
        (["good.onnx", "--ratio", "0.5", "-o", "a\0b"], "is not the name of a file"),
        (["good.onnx", "--recipe", "odd.toml", "-o", "odd.toml"], "did you mean 'ratio'?"),
        (["good.onnx", "--ratio", "0.5", "--calib", "odd.toml,mean=1", "-o", "odd.toml"], "is the input"),
        (["good.onnx", "--ratio", "0.5", "--stats", "odd.toml", "--plan", "odd.toml"], "is the input"),
        (["", "--ratio", "0.5"], "is not the name of a model"),
        (["good.onnx", "--ratio", "0.5", "--memory", "1e999"], "is no size"),
        (["good.onnx", "--ratio", "0.5", "--seed", "-1"], "at least 0"),
        (["good.onnx", "--ratio", "0.5", "--gate", "drift"], "does not say how far"),
        (["good.onnx", "--ratio", "0.5", "--plan", "no/plan.json"], "does not exist"),
        (["good.onnx", "--ratio", "0.5", "--plan", "good.onnx"], "is the input"),
        (["good.onnx", "--ratio", "0.5", "--plan", "p", "-o", "p"], "p: is named for two outputs"),
        (["good.onnx", "--ratio", "0.5", "--input-shape", "z:1,3,8,8"], "inputs: x"),
        (["good.onnx", "--ratio", "0.5", "--input-shape", "x=1,3,8,8"], "not a name and sizes"),
        (["good.onnx", "--ratio", "0.5", "--input-shape", "x:1,4,16,16"], "1x4x16x16"),
        (["good.onnx", "--ratio", "0.5", "--recipe", "none.toml"], "none.toml: cannot be read"),
        (["good.onnx", "--ratio", "0.5", "--recipe", "odd.toml"], "did you mean 'ratio'?"),
        (["good.onnx", "out.onnx", "--ratio", "0.5"], "-o FILE"),
        (["insepct", "good.onnx"], "did you mean the verb 'inspect'?"),
        (["good.onnx", "--rato", "0.5"], "did you mean --ratio?"),
        ([], "MODEL is missing"),
    ],
)
def test_refusals(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str) -> None:
    """Bad input: exit code 2, one line that says what is wrong, and no file that was not there before."""
    bad_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    assert words in assert_refused(cli(*arguments))
    assert contents(tmp_path) == before


def test_json(cli: Cli, model: Path) -> None:
    """With --json, stdout is strict JSON with the keys of the report, and words go to stderr."""

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    ended = cli(model, "--ratio", 0.25, "--repair", "none", "--json")
    report = json.loads(ended.out, parse_constant=refuse)
    assert set(report) >= REPORT_KEYS
    assert report["params"] == {"before": 2336, "after": 1752}
    assert report["bytes"]["after"] == (model.parent / "net.pruned.onnx").stat().st_size
    assert set(report["drift"]["y"]) == {"max_abs", "rel_rms", "cosine"}
    assert [len(g["removed"]) for g in report["groups"] if g["grade"] == "exact"] == [8]
    assert all(set(g) == {"name", "channels", "removed", "grade", "pinned", "nodes"} for g in report["groups"])
    assert set(report["seconds"]) == {"load", "analyze", "score", "plan", "apply", "verify", "time", "save"}
    assert f"wrote {model.parent / 'net.pruned.onnx'}" in ended.err


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--plan", "DATA"], ["--html", "DATA"]])
def test_external_data_of_the_input_are_never_changed(cli: Cli, tmp_path: Path, words: list[str]) -> None:
    """A file beside the model may hold its weights, whatever its name."""
    path, data = tmp_path / "net.onnx", tmp_path / "weights.bin"
    onnx.save(tiny(), path, save_as_external_data=True, location=data.name, size_threshold=0)
    before = contents(tmp_path)
    given = [str(data) if word == "DATA" else word for word in words]
    said = assert_refused(cli(path, "--ratio", "0.3", *given))
    assert "holds weights of the input, which is never changed" in said and contents(tmp_path) == before


@pytest.mark.parametrize("others", [["-o", "x", "--html", "x"], ["--plan", "x", "--html", "./x"]])
def test_two_outputs_need_two_names(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    assert "is named for two outputs" in assert_refused(cli(model, "--ratio", "0.3", "--no-time", *others))
    assert contents(tmp_path) == before


def test_a_stopped_dry_run_writes_no_plan(cli: Cli, model: Path, tmp_path: Path) -> None:
    """Exit code 5 says that nothing was written."""
    before = contents(tmp_path)
    words = ["--ratio", "0.3", "--dry-run", "--strict", "--no-verify", "--plan", tmp_path / "p.json"]
    ended = cli(model, *words)
    assert ended.code == 5 and "the runtime check was skipped" in ended.err and contents(tmp_path) == before


def test_dry_run_writes_no_model(cli: Cli, model: Path) -> None:
    """--dry-run shows what goes, and writes nothing but the plan that was asked for."""
    ended = cli(model, "--ratio", 0.5, "--dry-run")
    assert ended.code == 0
    assert ["w1:0", "32", "16", "16"] in [line.split() for line in ended.out.splitlines()]
    assert list(contents(model.parent)) == ["net.onnx"]
    assert cli(model, "--ratio", 0.5, "--dry-run", "--plan", model.parent / "plan.json").code == 0
    assert sorted(contents(model.parent)) == ["net.onnx", "plan.json"]


@pytest.mark.slow
def test_same_again(cli: Cli, model: Path) -> None:
    """The same input, options and seed give the same bytes; another seed does not."""
    made = []
    for i, seed in enumerate((3, 3, 4)):
        path = model.parent / f"{i}.onnx"
        assert cli(model, "--ratio", 0.5, "--importance", "random", "--seed", seed, "-o", path, "--quiet").code == 0
        made.append(path.read_bytes())
    assert made[0] == made[1] != made[2]


@pytest.mark.slow
def test_matches_python(cli: Cli, model: Path) -> None:
    """The command does what `prune` does."""
    assert cli(model, "--ratio", 0.4, "--importance", "l1", "--round-to", 8, "--min-channels", 2).code == 0
    made = onnxprune.prune(model, 0.4, importance="l1", round_to=8, min_channels=2)
    made.save(model.parent / "python.onnx")
    files = contents(model.parent)
    assert files["net.pruned.onnx"] == files["python.onnx"]
    assert list(made.model.graph.initializer[0].dims) == [24, 3, 3, 3]


def test_input_shape(cli: Cli, model: Path) -> None:
    """MACs are counted at the given shape, whichever way it is written."""
    macs = []
    for shape in ("x:1,3,16,16", "x:1x3x16x16", "x:2x3x16,16"):
        ended = cli(model, "--ratio", 0.5, "--repair", "none", "--dry-run", "--json", "--input-shape", shape)
        macs.append(json.loads(ended.out)["macs"]["before"])
    assert macs == [32 * 27 * 14 * 14 + 5 * 288 * 12 * 12] * 2 + [2 * (32 * 27 * 14 * 14 + 5 * 288 * 12 * 12)]


def test_zeroed_weights_are_called_what_they_are(cli: Cli, model: Path) -> None:
    """Zeros are reported as zeros: the same size, and words that say so."""
    ended = cli(model, "--pattern", "weights=0.7")
    assert ended.code == 0
    assert "Zeros alone make neither the file smaller nor a run faster" in ended.out
    assert ["parameters", "2.34", "k", "2.34", "k", "100.0%"] in [line.split() for line in ended.out.splitlines()]
    weights = onnx.load(model.parent / "net.pruned.onnx").graph.initializer
    zeros = {t.name: float((onnx.numpy_helper.to_array(t) == 0).mean()) for t in weights}
    assert zeros["w1"] == pytest.approx(0.7, abs=0.02)


@pytest.mark.slow
def test_channels_and_zeros_are_both_told(cli: Cli, model: Path) -> None:
    ended = cli(model, "--ratio", 0.5, "--pattern", "channels", "--pattern", "2:4")
    assert ended.code == 0
    assert "ratio 0.5 took" in ended.out
    assert "are zero now" in ended.out
    weights = {
        t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(model.parent / "net.pruned.onnx").graph.initializer
    }
    assert 0.4 < (weights["w2"] == 0).mean() < 0.6


@pytest.mark.slow
def test_nothing_to_prune_is_done(cli: Cli, model: Path) -> None:
    """Where nothing may go the copy is written, and why is said."""
    ended = cli(model, "--ratio", 0.5, "--ignore", "w1")
    assert ended.code == 0
    assert "Nothing was pruned" in ended.out
    assert onnx.load(model.parent / "net.pruned.onnx") == onnx.load(model)


@pytest.mark.slow
def test_skipped_check_is_said(cli: Cli, model: Path) -> None:
    """--no-verify says that nothing was verified, even when quiet."""
    ended = cli(model, "--ratio", 0.5, "--no-verify", "--quiet")
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == "warning: not verified: the runtime check was skipped\n"


def test_model_that_cannot_run_here(cli: Cli, model: Path) -> None:
    """A model with a custom operator is written, unverified, and said to be so."""
    proto = tiny()
    proto.opset_import.add(domain="my.own", version=1)
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "Mystery", "my.own"
    onnx.save(proto, model)
    ended = cli(model, "--ratio", 0.5)
    assert ended.code == 0
    assert "warning: not verified: onnxruntime does not load the original" in ended.err
    assert "NOT verified" in ended.out
    assert (model.parent / "net.pruned.onnx").exists()


@pytest.mark.slow
def test_lost_accuracy_is_warned_of(cli: Cli, tmp_path: Path) -> None:
    """With samples a result far from the original comes with a warning and the number; without, nothing is claimed."""
    given, data = MODELS / "sk_mlp.onnx", MODELS / "digits_calib_flat.npz"
    hurt = cli(given, "--ratio", 0.95, "--repair", "none", "--calib", data, "-o", tmp_path / "a.onnx")
    assert "warning: accuracy is lost: " in hurt.err
    blind = cli(given, "--ratio", 0.95, "--repair", "none", "-o", tmp_path / "b.onnx")
    assert "accuracy" not in blind.err
    assert "Accuracy unknown" in blind.out


def test_every_option_can_stand_in_a_recipe() -> None:
    """A recipe knows every option but those that only make sense on the command line; few enough to read."""
    options = {p.opts[-1].lstrip("-") for p in prune.params if p.opts[-1].startswith("-")}
    assert set(recipe.KEYS) == options - {"recipe", "version", "help", "scheduler", "work"}
    shown = {p.opts[-1] for p in prune.params if isinstance(p, click.Option) and not p.hidden}
    assert len(shown - {"--version", "--help"}) <= 40


@pytest.mark.parametrize(
    "arguments", [[], ["inspect"], ["sensitivity"], ["sweep"], ["apply"], ["measure"], ["compare"], ["ops"]]
)
def test_help(arguments: list[str], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Help fits 80 columns, every option on one line with its default where it has one."""
    monkeypatch.setenv("COLUMNS", "80")
    ended = cli(*arguments, "--help")
    assert ended.code == 0
    assert ended.out.startswith("Usage: onnxprune ")
    lines = [line for line in ended.out.splitlines() if line.startswith("  -")]
    assert all(len(line.split("  ")) >= 3 and len(line) <= 80 for line in lines)
    if not arguments:
        shown = "\n".join(lines)
        visible = [p for p in prune.params if not getattr(p, "hidden", False)]
        for param in visible:
            if param.default not in (None, False, ()) and isinstance(param.default, (int, str)):
                (line,) = [x for x in lines if f"{param.opts[-1]} " in x]
                assert line.endswith(f"[{param.default}]")
        assert shown.count("\n") + 1 == len([p for p in visible if p.opts[-1].startswith("-")])


@pytest.mark.slow
def test_help_loads_nothing_heavy() -> None:
    """Help answers without onnx, onnxruntime, numpy or rich."""
    code = (
        "import sys; from onnxprune.cli import main; main(['--help']);"
        "print(sorted({'onnx', 'onnxruntime', 'numpy', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


@pytest.mark.slow
def test_installed_command(model: Path) -> None:
    """The console script and ``python -m onnxprune`` are the same command."""
    script = Path(sys.executable).with_name("onnxprune")
    expected = f"onnxprune {onnxprune.__version__}\n"
    for command in ([str(script)], [sys.executable, "-m", "onnxprune"]):
        assert subprocess.run([*command, "--version"], capture_output=True, text=True).stdout == expected
    environment: dict[str, Any] = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run([str(script), str(model), "--ratio", "0.5"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
