"""Options as JSON data and back: nothing is lost, in a mapping, in Python and in a recipe."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onnxprune
from onnxprune.cli import parsing
from onnxprune.cli.prune import prune
from onnxprune.errors import InputError
from onnxprune.options import Calibration, Channels, Options, Zeros
from tests.support.commands import tiny

SHARES = st.floats(0, 0.999)
NAMES = st.lists(st.sampled_from(["conv", "^head", r"layers\.[0-9]+", "a b", "é"]), max_size=2)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "ratio": SHARES,
    "target": st.dictionaries(
        st.sampled_from(["macs", "params", "bytes"]),
        st.sampled_from(["2G", "4MB", "0.25"]) | st.floats(1e-3, 1e12),
        min_size=1,
    )
    | st.builds(lambda x: {"latency": x}, st.sampled_from(["4ms", "0.5", "1e-3s"]) | st.floats(1e-3, 1)),
    "keep": st.dictionaries(st.sampled_from(["conv", "^head:0$", "a=b"]), st.floats(1e-3, 1), min_size=1),
    "pattern": st.lists(st.sampled_from(["channels", "2:4", "4x1=0.3", "weights=0.7"]), min_size=1, max_size=2)
    | st.builds("weights={!r}".format, SHARES),
    "global_ranking": st.booleans(),
    "importance": st.sampled_from(["l1", "l2", "obs", "wanda", "sparsegpt", "fpgm"]),
    "min_channels": st.integers(1, 99),
    "round_to": st.just("auto") | st.integers(1, 64),
    "engine": st.sampled_from(["onnxruntime", "openvino", "tensorrt-int8"]),
    "times": st.sampled_from(["times.json", Path("times.json")]),
    "steps": st.integers(1, 4),
    "depth": st.just("auto") | st.integers(0, 9),
    "permute": st.booleans(),
    "seed": st.integers(0, 2**40),
    "only": NAMES,
    "ignore": NAMES,
    "mixing": st.booleans(),
    "attention": st.sampled_from(["heads", "dims"]),
    "shrink": NAMES,
    "calib": st.sampled_from(["data.npz", "images,mean=0.5,std=0.2", Path("more.npz")]),
    "samples": st.integers(1, 10**6),
    "stats": st.sampled_from(["stats.npz", Path("stats.npz")]),
    "repair": st.sampled_from(["auto", "none", "data-free", "calibrated", "distilled"]),
    "epochs": st.integers(1, 1000),
    "minutes": st.floats(1e-3, 1e4),
    "gate": st.dictionaries(
        st.sampled_from(["drift", "cosine", "agreement", "drift:a=b:0"]), st.floats(0, 1), min_size=1
    ),
    "keep_anyway": st.booleans(),
    "drift_search": st.booleans(),
    "verify": st.booleans(),
    "time": st.booleans(),
    "strict": st.booleans(),
    "time_limit": st.floats(1e-3, 1e6),
    "input_shapes": st.dictionaries(
        st.sampled_from(["x", "input:0", "a b"]), st.lists(st.integers(1, 640), min_size=1, max_size=4)
    ),
    "sparse_storage": st.booleans(),
    "search": st.booleans(),
    "metric": st.sampled_from(["top1", "top5", "mse", "psnr", "auc", "top1:y"]),
    "max_drop": st.floats(0, 10),
    "memory": st.integers(1, 2**40),
    "run_seconds": st.floats(1e-3, 1e6),
    "run_memory": st.integers(1, 2**40),
}


def made(**given_: Any) -> Options | None:
    try:
        return Options.of(**given_)
    except InputError:
        return None


@st.composite
def options(draw: st.DrawFn) -> Options:
    """Options that do not contradict each other: those that do are left out one after the other."""
    kept = {"ratio": draw(SHARES)} if draw(st.booleans()) else {"target": draw(VALUES["target"])}
    if draw(st.booleans()):
        kept = {"pattern": draw(VALUES["pattern"])} if made(pattern="2:4") is None else kept
    for name in draw(st.lists(st.sampled_from(sorted(set(VALUES) - {"ratio", "target"})), unique=True)):
        tried = {**kept, name: draw(VALUES[name])}
        for attempt in (tried, {k: v for k, v in tried.items() if k not in ("ratio", "target")}):
            if made(**attempt) is not None:
                kept = attempt
                break
    found = made(**kept)
    assert found is not None
    return found


def test_every_option_is_drawn() -> None:
    assert set(VALUES) == set(inspect.signature(Options.of).parameters)


@pytest.mark.slow
@given(options())
def test_to_json_and_back(asked: Options) -> None:
    stored = json.loads(json.dumps(asked.to_dict(), allow_nan=False))
    assert Options.from_dict(stored) == asked
    assert Options.of(**stored) == asked


@pytest.mark.parametrize("name", sorted(VALUES))
def test_each_option_is_stored(name: str) -> None:
    """A value other than the default makes other JSON data: no option is left out."""
    base = {"calib": "data.npz", "gate": {"drift": 0.5}, "pattern": ["channels", "2:4"], "ratio": 0.5, "stats": "s"}
    other: dict[str, Any] = {
        **dict.fromkeys(
            [
                "global_ranking",
                "permute",
                "mixing",
                "keep_anyway",
                "search",
                "drift_search",
                "sparse_storage",
                "strict",
            ],
            True,
        ),
        **dict.fromkeys(["verify", "time"], False),
        **dict.fromkeys(
            [
                "min_channels",
                "round_to",
                "steps",
                "depth",
                "samples",
                "memory",
                "run_memory",
                "time_limit",
                "seed",
                "epochs",
                "minutes",
            ],
            3,
        ),
        **dict.fromkeys(["only", "ignore", "shrink"], "w"),
        "ratio": 0.25,
        "target": {"macs": 0.5},
        "keep": {"w": 0.5},
        "pattern": "channels",
        "importance": "wanda",
        "attention": "dims",
        "calib": "other.npz",
        "stats": "t",
        "repair": "none",
        "gate": {"cosine": 0.5},
        "run_seconds": 2.5,
        "metric": "top5",
        "max_drop": 0.02,
        "input_shapes": {"x": [1, 3]},
        "engine": "mnn",
        "times": "times.json",
    }
    if name == "times":
        del base["ratio"]
        base["target"] = {"latency": 0.5}
    if name in ("epochs", "minutes"):
        base["repair"] = "distilled"
    changed = {**base, name: other[name]}
    if name == "target":
        del changed["ratio"]
    assert Options.of(**changed).to_dict() != Options.of(**base).to_dict()


def toml(data: dict[str, Any]) -> str:
    """Options as TOML, which has no null: tables behind single values."""
    given_ = {k: v for k, v in data.items() if v is not None}
    lines = [f"{k} = {json.dumps(v)}" for k, v in given_.items() if not isinstance(v, dict)]
    for key, table in given_.items():
        if isinstance(table, dict):
            lines += [f"[{key}]", *(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in table.items())]
    return "\n".join(lines)


def of_recipe(path: Path) -> Options:
    with prune.make_context("onnxprune", ["model.onnx", "--recipe", str(path)]) as context:
        return parsing.options(context)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(options())
def test_a_recipe_of_stored_options(tmp_path: Path, asked: Options) -> None:
    """The same data are a recipe, in TOML and in JSON; files are found from its folder."""
    stored = asked.to_dict()
    located = {k: str(tmp_path / v) for k, v in stored.items() if k in ("calib", "stats", "times") and v is not None}
    expected = Options.from_dict({**stored, **located})
    for name, text in (("r.toml", toml(stored)), ("r.json", json.dumps(stored))):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert of_recipe(tmp_path / name) == expected


@pytest.mark.parametrize("across", [(False, None), (True, False), (False, True)])
@pytest.mark.parametrize("criteria", [("fpgm", "wanda"), ("wanda", None), (None, "sparsegpt"), ("l2", "obs")])
def test_parts_that_no_parameters_make(
    criteria: tuple[str | None, str | None], across: tuple[bool, bool | None]
) -> None:
    """Channels and zeros with criteria or rankings of their own, which only the parts can say."""
    asked = Options(
        channels=Channels(0.5, importance=criteria[0], global_ranking=across[0]),
        zeros=Zeros("weights=0.5", solver=criteria[1], global_ranking=across[1]),
        calibration=Calibration("data.npz"),
    )
    assert Options.from_dict(json.loads(json.dumps(asked.to_dict()))) == asked


def test_what_json_cannot_hold_is_refused_again() -> None:
    """Arrays and functions are named, and not taken for files or names when they are read."""
    for name, value in (("calib", {"x": np.zeros(3)}), ("importance", lambda group: group.sums(1))):
        stored = json.loads(json.dumps(Options.of(0.5, **{name: value}).to_dict()))
        assert list(stored[name]) == ["python"]
        with pytest.raises(InputError, match=name):
            Options.from_dict(stored)
        assert Options.from_dict({**stored, name: None}) == Options.of(0.5)


def test_a_report_prunes_again(tmp_path: Path) -> None:
    """The options in the report of a run make the same run."""
    first = onnxprune.prune(tiny(), 0.3, importance="random", seed=3, repair="none", min_channels=2, time=False)
    again = onnxprune.run(tiny(), Options.from_dict(json.loads(first.report.to_json())["options"]))
    assert again.proto == first.proto and again.report.options == first.report.options
