"""What a package adds from outside is found by name, in Python and on the command line, and works like our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune import sparsity
from onnxprune.errors import InputError
from onnxprune.extensions import points
from onnxprune.extensions.points import Criterion, as_criterion, criteria
from onnxprune.extensions.registry import Registry
from tests.support import outside
from tests.support.commands import Cli, assert_refused
from tests.support.lanes import spread
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """What is added here is not there for other tests."""
    outside.register()
    yield
    outside.withdraw()


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


# --- criteria


def test_a_criterion_by_name(cli: Cli, tmp_path: Path) -> None:
    path = outside.saved(tmp_path)
    made = onnxprune.prune(path, 0.5, importance="last-goes")
    assert made.plan.removed["w"] == {"1": list(range(8, 16))}
    assert made.report.resolved is not None and made.report.resolved.importance == "last-goes"
    assert cli(path, "--ratio", 0.5, "--importance", "last-goes", "--plan", tmp_path / "p.json").code == 0
    assert json.loads((tmp_path / "p.json").read_text())["removed"] == made.plan.removed
    assert onnx.load(tmp_path / "net.pruned.onnx") == made.proto
    analysis = onnxprune.analyze(path)
    (scores,) = onnxprune.score(analysis, "last-goes", groups=[g for g in analysis.groups if g.units == 16])
    assert np.argmin(scores) == 15


def test_a_function_is_a_criterion() -> None:
    made = onnxprune.prune(outside.net(), 0.5, importance=lambda group: np.arange(group.units), repair="none")
    assert made.plan.removed["w"] == {"1": list(range(8))}
    again = onnxprune.prune(outside.net(), 0.5, importance=outside.last_goes, repair="none")
    assert again.plan.removed["w"] == {"1": list(range(8, 16))}
    assert as_criterion(outside.power).needs == "moments"  # what was registered is known by its function too


@pytest.mark.slow
def test_a_criterion_that_needs_data() -> None:
    data = outside.noise("200")
    scale = np.ones(16, np.float32)
    scale[3] = 50
    model = outside.net()
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * scale, "w"))
    with pytest.raises(InputError, match="importance 'power' needs calibration data"):
        onnxprune.prune(model, 0.5, importance="power")
    analysis = onnxprune.analyze(model)
    scores = onnxprune.score(analysis, "power", calib=data)
    (group,) = (i for i, g in enumerate(analysis.groups) if g.units == 16)
    hidden = np.maximum(data["x"] @ weights(model)["w"] + weights(model)["b"], 0)
    assert np.argmax(scores[group]) == 3 == np.argmax((hidden**2).mean(axis=0))
    assert 3 not in onnxprune.prune(model, 0.5, importance="power", calib=data).plan.removed["w"]["1"]


@pytest.mark.parametrize(
    "made", [lambda group: np.zeros(group.units + 1), lambda group: 3, lambda group: ["a"] * group.units]
)
def test_scores_of_another_shape_are_refused(made: Any) -> None:
    with pytest.raises(InputError, match="must return a number for each of the"):
        onnxprune.prune(outside.net(), 0.5, importance=made, repair="none")


# --- repairs


@pytest.mark.slow
def test_a_repair_by_name(cli: Cli, tmp_path: Path) -> None:
    """It shifts the mean output back, and is kept, since the outputs come nearer."""
    path, data = outside.saved(tmp_path), outside.noise("300")
    plain = onnxprune.prune(path, 0.5, importance="l2", calib=data, repair="none")
    made = onnxprune.prune(path, 0.5, importance="l2", calib=data, repair="shift-outputs")
    assert made.report.repair is not None and made.report.repair[0].penalty == 0.0
    assert made.report.calibration is not None and plain.report.calibration is not None
    assert made.report.calibration.relative_error < plain.report.calibration.relative_error  # type: ignore[operator]
    changed = {n for n, w in weights(made.proto).items() if not np.array_equal(w, weights(plain.proto)[n])}
    assert changed == {"c"}
    ended = cli(path, "--ratio", 0.5, "--importance", "l2", "--calib", "noise:300", "--repair", "shift-outputs")
    assert ended.code == 0, ended.err
    assert onnx.load(tmp_path / "net.pruned.onnx") == made.proto


@pytest.mark.slow
def test_a_repair_that_makes_it_worse_is_taken_back() -> None:
    data = outside.noise("300")
    plain = onnxprune.prune(outside.net(), 0.5, importance="l2", calib=data, repair="none")
    made = onnxprune.prune(outside.net(), 0.5, importance="l2", calib=data, repair="spoil")
    assert made.proto == plain.proto
    assert made.report.repair is not None and [r.penalty for r in made.report.repair] == [None]


def test_a_repair_without_data_has_made_up_inputs() -> None:
    made = onnxprune.prune(outside.net(), 0.5, importance="l2", repair="shift-outputs")
    assert made.report.repair is not None and made.report.verified


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ratio": 0.5, "repair": "spoil"}, "repair 'spoil' needs calibration data"),
        ({"pattern": "2:4", "repair": "shift-outputs"}, "refits what is left of channels, and none are removed"),
        ({"ratio": 0.5, "repair": "shift-output"}, "unknown repair 'shift-output'"),
    ],
)
def test_repairs_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        onnxprune.prune(outside.net(), **options)


# --- patterns


@pytest.mark.slow
@pytest.mark.parametrize("data", spread([{}, {"calib": "noise:300"}, {"calib": "noise:300", "importance": "wanda", "repair": "none"},
                                         {"calib": "noise:300", "importance": "sparsegpt"}]))  # fmt: skip
def test_a_pattern_by_name(cli: Cli, tmp_path: Path, data: dict[str, str]) -> None:
    path = outside.saved(tmp_path)
    made = onnxprune.prune(path, pattern="rows=0.25", global_ranking=False, **data)
    assert set(made.report.zeroed) == {"w"}  # a quarter of three outputs is none
    analysis = onnxprune.analyze(made.proto)
    (weight,) = (w for w in sparsity.weights(analysis.coupling) if w.value.key == "w")
    zero = weights(made.proto)["w"] == 0
    assert outside.Rows().holds(zero, weight.layout) and zero.any(axis=0).sum() == 4
    assert made.plan.zeroed["w"]["pattern"] == "rows"
    assert onnxprune.apply(made.plan, path).report.zeroed == made.report.zeroed
    arguments = [word for name, value in data.items() for word in (f"--{name}", value)]
    assert cli(path, "--pattern", "rows=0.25", "--no-global", *arguments).code == 0
    assert onnx.load(tmp_path / "net.pruned.onnx") == made.proto


@pytest.mark.slow
def test_an_object_is_a_pattern() -> None:
    by_text, by_object = (onnxprune.prune(outside.net(), pattern=p) for p in ("rows=0.25", outside.Rows(0.25)))
    assert by_text.proto == by_object.proto
    both = onnxprune.prune(outside.net(), 0.5, pattern=["channels", outside.Rows(0.25)])
    assert both.plan.removed and both.plan.zeroed


# --- sources and registries


@pytest.mark.slow
def test_a_source_by_name() -> None:
    by_name, by_data = (onnxprune.prune(outside.net(), 0.5, calib=c).proto for c in ("noise:100", outside.noise("100")))
    assert by_name == by_data


@pytest.mark.slow
def test_a_source_in_a_recipe(cli: Cli, tmp_path: Path) -> None:
    """A recipe runs no code that it names, but a source has been registered by the user."""
    path, recipe = outside.saved(tmp_path), tmp_path / "r.toml"
    recipe.write_text('ratio = 0.5\ncalib = "noise:100"\n')
    assert cli(path, "--recipe", recipe).code == 0
    assert onnx.load(tmp_path / "net.pruned.onnx") == onnxprune.prune(path, 0.5, calib="noise:100").proto
    recipe.write_text('ratio = 0.5\ncalib = "noises:100"\n')
    assert "a recipe runs no code" in assert_refused(cli(path, "--recipe", recipe, "--force"))


def test_a_later_entry_takes_the_place_of_an_earlier_one() -> None:
    registry: Registry[int] = Registry("number", entry_points="onnxprune.tests.none")
    registry.add("one", 1)
    registry.add("one", 2)
    assert (registry.get("one"), registry.names(), "one" in registry, "two" in registry) == (2, ["one"], True, False)
    with pytest.raises(InputError, match="unknown number 'ones'") as caught:
        registry.get("ones")
    assert "did you mean 'one'?" in caught.value.hint


@pytest.mark.parametrize("name", ["", "a b", "a=b", "a,b", None, 5])
def test_names_that_no_option_can_hold(name: Any) -> None:
    with pytest.raises(InputError, match="cannot be the name"):
        criteria.add(name, Criterion("x", len))


@pytest.mark.parametrize(
    ("decorator", "name"),
    [
        *((onnxprune.repair_method, name) for name in ("auto", "none", "data-free", "calibrated")),
        *((onnxprune.cost_model, name) for name in ("macs", "params", "bytes")),
    ],
)
def test_a_name_with_a_fixed_meaning_is_refused(decorator: Any, name: str) -> None:
    """Nothing would ever call what is registered under it."""
    with pytest.raises(InputError, match=f"'{name}' is the package's own"):
        decorator(name)(lambda *_: [])


@pytest.mark.parametrize(
    "decorator", [onnxprune.criterion, onnxprune.repair_method, onnxprune.cost_model, onnxprune.data_source]
)
def test_what_cannot_be_called_is_refused(decorator: Any) -> None:
    with pytest.raises(InputError, match="must be a function, not 5"):
        decorator("five")(5)


def test_our_own_entries_cannot_be_lost() -> None:
    own = ["l1", "l2", "fpgm", "lamp", "bn-scale", "random", "obs", "wanda", "flap", "apoz", "sparsegpt", "alps"]
    assert criteria.names()[: len(own)] == own


PLUG_INS = """[onnxprune.criteria]
good = good_plug_in
broken = broken_plug_in
gone = gone_plug_in
[onnxprune.rules]
rules = rules_plug_in
"""
RULES = """import onnxprune
@onnxprune.rule("Swishy", domain="my.ops")
def swishy(op):
    for axis in op.input(0).axes():
        op.tie(axis, op.output().axis(axis.position), zero=True)
