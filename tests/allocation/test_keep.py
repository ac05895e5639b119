"""Shares that stay of single groups: these exactly, and what is asked for of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.allocation.variables import CostOfVariables, Variables
from onnxprune.cost.cost_model import parameters
from onnxprune.errors import InputError
from onnxprune.options import Options
from tests.ops.case import build
from tests.support.commands import Cli, assert_refused

SIZES = {"w1:1": 10, "w2:1": 20, "w3:1": 30}


def model() -> onnx.ModelProto:
    """A chain of layers with 10, 20 and 30 hidden channels."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (6, 10), "w2": (10, 20), "w3": (20, 30), "w4": (30, 4)}
    return build(
        """(float[N,6] x) => (float[N,4] y)
        <float[6,10] w1, float[10,20] w2, float[20,30] w3, float[30,4] w4>
        { a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  d = Relu(c)  e = MatMul(d, w3)  f = Relu(e)
          y = MatMul(f, w4) }""",
        constants={name: rng.standard_normal(shape) for name, shape in shapes.items()},
    )


def kept(**options: object) -> dict[str, int]:
    """How many channels stay of each group."""
    made = onnxprune.prune(model(), **{"repair": "none", "verify": False, **options})  # type: ignore[arg-type]
    return {g.name: g.channels - len(g.removed) for g in made.report.groups if g.name in SIZES}


@pytest.mark.parametrize("ranking", [False, True])
def test_others_follow_the_ratio(ranking: bool) -> None:
    """The share of a group by its name is exact; the ratio is that of the others, one by one or together."""
    found = kept(ratio=0.5, keep={"^w2:1$": 0.8}, global_ranking=ranking)
    assert found["w2:1"] == 16
    assert found["w1:1"] + found["w3:1"] == 20
    assert ranking or found == {"w1:1": 5, "w2:1": 16, "w3:1": 15}


def test_without_ratio_and_target_the_others_stay_whole() -> None:
    assert kept(keep={"^w2:1$": 0.75, "^w3:1$": 0.1}) == {"w1:1": 10, "w2:1": 15, "w3:1": 3}


def test_a_group_is_matched_by_all_that_touches_it_and_the_last_expression_holds() -> None:
    """w2 is sliced by the group of its inputs and that of its outputs."""
    assert kept(keep={"w2": 0.5}) == {"w1:1": 5, "w2:1": 10, "w3:1": 30}
    assert kept(keep={"w2": 0.5, "^w1:1$": 1}) == {"w1:1": 10, "w2:1": 10, "w3:1": 30}
    assert kept(keep={"^w1:1$": 1, "w2": 0.5}) == {"w1:1": 5, "w2:1": 10, "w3:1": 30}


def test_others_meet_the_target() -> None:
    """With what the fixed group saves: the parameters left are those that were asked for, to within a channel."""
    made = onnxprune.prune(model(), target={"params": 0.5}, keep={"^w2:1$": 0.9}, repair="none", verify=False)
    assert {g.name: g.channels - len(g.removed) for g in made.report.groups}["w2:1"] == 18
    target = made.report.targets["params"]
    assert target.met and target.left is not None and target.left > 0.9 * target.asked


def test_a_target_that_the_others_cannot_meet_is_missed() -> None:
    made = onnxprune.prune(model(), target={"params": 0.2}, keep={"w": 0.9}, repair="none", verify=False)
    assert not made.report.targets["params"].met
    assert {g.name: len(g.removed) for g in made.report.groups if g.removed} == {"w1:1": 1, "w2:1": 2, "w3:1": 3}


def test_the_number_of_channels_is_rounded_and_bounded_as_any_other() -> None:
    assert kept(keep={"^w3:1$": 0.5}, round_to=4)["w3:1"] == 16
    assert kept(keep={"^w3:1$": 0.01})["w3:1"] == 1
    assert kept(keep={"^w3:1$": 0.01}, min_channels=7)["w3:1"] == 7


@pytest.mark.slow
def test_a_plan_of_the_same_options_takes_the_same() -> None:
    """And so do the options of the report, as a recipe has them."""
    made = onnxprune.prune(model(), 0.5, keep={"w2": 0.8}, repair="none")
    assert onnxprune.plan(onnxprune.analyze(model()), 0.5, keep={"w2": 0.8}, repair="none").removed == made.plan.removed
    assert made.report.options is not None and made.report.options["keep"] == {"w2": 0.8}
    again = onnxprune.run(model(), Options.from_dict(made.report.options))
    assert again.proto.SerializeToString() == made.proto.SerializeToString()


def test_what_matches_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="'v9' matches no initializer and no node"):
        kept(keep={"v9": 0.5})
    with pytest.raises(InputError, match="'\\^w4:1\\$' matches no group that may be pruned"):
        kept(keep={"^w4:1$": 0.5})
    with pytest.raises(InputError, match="no group that may be pruned"):
        kept(keep={"^w3:1$": 0.5}, ignore="^w3:1$")
    with pytest.raises(InputError, match="keep is for channels"):
        kept(pattern="2:4", keep={"w3": 0.5})


def test_a_cost_of_the_free_groups_is_that_of_all() -> None:
    analysis = onnxprune.analyze(model())
    groups = [g for g in analysis.groups if g.name in SIZES]
    whole, free = parameters(analysis.coupling, groups), [0, 2]
    part = CostOfVariables(whole, Variables.of(np.array([0, 4, 0]), free, ()))
    removed = np.array([3, 7])
    assert part.left(removed) == whole.left(np.array([3, 4, 7])) == 6 * 7 + 7 * 16 + 16 * 23 + 23 * 4
    assert part.saving(removed, 1, 2) == whole.saving(np.array([3, 4, 7]), 2, 2) == 2 * (16 + 4)
    assert np.ptp(part.lefts(removed, 1, np.array([7, 9]))) == 2 * (16 + 4)


def test_on_the_command_line_and_in_a_recipe(cli: Cli, tmp_path: Path) -> None:
    """The share follows the last ``=``; in a recipe it is a table."""
    net, recipe = tmp_path / "net.onnx", tmp_path / "r.toml"
    onnx.save(model(), net)
    words = ["--no-verify", "--no-time", "--repair", "none", "--quiet"]
    assert cli(net, "--keep", "^w3:1$=0.8", "--keep", "^w2:1$=0.5", "-o", tmp_path / "a.onnx", *words).code == 0
    recipe.write_text('[keep]\n"^w3:1$" = 0.8\n"^w2:1$" = 0.5\n')
    assert cli(net, "--recipe", recipe, "-o", tmp_path / "b.onnx", *words).code == 0
    made = onnx.load(tmp_path / "a.onnx")
    assert {t.name: list(t.dims) for t in made.graph.initializer} == {
        "w1": [6, 10],
        "w2": [10, 10],
        "w3": [10, 24],
        "w4": [24, 4],
    }
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert "is not an expression and a share" in assert_refused(cli(net, "--keep", "w3"))
    assert "is given twice" in assert_refused(cli(net, "--keep", "w3=0.5", "--keep", "w3=0.6"))
    assert "must be above 0 and at most 1" in assert_refused(cli(net, "--keep", "w3=80"))
