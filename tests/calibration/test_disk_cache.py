"""Streams that can be read once only are cached on disk."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxprune.calibration import open_samples
from tests.calibration.cases import WIDE, firsts, model, wide


def test_every_type_is_cached_on_disk():
    for kind, given in (
        (TensorProto.BFLOAT16, np.float32([[1.5], [2]])),
        (TensorProto.STRING, np.array([["a"], ["bc"]])),
    ):
        samples = open_samples(iter([given, given]), model(("x", ["N", 1], kind)), memory=0)
        for _ in range(2):
            (batch,) = samples.batches()
            assert batch["x"].tolist() == given.tolist() * 2


def test_the_cache_removes_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    samples = open_samples(wide(), model(("x", ["N", WIDE])), limit=20, memory=2**17)
    assert firsts(samples) == firsts(samples) == list(range(20))
    assert len(list(tmp_path.glob("*/*.npy"))) == 18
    del samples
    assert not list(tmp_path.iterdir())
