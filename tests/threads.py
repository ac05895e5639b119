"""Prunes some models and prints a digest of everything that comes out: for comparison between numbers of threads.

    python -m tests.threads [CPUS]
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import onnxprune

MODELS = Path(__file__).parents[1] / "models"
RUNS: list[tuple[str, dict[str, Any]]] = [
    ("keras_cnn.onnx", {"ratio": 0.5, "repair": "none"}),
    ("pt_mobilenet.onnx", {"ratio": 0.5}),
    ("pt_transformer.onnx", {"ratio": 0.5, "calib": "digits_calib.npz", "samples": 64}),
    ("pt_resnet_bn.onnx", {"target": {"macs": 0.4}, "calib": "digits_calib.npz", "samples": 64}),
    ("pt_bilstm.onnx", {"ratio": 0.3, "calib": "digits_calib.npz", "samples": 64}),
    ("sk_mlp.onnx", {"calib": "digits_calib_flat.npz", "samples": 96, "gate": {"drift": 0.1}, "drift_search": True}),
]
"""Plain, data-free, calibrated, by a budget, with recurrent layers, by a search."""


def digests() -> dict[str, list[str]]:
    """Digests of model, plan and report (times left out) of each run."""
    found = {}
    for name, options in RUNS:
        if "calib" in options:
            options = {**options, "calib": str(MODELS / options["calib"])}
        result = onnxprune.prune(MODELS / name, **options)
        report = {k: v for k, v in result.report.items() if k != "seconds"}
        parts = [result.proto.SerializeToString(deterministic=True), result.plan.to_json().encode(),
                 json.dumps(report).encode()]
        found[name] = [hashlib.sha256(part).hexdigest()[:16] for part in parts]
    return found


if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, range(int(sys.argv[1])))
    print(json.dumps(digests()))
