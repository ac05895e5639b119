"""Options of a run: which groups are open, how much each must keep, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxprune
from onnxprune.errors import InputError
from onnxprune.options import Options
from tests.ops.case import build
from tests.test_api import net, prune, shapes


@pytest.mark.parametrize(
    ("options", "w", "u"),
    [
        ({"only": ["^w$"]}, 4, 12),
        ({"only": ["/conv/k"]}, 4, 6),
        ({"only": ["/matmul/"]}, 8, 6),
        ({"ignore": ["/conv/h"]}, 8, 6),
        ({"ignore": ["^v$"]}, 4, 12),
        ({"only": ["^[wv]$"], "ignore": ["^v$"]}, 4, 12),
    ],
)
def test_only_and_ignore_by_initializer_and_by_node(options: dict[str, list[str]], w: int, u: int) -> None:
    new = shapes(prune(net(), **options).proto)
    assert (new["w"][0], new["u"]) == (w, [u, w, 1, 1])


def test_a_pattern_that_matches_nothing_is_told() -> None:
    for options in ({"only": ["nobody"]}, {"ignore": ["nobody"]}, {"only": ["w"], "ignore": ["nobody"]}):
        with pytest.raises(InputError, match="'nobody' matches no"):
            prune(net(), **options)


@pytest.mark.parametrize(
    ("options", "w", "u"),
    [
        ({}, 2, 3),
        ({"min_channels": 4}, 4, 4),
        ({"min_channels": 100}, 8, 12),
        ({"round_to": 4}, 4, 4),
        ({"round_to": 8}, 8, 8),
        ({"round_to": 5}, 5, 5),
        ({"min_channels": 5, "round_to": 4}, 8, 8),
    ],
)
def test_limits(options: dict[str, int], w: int, u: int) -> None:
    new = shapes(prune(net(), 0.75, **options).proto)
    assert (new["w"][0], new["u"]) == (w, [u, w, 1, 1])


def test_across_takes_as_many_in_all() -> None:
    result = prune(net(), 0.5, global_ranking=True)
    removed = {g["name"]: len(g["removed"]) for g in result.plan.groups}
    assert removed["w:0"] + removed["u:0"] == 10


def test_mixing_is_opened_on_request_only() -> None:
    model = build("""(float[N,3] x) => (float[N,2] y) <float[3,8] w, float[8] s, float[8,2] v>
        { h = MatMul(x, w)  e = Softmax <axis = 0> (h)  n = LayerNormalization(e, s)  y = MatMul(n, v) }""")
    assert shapes(prune(model).proto)["w"] == [3, 8]
    result = prune(model, mixing=True)
    assert shapes(result.proto) == {"w": [3, 4], "s": [4], "v": [4, 2]}
    assert result.plan.mixing and onnxprune.apply(result.plan, model).proto == result.proto
    group = next(g for g in result.report.groups if g.name == "w:1")
    assert group.grade == "mixing" and group.pinned == ["LayerNormalization 'n' mixes the axis"]


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm", "lamp", "bn-scale", "random"])
def test_every_criterion_prunes_to_the_same_shapes(criterion: str) -> None:
    assert shapes(prune(net(), importance=criterion).proto)["u"] == [6, 4, 1, 1]


def test_a_single_pattern_may_be_a_string() -> None:
    assert shapes(prune(net(), only="^w$").proto)["u"] == [12, 4, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "below 1"),
        ({"ratio": -0.1}, "at least 0"),
        ({"ratio": float("nan")}, "at least 0"),
        ({"ratio": None}, "how much"),
        ({"importance": "l3"}, "unknown importance"),
        ({"repair": "magic"}, "unknown repair"),
        ({"pattern": "blocks"}, "unknown pattern"),
        ({"ratio": None, "pattern": "weights=1"}, "below 1"),
        ({"ratio": None, "pattern": "weights=x"}, "how much"),
        ({"pattern": "weights=0.5"}, "both say how much"),
        ({"min_channels": 0}, "min_channels"),
        ({"round_to": 0}, "round_to"),
        ({"only": ["("]}, "not a regular expression"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prune(net(), **{"ratio": 0.5, **options})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ratio": "0.5"}, "ratio must be a number, not '0.5'"),
        ({"ratio": True}, "ratio must be a number, not True"),
        ({"samples": 2.5}, "samples must be a whole number, not 2.5"),
        ({"seed": "1"}, "seed must be a whole number"),
        ({"ratio": None, "target": "macs=0.5"}, "target must be a mapping such as {'macs': 0.5}, not 'macs=0.5'"),
        ({"gate": "drift=0.1"}, "gate must be a mapping"),
        ({"gate": {"drift": "0.1"}}, "gate drift must be a number"),
        ({"input_shapes": "x:1,2"}, "input_shapes must be a mapping"),
    ],
)
def test_values_of_another_kind_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Options.of(**{"ratio": 0.5, **options})
    assert caught.value.message.startswith(said)


def test_numbers_of_numpy_are_numbers() -> None:
    made = Options.of(ratio=np.float32(0.5), seed=np.int64(3))
    assert made.channels is not None and (made.channels.ratio, made.seed) == (0.5, 3)
