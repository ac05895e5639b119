"""The other verbs, and recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune.cli import recipe
from onnxprune.errors import InputError
from tests.ops.case import build
from tests.support.commands import Cli, assert_refused, contents, tiny
from tests.support.paths import MODELS


@pytest.mark.slow
@pytest.mark.parametrize(
    "amount",
    [
        ["--ratio", "0.4", "--global", "--importance", "lamp", "--repair", "none"],
        ["--pattern", "weights=0.6"],
        ["--ratio", "0"],
    ],
)
def test_apply_repeats_a_run(cli: Cli, model: Path, amount: list[str]) -> None:
    """A plan on the model that it was made from gives what the run gave, byte for byte."""
    folder = model.parent
    assert cli(model, *amount, "--plan", folder / "p.json", "-o", folder / "a.onnx").code == 0
    assert cli("apply", folder / "p.json", model, "-o", folder / "b.onnx").code == 0
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()


@pytest.mark.slow
def test_apply_fits_another_checkpoint(cli: Cli, model: Path) -> None:
    """Other weights of the same architecture lose the same slices."""
    folder = model.parent
    assert cli(model, "--ratio", 0.5, "--plan", folder / "p.json", "--dry-run").code == 0
    other = tiny()
    for tensor in other.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values + 1, tensor.name))
    onnx.save(other, folder / "other.onnx")
    ended = cli("apply", folder / "p.json", folder / "other.onnx")
    assert ended.code == 0
    assert "the plan took 50.0% of the prunable channels" in ended.out
    gone = json.loads((folder / "p.json").read_text())["removed"]["w1"]["0"]
    weight = onnx.load(folder / "other.pruned.onnx").graph.initializer[0]
    expected = np.delete(onnx.numpy_helper.to_array(other.graph.initializer[0]), gone, axis=0)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), expected)


@pytest.mark.slow
def test_apply_trains_as_long_as_it_is_told(cli: Cli, tmp_path: Path) -> None:
    model, plan, calib = MODELS / "sk_mlp.onnx", tmp_path / "p.json", MODELS / "digits_calib_flat.npz"
    assert cli(model, "--ratio", 0.5, "--plan", plan, "--dry-run").code == 0
    command = ["apply", plan, model, "-o", tmp_path / "b.onnx", "--calib", calib, "--epochs", 2, "--json"]
    told = json.loads(cli(*command, "--repair", "distilled").out)
    assert told["distilled"]["epochs"] == 2
    told = json.loads(cli(*command, "--repair", "distilled", "--minutes", 1e-9, "--force").out)
    assert told["distilled"]["epochs"] == 1
    assert "--epochs limits a training" in assert_refused(cli(*command, "--force"))


@pytest.mark.slow
def test_apply_refuses(cli: Cli, model: Path) -> None:
    """A plan for another architecture, and what is no plan, are refused; nothing is written."""
    folder = model.parent
    assert cli(model, "--ratio", 0.5, "--plan", folder / "p.json", "--dry-run").code == 0
    other = tiny()
    other.graph.node[1].op_type = "Sigmoid"
    onnx.save(other, folder / "other.onnx")
    (folder / "list.json").write_text("[1]")
    (folder / "later.json").write_text('{"version": 2, "model": ""}')
    before = contents(folder)
    for plan, target, words in [
        ("p.json", "other.onnx", "made for another graph"),
        ("net.onnx", "net.onnx", ""),
        ("list.json", "net.onnx", "not a plan"),
        ("later.json", "net.onnx", "version 1"),
        ("none.json", "net.onnx", "cannot be read"),
        ("p.json", "none.onnx", "no such file"),
    ]:
        assert words in assert_refused(cli("apply", folder / plan, folder / target))
    assert "is the input" in assert_refused(cli("apply", folder / "p.json", model, "-o", folder / "p.json"))
    assert contents(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"removed": [1]}, "'removed' is not of type dict"),
        ({"removed": {"w1": [1]}}, "is not {axis: [indices]}"),
        ({"removed": {"w1": {"0": [10**30]}}}, "is not {axis: [indices]}"),
        ({"removed": {"w1": {"0": [-1]}}}, "[indices]"),
        ({"removed": {"w1": {"0": [32]}}}, "index 32 of axis 0 of 'w1', which has 32"),
        ({"removed": {"w1": {"4": [0]}}}, "axis 4 of 'w1', which has 4"),
        ({"removed": {"w2": {"0": [0]}}}, "which is pinned"),
        ({"removed": {"w1": {"0": [0]}}}, "only a part of what is tied together"),
        (
            {"removed": {"w1": {"0": [*range(32)]}, "b1": {"0": [*range(32)]}, "w2": {"1": [*range(32)]}}},
            "leaves nothing",
        ),
        ({"removed": {"w9": {"0": [0]}}}, "which the model lacks"),
        ({"split": {"a": 3}}, "'split'"),
        ({"groups": [{}]}, "a group needs name"),
        ({"mixing": "yes"}, "'mixing'"),
        ({"extra": 1}, "unknown keys: extra"),
        ({"blocks": {"w1": []}}, "unknown keys: blocks"),
        ({"zeroed": {"w1": {"mask": 5}}}, "no ratio and mask"),
        ({"zeroed": {"w1": {"mask": "!!", "ratio": 0.5}}}, "not readable"),
    ],
)
def test_edited_plans(cli: Cli, model: Path, change: dict[str, Any], words: str) -> None:
    """A plan that was edited wrongly is refused with the place of the mistake."""
    folder = model.parent
    assert cli(model, "--ratio", 0.5, "--plan", folder / "p.json", "--dry-run").code == 0
    plan = json.loads((folder / "p.json").read_text())
    (folder / "p.json").write_text(json.dumps({**plan, **change}))
    assert words in assert_refused(cli("apply", folder / "p.json", model))
    assert not (folder / "net.pruned.onnx").exists()


@pytest.mark.slow
def test_verb_and_file_of_that_name(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``inspect`` is the verb, ``./inspect`` the file."""
    monkeypatch.chdir(model.parent)
    model.rename("inspect")
    assert "MODEL is missing" in assert_refused(cli("inspect"))
    assert cli("inspect", "inspect").out.startswith("inspect: ")
    assert cli("./inspect", "--ratio", 0.5, "--quiet").code == 0
    assert Path("inspect.pruned.onnx").is_file()


