"""Calibrated repair against none on held-out digits, from one sample up: never worse beyond sampling noise."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import onnxprune
from tests.support.paths import MODELS

ENTRIES = {e["file"][:-5]: e for e in json.loads((MODELS / "INDEX.json").read_text())["models"]}
COUNTS = {
    "sk_mlp": [1, 2, 4, 8, 16, 64],
    "pt_bilstm": [1, 2, 4, 8, 16, 64],
    "pt_transformer": [2, 16, 64],
    "keras_cnn": [1, 8, 64],
    "pt_resnet_bn": [2, 16],
    "pt_mobilenet": [1, 4, 64],
}
"""Numbers of samples, fewer for models that take longer."""
NOISE = 3.0
"""Standard errors of a paired difference that count as noise: of 36 differences hardly one is beyond it by chance."""


def outputs(model: onnx.ModelProto, name: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores of the held-out digits, and their labels."""
    entry = ENTRIES[name]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with np.load(MODELS / entry["test"]) as data:
        made = session.run([entry["output"]], {entry["input"]: data[entry["input"]]})[0]
        return np.asarray(made, dtype=np.float64), data[entry["labels_key"]]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "samples"), [(name, count) for name, counts in COUNTS.items() for count in counts])
def test_repair_is_never_worse_than_none(name: str, samples: int) -> None:
    """Of the same channels: `l2` chooses them whatever the samples."""
    path = MODELS / f"{name}.onnx"
    wanted, labels = outputs(onnx.load(path), name)
    data = str(MODELS / ENTRIES[name]["calibration"])
    alone, repaired = (
        onnxprune.prune(path, 0.3, calib=data, samples=samples, repair=how, importance="l2", verify=False)
        for how in ("none", "calibrated")
    )
    made = [outputs(r.proto, name)[0] for r in (alone, repaired)]
    before, after = (np.square(m - wanted).sum(axis=1) for m in made)
    change = after - before
    assert change.mean() <= NOISE * change.std(ddof=1) / np.sqrt(len(change))
    right = [m.argmax(axis=1) == labels for m in made]
    lost, won = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    assert lost - won <= NOISE * np.sqrt(lost + won)
    if samples == 64:
        assert after.sum() < 0.5 * before.sum()  # and it is worth it
