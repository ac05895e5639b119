"""Models that run piece by piece give what one run gives, and are verified that way when they are large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.model.model import load
from onnxprune.runtime import piecewise
from onnxprune.runtime.partition import CannotCut
from onnxprune.runtime.piecewise import Pieces, is_large, runnable_pair, stages
from onnxprune.runtime.sample_inputs import sample_inputs
from onnxprune.runtime.session import Runnable, runnable
from tests.support.paths import MODELS
from tests.support.saved_models import external
from tools.decoders import Sizes, write

TINY = Sizes(hidden=64, inner=128, heads=4, pairs=2, vocabulary=96, layers=2)


@pytest.fixture(params=["float16", "int4"])
def decoder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A decoder that counts as large; a piece holds about two of its matrices."""
    monkeypatch.setattr(piecewise, "LARGE", 1)
    monkeypatch.setattr(piecewise, "PIECE", 2**15)
    path = tmp_path / "decoder.onnx"
    write(path, TINY, request.param, chunk=60_000)
    return path


@pytest.mark.slow
def test_pieces_make_what_the_whole_makes(decoder: Path) -> None:
    model = load(decoder)
    assert len(model.data_files) > 1
    feeds = sample_inputs(model.proto)
    with runnable(model) as ready:
        whole = ready.session(optimize=False)
        wanted = whole.run(whole.outputs, feeds)
    pieces = Pieces(model)
    assert len(pieces._pieces) > 2
    for mine, theirs in zip(pieces.run(pieces.outputs, feeds), wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_a_large_model_is_verified_in_pieces(decoder: Path) -> None:
    result = onnxprune.prune(decoder, ratio=0.3, repair="none")
    assert result.report.verified and set(result.report.drift) == {o.name for o in load(decoder).proto.graph.output}
    assert result.report.latency is None and "in memory" in str(result.report.untimed_because)
    same = onnxprune.prune(decoder, ratio=0.0, repair="none")
    assert all(d.max_abs == 0 for d in same.report.drift.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(p.stem for p in MODELS.glob("*.onnx")))
def test_trained_models_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recurrent and convolutional ones: every node belongs to a piece."""
    monkeypatch.setattr(piecewise, "PIECE", 1000)
    model = load(MODELS / f"{name}.onnx")
    if not all(o.type.HasField("tensor_type") for o in model.proto.graph.output):
        with pytest.raises(CannotCut):
            Pieces(model)
        return
    feeds = sample_inputs(model.proto)
    with runnable(model) as ready:
        whole = ready.session(optimize=False)
        wanted = whole.run(whole.outputs, feeds)
    pieces = Pieces(model)
    for mine, theirs in zip(pieces.run(pieces.outputs, feeds), wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_cuts_follow_the_size_of_the_weights(tmp_path: Path) -> None:
    proto = onnx.load(external(tmp_path, width=16, layers=6), load_external_data=False)
    one = 16 * 16 * 4
    assert stages(proto, 2 * one) == [["x2"], ["x4"], ["x6"]]
    assert stages(proto, 1) == [[f"x{i}"] for i in range(1, 7)]
    assert stages(proto, 100 * one) == [["x6"]]


def test_small_models_run_whole(tmp_path: Path) -> None:
    path = external(tmp_path, width=16, layers=2)
    assert not is_large(path)
    with runnable_pair(path, path) as pair:
        assert all(isinstance(ready, Runnable) for ready in pair)