def test_inspect(cli: Cli, model: Path) -> None:
    """The groups, the nodes that they touch, what they slice, and why the rest is pinned."""
    ended = cli("inspect", model)
    assert "w1:0 exact 32 2.34 k Conv of a, Conv of y" in [" ".join(line.split()) for line in ended.out.splitlines()]
    assert "graph output 'y'" in ended.out
    data = json.loads(cli("inspect", model, "--json").out)
    assert data["channels"] == {"exact": 32, "mixing": 0, "pinned": 5 + 3}
    (free,) = [g for g in data["groups"] if g["grade"] == "exact"]
    assert free["channels"] == 32
    assert free["pinned"] == []
    assert free["nodes"] == ["Conv of a", "Conv of y"]
    assert free["members"] == [
        {"name": "w1", "axis": 0, "shape": [32, 3, 3, 3], "indices_per_channel": 1},
        {"name": "b1", "axis": 0, "shape": [32], "indices_per_channel": 1},
        {"name": "w2", "axis": 1, "shape": [5, 32, 3, 3], "indices_per_channel": 1},
    ]


def test_inspect_mixing(cli: Cli, tmp_path: Path) -> None:
    """A mean over channels that are not zero once masked is of grade mixing, and says through what."""
    model = build(
        """(float[N,3] x) => (float[N,1] y) <float[3,8] w, int64[1] last>
        { h = MatMul(x, w)  e = Softmax <axis = 0> (h)  y = ReduceMean(e, last) }""",
        constants={"last": -1},
    )
    onnx.save(model, tmp_path / "model.onnx")
    groups = json.loads(cli("inspect", tmp_path / "model.onnx", "--mixing", "--json").out)["groups"]
    (group,) = [g for g in groups if g["grade"] == "mixing"]
    assert group["channels"] == 8
    assert any("sums over the axis" in reason for reason in group["pinned"])


