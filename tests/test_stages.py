"""Each stage by itself does what `prune` does with the same options, or refuses in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.cost.measure import measure
from onnxprune.errors import InputError
from onnxprune.extensions.points import criteria
from onnxprune.importance.activation import wanda
from onnxprune.importance.readers import find_readers
from onnxprune.layers.find import linear_layers
from onnxprune.pipeline.data import open_data
from onnxprune.pipeline.observe import moments
from onnxprune.testing import assert_equivalent
from tests.ops.case import build
from tests.support.paths import MODELS

CONV, MLP, NET = MODELS / "pt_resnet_folded.onnx", MODELS / "sk_mlp.onnx", MODELS / "pt_transformer.onnx"
DATA, FLAT = str(MODELS / "digits_calib.npz"), str(MODELS / "digits_calib_flat.npz")
FROM_DATA = [n for n in criteria.names() if criteria.get(n).needs == "moments" and criteria.get(n).channels]
SCOPE = ("mixing", "attention", "shrink")


def both(path: Path, options: dict[str, Any]) -> tuple[onnxprune.Plan, onnxprune.Plan]:
    """What `prune` plans, and what `plan` does."""
    scope = {name: options[name] for name in SCOPE if name in options}
    analysis = onnxprune.analyze(path, **scope)
    before = analysis.model.proto.SerializeToString(deterministic=True)
    made = onnxprune.plan(analysis, **options)
    assert analysis.model.proto.SerializeToString(deterministic=True) == before
    return onnxprune.prune(path, **options).plan, made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "options"),
    [
        (CONV, {"ratio": 0.5}),  # scored and repaired on synthetic inputs
        (CONV, {"ratio": 0.5, "repair": "none", "seed": 3, "importance": "random"}),
        (MLP, {"target": {"macs": 0.5}}),
        (MLP, {"target": {"params": "20k", "bytes": 0.5}, "calib": FLAT}),
        *((MLP, {"ratio": 0.5, "importance": name, "calib": FLAT}) for name in FROM_DATA),
        (MLP, {"ratio": 0.4, "global_ranking": True, "importance": "lamp", "min_channels": 7, "round_to": 4}),
        (MLP, {"ratio": 0.5, "calib": FLAT, "samples": 100, "steps": 2}),
        (MLP, {"pattern": "2:4"}),
        (MLP, {"pattern": "weights=0.6", "calib": FLAT, "samples": 100}),
        (MLP, {"pattern": ["channels", "4x1=0.5"], "ratio": 0.3, "repair": "none"}),
        (MLP, {"pattern": "2:4", "permute": True}),
        (MLP, {"gate": {"drift": 0.5}, "drift_search": True}),
        (MLP, {"gate": {"agreement": 0.9}, "drift_search": True, "calib": FLAT, "samples": 100}),
        (NET, {"ratio": 0.5, "mixing": True}),
        (NET, {"ratio": 0.5, "attention": "dims", "ignore": "head"}),
    ],
    ids=str,
)
def test_plan_is_what_prune_plans(path: Path, options: dict[str, Any]) -> None:
    whole, made = both(path, options)
    assert made == whole and made.changes_model


def test_plan_of_what_is_stored_sparse_counts_bytes_as_prune_does(tmp_path: Path) -> None:
    path, sparse = tmp_path / "net.onnx", tmp_path / "sparse.onnx"
    onnx.save(
        build(
            "(float[N,64] x) => (float[N,4] y) <float[64,64] w, float[64,4] u> { h = MatMul(x, w)  y = MatMul(h, u) }"
        ),
        path,
    )
    onnxprune.prune(path, pattern="weights=0.9", sparse_storage=True).save(sparse)
    whole, made = both(sparse, {"target": {"bytes": 0.8}, "repair": "none"})
    assert made == whole
    assert made.removed and measure(onnxprune.analyze(sparse).model).bytes > sparse.stat().st_size


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ratio": 0.5, "mixing": True}, "the analysis was made with mixing=False, not True"),
        ({"ratio": 0.5, "attention": "dims"}, "the analysis was made with attention='heads', not 'dims'"),
        ({"ratio": 0.5, "shrink": "x"}, "the analysis was made with shrink=\\[\\], not \\['x'\\]"),
        ({"ratio": 0.5, "gate": {"drift": 0.1}}, "a gate says which model is written, and changes no plan"),
        ({}, "nothing says how much to prune"),
        ({"ratio": 0.5, "importance": "wanda"}, "importance 'wanda' needs calibration data"),
        ({"ratio": 0.5, "importance": "nonsense"}, "unknown importance 'nonsense'"),
        ({"ratio": 0.5, "target": {"macs": 0.5}}, "target and ratio both say how much"),
        ({"ratio": 0.5, "stats": "none.npz"}, "there are no statistics in 'none.npz'"),
        ({"ratio": 0.5, "run_seconds": "long"}, "run_seconds must be a number"),
    ],
)
def test_plan_refuses(options: dict[str, Any], said: str) -> None:
    analysis = onnxprune.analyze(
        build("(float[N,4] x) => (float[N,2] y) <float[4,8] w, float[8,2] u> { h = MatMul(x, w)  y = MatMul(h, u) }")
    )
    with pytest.raises(InputError, match=said) as caught:
        onnxprune.plan(analysis, **options)
    assert "\n" not in caught.value.message


@pytest.mark.slow
@pytest.mark.parametrize("criterion", criteria.names())
def test_score_computes_what_is_asked_or_refuses(criterion: str) -> None:
    """No two criteria give the same scores: none stands in silently for another."""
    analysis, entry = onnxprune.analyze(MLP), criteria.get(criterion)
    if not entry.channels:
        with pytest.raises(InputError, match="chooses zeros, not channels"):
            onnxprune.score(analysis, criterion, calib=FLAT)
        return
    if entry.needs == "weights":
        with pytest.raises(InputError, match="uses no calibration data"):
            onnxprune.score(analysis, criterion, calib=FLAT)
        found = onnxprune.score(analysis, criterion)
    else:
        with pytest.raises(InputError, match="needs calibration data"):
            onnxprune.score(analysis, criterion)
        found = onnxprune.score(analysis, criterion, calib=FLAT)
    assert [len(s) for s in found] == [g.units for g in analysis.groups]
    if criterion not in ("l2", "bn-scale"):  # nothing is normalised in this model: bn-scale falls back to l2
        others = [onnxprune.score(analysis, "l2"), onnxprune.score(analysis, "l1" if criterion != "l1" else "l2")]
        assert all(any(not np.array_equal(a, b) for a, b in zip(found, other, strict=True)) for other in others)


@pytest.mark.slow
def test_scores_from_data_are_those_of_the_formula() -> None:
    analysis = onnxprune.analyze(MLP)
    data = open_data(analysis.model, onnxprune.Options.of(0.5, calib=FLAT).calibration)
    seen = moments(analysis.model, analysis.coupling, data)
    layers = linear_layers(analysis.coupling.graph)
    readers = find_readers(analysis.model, analysis.coupling, analysis.groups, layers, seen)
    found, checked = onnxprune.score(analysis, "wanda", calib=FLAT), 0
    for mine, score in zip(readers, found, strict=True):
        if mine:
            raw = wanda([r.consumer() for r in mine])
            np.testing.assert_allclose(score, raw / raw.mean())
            checked += 1
    assert checked


@pytest.mark.parametrize(
    ("asked", "close"), [("L1", "one of l1"), ("fpmg", "did you mean 'fpgm'?"), ("nonsense", "one of l1")]
)
def test_score_names_the_closest_match(asked: str, close: str) -> None:
    analysis = onnxprune.analyze(
        build("(float[N,4] x) => (float[N,2] y) <float[4,8] w, float[8,2] u> { h = MatMul(x, w)  y = MatMul(h, u) }")
    )
    with pytest.raises(InputError, match=f"unknown importance {asked!r}") as caught:
        onnxprune.score(analysis, asked)
    assert close in caught.value.hint


@pytest.mark.slow
def test_scores_of_statistics_are_those_of_their_data(tmp_path: Path) -> None:
    analysis = onnxprune.analyze(MLP)
    whole = onnxprune.score(analysis, "wanda", calib=FLAT, stats=tmp_path / "s.npz")
    stored = onnxprune.score(analysis, "wanda", stats=tmp_path / "s.npz")
    for a, b in zip(whole, stored, strict=True):
        np.testing.assert_array_equal(a, b)


def small() -> onnx.ModelProto:
    return build("(float[N,4] x) => (float[N,2] y) <float[4,8] w, float[8,2] u> { h = MatMul(x, w)  y = MatMul(h, u) }")


def test_groups_of_another_analysis_are_not_scored() -> None:
    analysis, other = onnxprune.analyze(small()), onnxprune.analyze(small())
    with pytest.raises(InputError, match="groups must be some of those of the analysis"):
        onnxprune.score(analysis, "l2", groups=other.groups)
    with pytest.raises(InputError, match="groups must be some of those of the analysis"):
        onnxprune.score(analysis, "l2", groups="w")  # type: ignore[arg-type]
    (scores,) = onnxprune.score(analysis, "l2", groups=analysis.groups[:1])
    assert scores.shape == (analysis.groups[0].units,)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: onnxprune.plan("net.onnx", 0.5), "analysis must be an onnxprune.Analysis, not str"),
        (lambda model: onnxprune.score(model), "analysis must be an onnxprune.Analysis, not ModelProto"),
        (lambda model: onnxprune.run(model, 0.5), "options must be an onnxprune.Options, not float"),
        (lambda model: onnxprune.apply("p.json", model), "plan must be an onnxprune.Plan, not str"),
        (lambda model: onnxprune.verify(model, model, plan="p.json"), "plan must be an onnxprune.Plan, not str"),
        (lambda model: assert_equivalent(model, model, "p.json"), "plan must be an onnxprune.Plan, not str"),
        (lambda model: onnxprune.prune(model, 0.5, samples=10), "samples are those of calibration data"),
    ],
)
def test_what_is_of_another_kind_is_refused_in_one_line(call: Callable[[Any], object], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        call(small())
    assert "\n" not in caught.value.message