"""


@pytest.mark.slow
def test_plug_ins_are_loaded_when_they_are_needed(tmp_path: Path) -> None:
    """By the entry points of an installed package; those that are broken are one warning each, and no more."""
    (tmp_path / "plug_in-1.0.dist-info").mkdir()
    (tmp_path / "plug_in-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-in\nVersion: 1.0\n")
    (tmp_path / "plug_in-1.0.dist-info" / "entry_points.txt").write_text(PLUG_INS)
    (tmp_path / "good_plug_in.py").write_text("from tests.support import outside\noutside.register()\n")
    (tmp_path / "broken_plug_in.py").write_text("raise ZeroDivisionError('no\\nway')\n")
    (tmp_path / "rules_plug_in.py").write_text(RULES)
    path = outside.saved(tmp_path)
    proto = onnx.load(path)
    proto.opset_import.append(onnx.helper.make_opsetid("my.ops", 1))
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "Swishy", "my.ops"
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("r", 1, ["N", 16]))
    onnx.save(proto, path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "onnxprune", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)

    done = run(
        "net.onnx", "--ratio", "0.5", "--importance", "last-goes", "--plan", "p.json", "--no-verify", "--repair", "none"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "p.json").read_text())["removed"]["w"] == {"1": list(range(8, 16))}
    told = [line for line in done.stderr.splitlines() if "plug-in" in line]
    assert told == [
        "warning: plug-in broken of onnxprune.criteria is left out: ZeroDivisionError: no way",
        "warning: plug-in gone of onnxprune.criteria is left out: ModuleNotFoundError: No module named 'gone_plug_in'",
    ]
    assert "plug-in" not in run("--help").stderr
    unknown = run("net.onnx", "--ratio", "0.5", "--importance", "last-gos")
    assert unknown.returncode == 2 and "did you mean 'last-goes'?" in unknown.stderr


def test_unknown_names_are_refused_on_the_command_line(cli: Cli, tmp_path: Path) -> None:
    path = outside.saved(tmp_path)
    said = assert_refused(cli(path, "--ratio", 0.5, "--importance", "last-gose"))
    assert "unknown importance 'last-gose'" in said and "did you mean 'last-goes'?" in said


class Broken(Exception):
    """What the code of somebody else raises."""


def broken(*_: Any) -> Any:
    raise Broken("out of cheese")


@pytest.mark.parametrize(
    ("register", "registry", "options"),
    [
        (onnxprune.criterion, points.criteria, {"ratio": 0.5, "importance": "broken"}),
        (onnxprune.repair_method, points.repairs, {"ratio": 0.5, "repair": "broken"}),
        (onnxprune.cost_model, points.costs, {"target": {"broken": 0.5}}),
        (onnxprune.data_source, points.sources, {"ratio": 0.5, "calib": "broken:3"}),
    ],
)
def test_a_fault_in_what_was_added_is_told_as_its_own(register: Any, registry: Any, options: dict[str, Any]) -> None:
    register("broken")(broken)
    try:
        with pytest.raises(
            onnxprune.InputError, match="'broken', which was added to onnxprune, failed: Broken: out of"
        ):
            onnxprune.prune(outside.net(), **{"repair": "none", **options})
    finally:
        registry.remove("broken")
