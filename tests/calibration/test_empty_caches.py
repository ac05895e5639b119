"""Texts alone calibrate a decoder with caches: these begin empty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.calibration import open_samples
from onnxprune.errors import InputError
from tests.ops.case import build
from tools.decoder_graph import Shape, decoder, feeds, random_weights

IDS = np.random.default_rng(0).integers(0, 32, (12, 6))


@pytest.mark.parametrize("kind", ["raw", "fused"])
def test_what_texts_lack_is_made_up(kind: str) -> None:
    """As a loop that generates text would begin."""
    shape = Shape(layers=1)
    model = decoder(shape, random_weights(shape), kind)
    samples = open_samples({"input_ids": IDS}, model)
    (feed,) = samples
    wanted = feeds(model, IDS)
    assert feed.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(feed[name], array)


@pytest.mark.slow
def test_a_decoder_is_calibrated_by_texts_alone(tmp_path: Path) -> None:
    shape = Shape(layers=1)
    onnx.save(decoder(shape, random_weights(shape), "raw"), tmp_path / "m.onnx")
    np.savez(tmp_path / "texts.npz", input_ids=IDS)
    report = onnxprune.prune(tmp_path / "m.onnx", 0.25, calib=tmp_path / "texts.npz", time=False).report
    assert report.calibration is not None and report.repair


def test_models_without_caches_need_all_inputs() -> None:
    model = build("""(int64[N,L] ids, int64[N,L] mask) => (float[N,L,3] y) <float[9,4] e, float[4,3] v>
        { x = Gather(e, ids)  m = Cast <to = 1> (mask)  a = Constant <value = int64[1] {2}> ()  u = Unsqueeze(m, a)
          z = Mul(x, u)  y = MatMul(z, v) }""")
    with pytest.raises(InputError, match="nothing for input 'mask'"):
        open_samples({"ids": IDS}, model)
