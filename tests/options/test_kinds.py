"""Values of a wrong kind, for every option: one line, and never another exception."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune import options
from onnxprune.errors import InputError
from onnxprune.extensions.patterns import Pattern
from onnxprune.options import Options
from onnxprune.options.channels import Channels
from onnxprune.options.parts import Calibration, Checks, Resources, Scope, Zeros
from onnxprune.options.repair import Repair

NAMES = list(inspect.signature(Options.of).parameters)


class _Thing:
    """What no option takes."""

    def __repr__(self) -> str:
        return "a thing"


OBJECT = _Thing()
WRONG: dict[str, list[Any]] = {
    "flag": ["no", "false", 1, 0, None, [], OBJECT, math.nan],
    "whole": ["1", 1.5, True, None, [1], OBJECT, 0, -1, math.inf],
    "number": ["0.5", True, [0.5], OBJECT, math.nan, math.inf, -1.0],
    "text": ["nonsense", 5, True, None, [], OBJECT, b"l2"],
    "expressions": [5, None, [None], [5], ["("], {"w": 1}, b"w", OBJECT, 1.5],
    "mapping": [5, "macs=0.5", ["macs"], OBJECT, {5: 1}, {"": 1}, {None: 1}, {"nonsense": 1}, 1.5, True],
    "pattern": [None, 5, [], [None], [5], {"2:4": 1}, "nonsense", b"2:4", OBJECT, ["2:4", "weights=0.5"], True],
    "path": [5, 1.5, True, "", b"", [], OBJECT],
}
KINDS = {
    **dict.fromkeys(
        ["permute", "mixing", "keep_anyway", "search", "drift_search", "verify", "time", "strict", "sparse_storage"],
        "flag",
    ),
    **dict.fromkeys(["min_channels", "steps", "memory", "epochs"], "whole"),
    **dict.fromkeys(["ratio", "run_seconds"], "number"),
    **dict.fromkeys(["attention", "engine", "repair"], "text"),
    **dict.fromkeys(["only", "ignore", "shrink"], "expressions"),
    "pattern": "pattern",
}
CASES = [(name, value) for name, kind in KINDS.items() for value in WRONG[kind]]
CASES += [(name, v) for name in ("run_memory", "samples") for v in WRONG["whole"] if v is not None]
CASES += [("round_to", v) for v in WRONG["whole"]]
CASES += [("times", v) for v in WRONG["path"]] + [("times", "times.json")]  # there is no target of latency
CASES += [("target", {"latency": v}) for v in [None, "x", True, [], -1, 0, math.nan, "0ms", "1 hour", 4, OBJECT]]
CASES += [("time_limit", v) for v in WRONG["number"]]
CASES += [("minutes", v) for v in WRONG["number"]]
CASES += [("seed", v) for v in ["1", 1.5, True, None, [1], OBJECT, -1]]
CASES += [("depth", v) for v in ["1", 1.5, True, None, [1], OBJECT, -1, "auto"]]  # there is no target
CASES += [("global_ranking", v) for v in WRONG["flag"] if v is not None]
CASES += [("importance", v) for v in WRONG["text"] if v is not None]
CASES += [("stats", v) for v in WRONG["path"]]
CASES += [("metric", v) for v in WRONG["text"] if v is not None]
CASES += [("max_drop", v) for v in WRONG["number"]]
CASES += [("calib", v) for v in [5, 1.5, True, OBJECT]]
CASES += [(name, v) for name in ("target", "gate", "input_shapes") for v in WRONG["mapping"] if v is not None]
CASES += [("keep", v) for v in [5, "w=0.5", ["w"], OBJECT, {5: 1}, {"": 1}, {"(": 0.5}, 1.5, True]]
CASES += [("keep", {"w": v}) for v in [None, "0.5", True, [], -1, 0, 1.01, math.nan, math.inf, OBJECT]]
CASES += [("target", {"macs": v}) for v in [None, "x", True, [], -1, 0, math.nan, "0", OBJECT]]
CASES += [("gate", {"drift": v}) for v in [None, "0.1", True, [], -1, math.nan, OBJECT]]
CASES += [("gate", {"cosine": 2}), ("gate", {"agreement": -0.1}), ("gate", {"drfit": 0.1})]
CASES += [("input_shapes", {"x": v}) for v in [5, None, "1,3", ["a"], [0], [1.5], [True], [None], OBJECT]]


def amounts(name: str) -> dict[str, Any]:
    """What says how much, where the option in question does not."""
    return {} if name in ("ratio", "target") else {"ratio": 0.5}


def test_every_option_is_tried() -> None:
    assert {name for name, _ in CASES} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_kind_is_refused_in_one_line(name: str) -> None:
    for value in (v for other, v in CASES if other == name):
        print(f"{value!r}")  # shown when the assertion fails
        with pytest.raises(InputError) as caught:
            Options.of(**{**amounts(name), name: value})
        assert caught.value.message and "\n" not in caught.value.message
        assert name.split("_")[0].replace("calib", "") in caught.value.message or name == "global_ranking"


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.just(OBJECT),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.slow
@given(st.sampled_from(NAMES), ANYTHING)
def test_anything_is_taken_or_refused(name: str, value: Any) -> None:
    """No value makes another exception than an InputError; what is taken can be told."""
    try:
        made = Options.of(**{**amounts(name), name: value})
    except InputError as error:
        assert error.message and "\n" not in error.message
    else:
        json.dumps(made.to_dict(), allow_nan=False)


PARTS: list[tuple[type, dict[str, Any]]] = [
    (Channels, {"ratio": 0.5}), (Zeros, {"pattern": "2:4"}), (Scope, {}), (Calibration, {}), (Repair, {}), (Checks, {}), (Resources, {}),
]  # fmt: skip


@pytest.mark.parametrize(("part", "given_"), PARTS)
def test_parts_are_frozen_and_refuse_by_themselves(part: type, given_: dict[str, Any]) -> None:
    made = part(**given_)
    for f in dataclasses.fields(part):
        if f.name == "data":
            continue
        with pytest.raises(InputError):
            part(**{**given_, f.name: OBJECT})
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, f.name, None)


def test_defaults_are_those_of_the_parts() -> None:
    """One source: what `Options.of` takes by default is what the parts have."""
    made = Options.of(0.5)
    assert made == Options(channels=Channels(ratio=0.5))
    parts: list[Any] = [
        Channels(ratio=0.5),
        Scope(),
        Calibration(),
        Repair(),
        Checks(),
        Resources(),
        Options(Channels(0.5)),
    ]
    known = {f.name: getattr(part, f.name) for part in parts for f in dataclasses.fields(part)}
    renamed = {
        "calib": "data",
        "repair": "method",
        "drift_search": "search",
        "target": None,
        "keep": None,
        "gate": None,
        "input_shapes": None,
        "ratio": None,
    }
    for name, parameter in inspect.signature(Options.of).parameters.items():
        field = renamed.get(name, name)
        if field is None:
            assert parameter.default is None
        elif name not in ("pattern", "permute", "global_ranking"):  # those of zeros, which there are none of
            assert parameter.default == known[field], name


def test_a_search_has_an_old_name() -> None:
    gate = {"drift": 0.1}
    assert Options.of(gate=gate, drift_search=True) == Options.of(gate=gate, search=True) != Options.of(0.5, gate=gate)


def test_zeros_parse() -> None:
    made = Zeros("4x1=0.5")
    assert isinstance(made.pattern, Pattern) and str(made.shape) == "4x1" and made.shape.share == 0.5
    assert Options.of(pattern="4x1=0.5").zeros == made
    assert options.Options(zeros=Zeros("2:4")).zeros == Options.of(pattern="2:4").zeros


def test_a_function_is_an_importance() -> None:
    made = Options.of(0.5, importance=lambda group: group.sums(1))
    assert made.criterion.name == "<lambda>" and made.to_dict()["importance"] == {"python": "<lambda>"}


def test_options_of_a_mapping() -> None:
    assert Options.from_dict({"ratio": 0.5, "only": "w"}) == Options.of(0.5, only="w")
    for unknown, close in (("ratoi", "did you mean 'ratio'?"), ("across", "one of ratio"), (5, "one of ratio")):
        with pytest.raises(InputError, match="unknown option") as caught:
            Options.from_dict({unknown: 0.5})  # type: ignore[dict-item]
        assert close in caught.value.hint
