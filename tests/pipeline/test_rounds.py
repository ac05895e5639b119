"""Rounds of removal: what carries over from one to the next."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune import api
from onnxprune.allocation import selection
from onnxprune.coupling.groups import Grade, Group, Slices
from onnxprune.edit.remove import remove
from onnxprune.errors import InputError
from onnxprune.importance.obs import Curve
from onnxprune.options import Channels, Options, Scope
from onnxprune.pipeline import rounds
from onnxprune.pipeline.analysis import prunable
from tests.support.paths import MODELS

MODEL, MLP, FLAT = MODELS / "pt_resnet_folded.onnx", MODELS / "sk_mlp.onnx", str(MODELS / "digits_calib_flat.npz")


def half_gone(analysis: api.Analysis) -> np.ndarray:
    """Every other unit of every exact group."""
    gone = np.zeros(analysis.coupling.classes.elements, dtype=bool)
    for group in prunable(analysis, Scope()):
        gone[group.channels[::2]] = True
    return gone


def test_channels_of_a_pruned_model_are_found_in_the_original() -> None:
    """The weights say which: what survives keeps its values."""
    whole = api.analyze(MODEL)
    gone = half_gone(whole)
    small = api.analyze(MODEL)
    remove(small.model, small.coupling, gone)
    after = api.analyze(small.model.proto)
    origin = rounds.channel_correspondence(whole.coupling, gone, after.coupling)
    vectors = {s.value.key: (g, s) for g in whole.groups for s in g.slices if s.value.rank == 1}
    checked = 0
    for group in after.groups:
        channels = origin[group.channels]
        assert not gone[channels].any()
        for part in [p for p in group.slices if p.value.rank == 1]:
            before, source = vectors[part.value.key]
            units = [before.channels.tolist().index(c) for c in channels]
            assert values(part)[part.indices[:, 0]].tolist() == values(source)[source.indices[units, 0]].tolist()
            checked += 1
    assert checked > 3


def values(part: Slices) -> np.ndarray:
    assert part.value.tensor is not None
    return onnx.numpy_helper.to_array(part.value.tensor)


SIXTEEN = Group("w:0", np.arange(100, 116), Grade.EXACT, [], [])


def test_curves_go_on_where_a_round_ended() -> None:
    order = np.arange(15)[::-1].copy()
    before = Curve(order, np.linspace(0, 1.5, 16))
    went = SIXTEEN.channels[order[:4]]
    left = np.array([c for c in SIXTEEN.channels if c not in set(went.tolist())])
    rest = Group("w:0", np.arange(12), Grade.EXACT, [], [])
    later = Curve(np.arange(11), np.linspace(0, 5.5, 12))
    (found,) = rounds.extended([before], [SIXTEEN], [4], [later], [rest], left)
    assert found.order.tolist() == [14, 13, 12, 11, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    np.testing.assert_allclose(found.loss, [0, 0.1, 0.2, 0.3, 0.4, *(0.4 + 0.5 * np.arange(1, 12))])


def test_what_a_round_cannot_tell_stays_as_it_was() -> None:
    before = Curve(np.arange(15), np.linspace(0, 1.5, 16))
    assert rounds.extended([before], [SIXTEEN], [4], [], [], np.array([], dtype=np.int64)) == [before]


def test_rounds_go_down_in_equal_factors() -> None:
    cost = {"params": 1000.0, "macs": 8000.0}
    asked = Channels(target={"macs": 0.25, "params": "500"})
    halfway = selection.intermediate_target(asked, cost, rounds.shares(2)[0])
    assert halfway.target["macs"] == pytest.approx(4000)
    assert halfway.target["params"] == pytest.approx(1000 * 0.5**0.5)
    assert selection.intermediate_target(Channels(ratio=0.75), cost, 0.5).ratio == pytest.approx(0.5)


@pytest.mark.slow
def test_the_last_round_takes_what_was_asked_for() -> None:
    result = onnxprune.prune(MLP, target={"macs": 0.4}, calib=FLAT, steps=2)
    assert result.report.targets["macs"].met
    again = onnxprune.apply(result.plan, MLP)
    shapes = {t.name: list(t.dims) for t in result.proto.graph.initializer}
    assert {t.name: list(t.dims) for t in again.proto.graph.initializer} == shapes


def test_steps_need_data() -> None:
    with pytest.raises(InputError, match="steps need calibration data"):
        Options.of(ratio=0.5, steps=2)
