"""Groups that are to stay alike: one number for all of them, with the damage and the cost of each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune import testing
from onnxprune.allocation.counts import Limits, Width
from onnxprune.allocation.variables import CostOfVariables, Variables
from onnxprune.cost.cost_model import parameters
from tests.allocation.test_keep import SIZES, model
from tools.decoder_graph import Shape, decoder, random_weights

DECODER = Shape(heads=8, keys=4, layers=3)


def test_one_number_for_groups_that_stay_alike() -> None:
    """What is fixed is no longer among them, and one that is left alone is as any other."""
    variables = Variables.of(np.array([0, 5, 0, 0]), [0, 2, 3], [[0, 3], [1, 2]])
    assert [list(some) for some in variables.members] == [[0, 3], [2]] and not variables.plain
    assert variables.all(np.array([4, 7])).tolist() == [4, 5, 7, 4]
    assert Variables.of(np.zeros(2, np.int64), [0, 1], ()).plain


def test_damage_and_limits_are_those_of_all() -> None:
    variables = Variables.of(np.zeros(3, np.int64), [0, 1, 2], [[0, 2]])
    found = variables.curves([np.array([0.0, 1, 2]), np.array([0.0, 5]), np.array([0.0, 10])])
    assert [curve.tolist() for curve in found] == [[0, 11], [0, 5]]
    limits = variables.limits([Limits(2, (Width(4),)), Limits(), Limits(3, (Width(4), Width(8, 0, 16)))])
    assert limits == [Limits(3, (Width(4), Width(8, 0, 16))), Limits()]


def test_costs_are_those_of_all() -> None:
    analysis = onnxprune.analyze(model())
    whole = parameters(analysis.coupling, [g for g in analysis.groups if g.name in SIZES])
    part = CostOfVariables(whole, Variables.of(np.zeros(3, np.int64), [0, 1, 2], [[0, 1]]))
    removed = np.array([3, 7])
    assert part.left(removed) == whole.left(np.array([3, 3, 7]))
    assert part.saving(removed, 0, 2) == whole.left(np.array([3, 3, 7])) - whole.left(np.array([5, 5, 7]))
    assert part.lefts(removed, 0, np.array([0, 4])).tolist() == [whole.left(np.array([n, n, 7])) for n in (0, 4)]
    assert np.ptp(part.lefts(removed, 1, np.array([7, 9]))) == 2 * (17 + 4)


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    """A decoder with a cache whose key heads are of very different weight."""
    weights = random_weights(DECODER)
    for layer, scale in enumerate((1.0, 0.1, 0.01)):
        for name in ("q", "k", "v", "o"):
            weights[f"layers.{layer}.{name}"] = scale * weights[f"layers.{layer}.{name}"]
    path = tmp_path / "m.onnx"
    onnx.save(decoder(DECODER, weights, "raw"), path)
    return path


def heads(made: onnx.ModelProto) -> list[int]:
    caches = [v for v in (*made.graph.input, *made.graph.output) if v.name.startswith(("past", "present"))]
    assert len(caches) == 4 * DECODER.layers
    return [v.type.tensor_type.shape.dim[1].dim_value for v in caches]


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["ratio", "global", "params", "calibrated"])
def test_caches_of_one_shape_keep_one_shape(uneven: Path, asked: str) -> None:
    """What runs the model makes all of them alike; a group that is named may still differ."""
    ids = {"input_ids": np.random.default_rng(0).integers(0, DECODER.vocabulary, (16, 8))}
    options = {
        "ratio": {"ratio": 0.4},
        "global": {"ratio": 0.4, "global_ranking": True},
        "params": {"target": {"params": 0.6}},
        "calibrated": {"target": {"params": 0.6}, "calib": ids},
    }[asked]
    open_ = {"repair": "none", "time": False, "shrink": ["past", "present"]}
    result = onnxprune.prune(uneven, **options, **open_)  # type: ignore[arg-type]
    (left,) = set(heads(result.proto))
    assert left < DECODER.keys
    testing.assert_equivalent(uneven, result)
    apart = onnxprune.prune(uneven, **options, keep={r"^layers\.0\.q\.weight:1$": 1.0}, **open_)  # type: ignore[arg-type]
    first, *others = heads(apart.proto)[: 2 * DECODER.layers : 2]
    assert first == DECODER.keys and len(set(others)) == 1


@pytest.mark.slow
def test_a_configuration_has_one_number_for_them(uneven: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"num_key_value_heads": 4, "hidden_size": DECODER.width}))
    ids = {"input_ids": np.random.default_rng(0).integers(0, DECODER.vocabulary, (16, 8))}
    result = onnxprune.prune(
        uneven, target={"params": 0.6}, calib=ids, repair="none", time=False, shrink=["past", "present"]
    )
    result.save(out / "s.onnx")
    assert json.loads((out / "config.json").read_text())["num_key_value_heads"] == heads(result.proto)[0]
