"""The public names, where they live, and what their signatures promise."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
import typing
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import onnxprune
from onnxprune import api, errors
from onnxprune.errors import OnnxPruneError
from onnxprune.options import Options
from tests.support.commands import tiny
from tests.support.paths import MODELS

HOMES = {
    "Analysis": "onnxprune.pipeline.analysis",
    "GroupView": "onnxprune.extensions",
    "WeightView": "onnxprune.extensions",
    "Options": "onnxprune.options.options",
    "Pattern": "onnxprune.patterns",
    "Plan": "onnxprune.planning.plan",
    "Refit": "onnxprune.repair.layerwise",
    "RepairJob": "onnxprune.pipeline.refit",
    "Report": "onnxprune.report.report",
    "Result": "onnxprune.pipeline.result",
    **dict.fromkeys(["analyze", "apply", "plan", "prune", "run", "score", "verify"], "onnxprune.api"),
    **dict.fromkeys(
        ["cost_model", "criterion", "data_source", "repair_method", "zero_criterion"], "onnxprune.extensions"
    ),
    "compare": "onnxprune.pipeline.compare",
    "metric": "onnxprune.metrics",
    "pattern": "onnxprune.patterns",
    **{name: "onnxprune.errors" for name, kind in vars(errors).items() if isinstance(kind, type)},
}
OPERATORS = "onnxprune.ops.registry"
"""Where the decorators of rules for operators live."""


def test_names_and_homes() -> None:
    """Every public name is there, and lives where pickles and messages say that it does."""
    found = {name: getattr(onnxprune, name) for name in onnxprune.__all__}
    homes = {
        name: thing.__module__
        for name, thing in found.items()
        if hasattr(thing, "__module__") and name != "ModelSource"
    }
    assert {name: home for name, home in homes.items() if home not in (OPERATORS, "onnxprune.graph.operators")} == HOMES
    assert set(onnxprune.__all__) <= set(dir(onnxprune))
    assert not [name for name, thing in found.items() if isinstance(thing, ModuleType)]  # no package hides a function
    assert len(set(onnxprune.__all__)) == len(onnxprune.__all__)


def test_names_are_found_before_anything_is_imported() -> None:
    code = (
        "import onnxprune, sys; assert set(onnxprune.__all__) <= set(dir(onnxprune)); assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        _ = onnxprune.prun  # type: ignore[attr-defined]


def test_every_error_is_public() -> None:
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, OnnxPruneError)}
    assert kinds <= set(onnxprune.__all__)


def test_objects_are_shown_in_a_line() -> None:
    """A notebook, a debugger and a log show what is asked for, not the weights."""
    result = onnxprune.prune(MODELS / "pt_resnet_bn.onnx", 0.5, repair="none", time=False)
    analysis = onnxprune.analyze(MODELS / "pt_resnet_bn.onnx")
    group = analysis.groups[0]
    parts = [
        result,
        result.plan,
        analysis,
        analysis.model,
        group,
        group.slices[0].value,
        analysis.coupling.graph.main.nodes[0],
    ]
    for one in [*parts, analysis.coupling.graph.main]:
        assert "\n" not in repr(one)
        assert len(repr(one)) < 200
        assert " at 0x" not in repr(one)
    assert repr(analysis) == "Analysis(6 groups: 5 exact, 1 pinned)"
    assert repr(group).startswith(f"Group({group.name!r}, {group.units} units, ")
    assert f"MACs {result.report.macs.before} -> {result.report.macs.after}" in repr(result)


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def test_options_are_the_same_everywhere() -> None:
    """One list of options: those of `Options.of`, with their defaults and types."""
    options = parameters(Options.of)
    pruned = parameters(api.prune)
    assert pruned.pop("model").annotation == "ModelSource"
    assert pruned == options and list(pruned) == list(options)
    planned = parameters(api.plan)
    assert planned.pop("analysis").annotation == "Analysis"
    only_written = {"keep_anyway", "time", "sparse_storage"}
    assert list(planned) == [name for name in options if name not in only_written]
    from_analysis = {"mixing", "attention", "shrink"}
    for name, parameter in planned.items():
        if name in from_analysis:
            assert parameter.default is None
            assert parameter.annotation.removesuffix(" | None") == options[name].annotation
        else:
            assert parameter == options[name]


@pytest.mark.parametrize("name", ["prune", "analyze", "score", "plan", "apply", "verify"])
def test_signatures(name: str) -> None:
    """Everything is typed, options are keywords, and there are no catch-alls."""
    function = getattr(onnxprune, name)
    hints = typing.get_type_hints(function, vars(api))
    for parameter in parameters(function).values():
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        assert parameter.name in hints
        assert (hints[parameter.name] is Any) == (parameter.name == "calib")
    assert "return" in hints
    assert "Raises:" in inspect.getdoc(function)  # type: ignore[operator]


def test_documented_arguments_are_those_there_are() -> None:
    for function in (api.prune, api.analyze, api.score, api.plan, api.verify, Options.of):
        section = inspect.getdoc(function).split("Args:\n")[1].split("\n\n")[0]  # type: ignore[union-attr]
        named = [
            line.strip().split(":")[0] for line in section.splitlines() if line.startswith("    ") and line[4] != " "
        ]
        assert named == list(parameters(function))


@pytest.mark.parametrize(
    "kind", [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, OnnxPruneError)]
)
def test_errors_are_pickled_whole(kind: type[OnnxPruneError]) -> None:
    error = kind("what is\nwrong", "what helps")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and (again.message, again.hint) == ("what is wrong", "what helps")


def test_plan_and_report_are_plain_values() -> None:
    result = onnxprune.prune(tiny(), 0.5, repair="none")
    assert pickle.loads(pickle.dumps(result.plan)) == result.plan
    assert pickle.loads(pickle.dumps(result.report)) == result.report
    assert onnxprune.Report.from_dict(result.report.to_dict()) == result.report
