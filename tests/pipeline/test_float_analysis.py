"""What is learnt of quantised layers is learnt of their real values."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Grade, Group
from onnxprune.model.model import load
from onnxprune.pipeline.analysis import analyze_loaded
from onnxprune.pipeline.float_analysis import with_floats
from tests.ops.case import build
from tests.support.quantised_cases import MADE, SUMS, made


@pytest.mark.parametrize("name", [name for name in MADE if not name.startswith("nbits")])
def test_groups_have_their_counterparts_unit_by_unit(name: str) -> None:
    analysis = analyze_loaded(load(made(name)[0]))
    other, groups = with_floats(analysis, analysis.groups, 10**9)
    assert other is not analysis
    shared = set(analysis.coupling.graph.main.names) & set(other.coupling.graph.main.names)
    assert len(groups) == len(analysis.groups) > 0
    for mine, theirs in zip(analysis.groups, groups, strict=True):
        assert (mine.units, mine.grade) == (theirs.units, theirs.grade)
        places = [places_of(a.coupling, g, shared) for a, g in ((analysis, mine), (other, theirs))]
        assert places[0] == places[1] and all(places[0])


def places_of(coupling: Coupling, group: Group, names: set[str]) -> list[set[tuple[str, int, int]]]:
    """Where each unit is in some values."""
    found: list[set[tuple[str, int, int]]] = [set() for _ in range(group.units)]
    unit = {int(c): i for i, c in enumerate(group.channels)}
    for name in names:
        for axis in coupling.graph.main.names[name].axes():
            for index, channel in enumerate(coupling.channels_of(axis)):
                if int(channel) in unit:
                    found[unit[int(channel)]].add((name, axis.position, index))
    return found


@pytest.mark.parametrize("model", [build(SUMS, 13), made("nbits")[0]], ids=["floats", "units of several channels"])
def test_other_models_are_left_as_they_are(model: onnx.ModelProto) -> None:
    analysis = analyze_loaded(load(model))
    other, groups = with_floats(analysis, analysis.groups, 10**9)
    assert other is analysis and groups == analysis.groups


@pytest.mark.parametrize("criterion", ["obs", "taylor"])
@pytest.mark.parametrize("name", ["qdq-channel", "qoperator", "qoperator of sums", "dynamic"])
def test_units_rank_as_in_the_model_before_it_was_quantised(name: str, criterion: str) -> None:
    text, x = MADE[name]
    found = []
    for model in (build(text, 13), made(name)[0]):
        analysis = onnxprune.analyze(model)
        groups = [g for g in analysis.groups if g.grade is Grade.EXACT]
        found.append(onnxprune.score(analysis, criterion, calib={"x": x}, groups=groups))
    assert len(found[0]) == len(found[1]) > 0
    for scores in zip(*found, strict=True):
        ranks = np.stack([np.argsort(np.argsort(s)) for s in scores])
        assert float(np.asarray(np.corrcoef(ranks))[0, 1]) > 0.8
