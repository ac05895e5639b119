"""Inputs that are made up where there are no data: pictures, signals and sounds, and their range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

import onnxprune.calibration.synthetic as made_up
from onnxprune.calibration.synthetic import PICTURES, synthetic
from onnxprune.calibration.synthetic_images import pictures
from onnxprune.calibration.synthetic_signals import signals, sounds
from onnxprune.model.model import Model, load
from tests.support.paths import MODELS


@pytest.mark.slow
def test_pictures_have_the_spectrum_of_natural_images() -> None:
    made = pictures(np.random.default_rng(0), 64, 3, 64, 64)
    assert made.shape == (64, 3, 64, 64) and made.min() >= 0 and made.max() <= 1
    grey = made.mean(axis=1)
    power = np.square(np.abs(np.fft.fft2(grey - grey.mean(axis=(1, 2), keepdims=True)))).mean(axis=0)[0, 1:17]
    slope = np.polyfit(np.log(np.arange(1, 17)), np.log(power), 1)[0]
    assert -4 < slope < -1.5


def test_signals_have_the_slope_that_was_asked_for() -> None:
    for slope in (0.0, 1.0):
        made = signals(np.random.default_rng(0), (200, 512), slope)
        power = np.square(np.abs(np.fft.rfft(made))).mean(axis=0)[1:129]
        found = np.polyfit(np.log(np.arange(1, 129)), np.log(power), 1)[0]
        assert abs(found + 2 * slope) < 0.1
    made = sounds(np.random.default_rng(0), (3, 2, 256))
    assert made.shape == (3, 2, 256) and abs(made.std() - 1) < 0.01


def test_sounds_do_not_depend_on_how_many_are_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    together = sounds(np.random.default_rng(0), (40, 50))
    monkeypatch.setattr("onnxprune.calibration.synthetic_signals.BLOCK", 1)
    np.testing.assert_array_equal(sounds(np.random.default_rng(0), (40, 50)), together)


@pytest.mark.parametrize("shape", [(2, 4000, 1), (2, 1, 4000), (2, 4000), (1, 3, 4000, 2)])
def test_time_is_the_longest_axis_of_a_signal(shape: tuple[int, ...]) -> None:
    """Made along an axis of one sample, a signal would be constant: its mean is zero."""
    model = Model(one_input(shape))
    for feeds in synthetic(model, 12, varied=True):
        x = np.moveaxis(feeds["x"], feeds["x"].shape.index(4000), -1)
        assert x.std() > 0.05 and (np.diff(x, axis=-1).std(axis=-1) > 0).all()


def one_input(shape: Sequence[int | str]) -> onnx.ModelProto:
    """A model that reads one float input of this shape, with a free batch axis."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_sounds_of_many_samples_do_not_cost_one_tone_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels last: one signal of 4,000 samples, not 4,000 signals of one sample."""
    asked = []

    def spy(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        asked.append(shape)
        return sounds(rng, shape)

    monkeypatch.setattr("onnxprune.calibration.synthetic.sounds", spy)
    synthetic(Model(one_input((1, 4000, 1))), 12, varied=True)
    assert asked and set(asked) == {(1, 1, 4000)}


@pytest.mark.slow
def test_the_range_is_the_most_plausible_of_all_though_most_are_tried_on_few_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 8 ranges, those left after a first round are compared on as many samples as all of them were before."""
    model, tried = load(MODELS / "pt_resnet_bn.onnx"), list[int]()
    deviation = made_up.Plausibility.deviation

    def counted(self: Any, batches: Sequence[dict[str, np.ndarray]]) -> float:
        tried.append(sum(len(array) for feeds in batches for array in feeds.values()))
        return deviation(self, batches)

    monkeypatch.setattr(made_up.Plausibility, "deviation", counted)
    found = synthetic(model, 2)
    assert tried == [3] * 8 + [12] * 4
    generator, plausibility = made_up._generator(model, None), made_up.Plausibility(model)
    every = [deviation(plausibility, generator.feeds(12, 0, [candidate])) for candidate in PICTURES]
    best = generator.feeds(2, 0, [PICTURES[int(np.argmin(every))]])
    for feeds, wanted in zip(found, best, strict=True):
        for name in wanted:
            np.testing.assert_array_equal(feeds[name], wanted[name])
