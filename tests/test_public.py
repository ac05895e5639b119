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

import numpy as np
import pytest

import onnxprune
from onnxprune import api, errors
from onnxprune.errors import OnnxPruneError
from onnxprune.options import Options
from tests.support.commands import tiny
from tests.support.paths import MODELS

HOMES = {
    "Analysis": "onnxprune.pipeline.analysis",
    "GroupView": "onnxprune.extensions.views",
    "WeightView": "onnxprune.extensions.views",
    "Options": "onnxprune.options.options",
    "Pattern": "onnxprune.extensions.patterns",
    "Plan": "onnxprune.planning.plan",
    "Progress": "onnxprune.common.progress",
    "Refit": "onnxprune.repair.layerwise",
    "RepairJob": "onnxprune.pipeline.refit",
    "Report": "onnxprune.report.report",
    "Result": "onnxprune.pipeline.result",
    "Times": "onnxprune.engines.times",
    **dict.fromkeys(["analyze", "measure", "score"], "onnxprune.api.stages"),
    **dict.fromkeys(["apply", "verify"], "onnxprune.api.checkpoints"),
    **dict.fromkeys(["plan", "prune", "run"], "onnxprune.api.pruning"),
    **dict.fromkeys(
        ["cost_model", "criterion", "data_source", "repair_method", "zero_criterion"], "onnxprune.extensions.points"
    ),
    "compare": "onnxprune.pipeline.compare",
    "FineTuned": "onnxprune.pipeline.finetune",
    "finetune": "onnxprune.pipeline.finetune",
    "group_lasso": "onnxprune.importance.group_lasso",
    "sensitivity": "onnxprune.pipeline.sensitivity",
    "slice_checkpoint": "onnxprune.planning.checkpoints.slice",
    "slice_state": "onnxprune.planning.checkpoints.slice",
    "sweep": "onnxprune.pipeline.sweep",
    "metric": "onnxprune.extensions.metrics",
    "pattern": "onnxprune.extensions.patterns",
    "SmallVocabulary": "onnxprune.pipeline.vocabulary",
    "cut_vocabulary": "onnxprune.pipeline.vocabulary",
    **{name: "onnxprune.errors" for name, kind in vars(errors).items() if isinstance(kind, type) and name != "Words"},
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
    for function in (api.prune, api.plan):
        assert parameters(function)["options"].annotation == "Options | None"
        assert parameters(function)["progress"].annotation == "ProgressCallback | None"
    del pruned["options"], pruned["progress"], pruned["client"], pruned["work"]
    assert pruned == options and list(pruned) == list(options)
    planned = parameters(api.plan)
    assert planned.pop("analysis").annotation == "Analysis"
    del planned["options"], planned["progress"]
    only_written = {"keep_anyway", "time", "strict", "sparse_storage"}
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
    hints = typing.get_type_hints(function)
    for parameter in parameters(function).values():
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        assert parameter.name in hints
        assert (hints[parameter.name] is Any) == (parameter.name in ("calib", "client"))
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


@pytest.mark.slow
def test_options_in_one_object() -> None:
    """Every function that takes options takes an `Options` too, with the same result, and not both."""
    model, asked = MODELS / "sk_mlp.onnx", {"importance": "fpgm", "min_channels": 3, "seed": 2, "repair": "none"}
    together = Options.of(0.4, **asked, time=False, verify=False)
    apart = onnxprune.prune(model, 0.4, **asked, time=False, verify=False)
    assert onnxprune.prune(model, options=together).proto == apart.proto
    analysis = onnxprune.analyze(model, options=together)
    assert onnxprune.plan(analysis, options=together) == onnxprune.plan(analysis, 0.4, **asked) == apart.plan
    scores = zip(onnxprune.score(analysis, options=together), onnxprune.score(analysis, "fpgm", seed=2), strict=True)
    assert all((a == b).all() for a, b in scores)
    for act in (
        lambda: onnxprune.prune(model, 0.5, options=together),
        lambda: onnxprune.prune(model, options=together, seed=3),
        lambda: onnxprune.plan(analysis, options=together, round_to=8),
        lambda: onnxprune.score(analysis, "l1", options=together),
        lambda: onnxprune.analyze(model, mixing=True, options=together),
        lambda: onnxprune.prune(model, calib=np.zeros((4, 64), np.float32), options=together),
    ):
        with pytest.raises(errors.InputError, match=r"options and .* are both given"):
            act()
    with pytest.raises(errors.InputError, match=r"options must be an onnxprune\.Options"):
        onnxprune.prune(model, options={"ratio": 0.5})  # type: ignore[arg-type]


def test_a_plan_ignores_what_concerns_the_model_that_is_written() -> None:
    together = Options.of(0.4, repair="none", gate={"drift": 0.1}, strict=True, sparse_storage=True)
    analysis = onnxprune.analyze(MODELS / "sk_mlp.onnx")
    assert onnxprune.plan(analysis, options=together) == onnxprune.plan(analysis, 0.4, repair="none")


def test_options_of_an_analysis_must_be_those_of_its_plan() -> None:
    analysis = onnxprune.analyze(MODELS / "pt_transformer.onnx")
    with pytest.raises(errors.InputError, match="mixing"):
        onnxprune.plan(analysis, options=Options.of(0.4, mixing=True))


def test_a_criterion_that_cannot_score_is_refused() -> None:
    """A score that lacks its data, or a name that is misspelt, is an error and not another score."""
    analysis = onnxprune.analyze(tiny())
    for name in ("obs", "wanda", "flap", "apoz"):
        with pytest.raises(errors.InputError, match="needs calibration data"):
            onnxprune.score(analysis, name)
    with pytest.raises(errors.InputError, match="unknown importance"):
        onnxprune.score(analysis, "ob")


def test_help_tells_each_option() -> None:
    """`help(onnxprune.prune)` lists every option with what it means."""
    import pydoc

    shown = pydoc.plain(pydoc.render_doc(onnxprune.prune))
    for name in parameters(api.prune):
        assert any(line.strip().startswith(f"{name}: ") and len(line.split()) > 2 for line in shown.splitlines()), name