@pytest.mark.slow
def test_ops(cli: Cli) -> None:
    """The operators with a rule, each with a line on how it is treated."""
    listed = json.loads(cli("ops", "--json").out)["operators"]
    assert {"Conv", "Gemm", "Add", "Concat", "Reshape", "LayerNormalization"} <= {o["operator"] for o in listed}
    assert all(o["note"] and o["since"] >= 1 for o in listed)
    assert any(line.startswith("Conv ") for line in cli("ops").out.splitlines())


RECIPE = """
ratio = 0.5
importance = "l1"
min_channels = 4
round-to = 8
only = ["w1", "w2"]
ignore = "nothing"
global = true
[input-shape]
x = [1, 3, 16, 16]
"""


def test_recipe_is_read(tmp_path: Path) -> None:
    """Keys as on the command line, with - or _; what may be repeated comes as a list."""
    path = tmp_path / "r.toml"
    path.write_text(RECIPE)
    assert recipe.read(path) == {
        "ratio": 0.5,
        "importance": "l1",
        "min-channels": 4,
        "round-to": 8,
        "only": ["w1", "w2"],
        "ignore": ["nothing"],
        "global": True,
        "input-shape": ["x:1,3,16,16"],
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ratoi = 0.5", "unknown key 'ratoi'"),
        ("recipe = 'x'", "unknown key 'recipe'"),
        ("ratio = '0.5'", "ratio must be a number"),
        ("ratio = true", "ratio must be a number"),
        ("seed = 1.5", "seed must be a whole number"),
        ("global = 1", "global must be true or false"),
        ("only = [1]", "only must be a string or a list of strings"),
        ("importance = 1", "importance must be a string"),
        ("round-to = 1\nround_to = 2", "given twice"),
        ("ratio = ", "is not TOML"),
        ("[input-shape]\nx = 3", "table of sizes"),
    ],
)
def test_recipe_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """Unknown keys, values of another kind and broken files are errors that name the file."""
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as error:
        recipe.read(path)
    assert str(path) in error.value.message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "arguments", "kept"),
    [
        ("ratio = 0.5", [], 16),
        ("ratio = 0.5", ["--ratio", "0.25"], 24),
        ("ratio = 0.5\nround_to = 24", [], 24),
        ("ratio = 0.5\nround_to = 24", ["--round-to", "1"], 16),
        ("pattern = 'weights=0.5'", ["--ratio", "0.25"], 24),
        ("ratio = 0.5", ["--pattern", "weights=0.5"], 32),
        ("ratio = 0.5", ["--pattern", "channels"], 16),
        ("ratio = 0.5\ndry-run = true", [], None),
    ],
)
def test_recipe_and_command_line(cli: Cli, model: Path, text: str, arguments: list[str], kept: int | None) -> None:
    """The command line wins over the recipe, also where both say how much in different ways."""
    (model.parent / "r.toml").write_text(text)
    assert cli(model, "--recipe", model.parent / "r.toml", *arguments).code == 0
    pruned = model.parent / "net.pruned.onnx"
    assert pruned.exists() == (kept is not None)
    if kept is not None:
        assert onnx.load(pruned).graph.initializer[0].dims[0] == kept


def test_recipe_alone_must_not_contradict_itself(cli: Cli, model: Path) -> None:
    """Two ways of saying how much in one recipe are as wrong as on the command line."""
    (model.parent / "r.toml").write_text("ratio = 0.5\npattern = 'weights=0.5'")
    assert "both say how much" in assert_refused(cli(model, "--recipe", model.parent / "r.toml"))
