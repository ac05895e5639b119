"""Prunes some models and prints a digest of everything that comes out: for comparison between numbers of threads.

python -m tests.support.threads THREADS [CPUS]
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import Any

import numpy as np
import onnx
from threadpoolctl import threadpool_limits

import onnxprune
from tests.support.paths import MODELS

RUNS: list[tuple[str, dict[str, Any]]] = [
    ("keras_cnn.onnx", {"ratio": 0.5, "repair": "none"}),
    ("pt_mobilenet.onnx", {"ratio": 0.5}),
    ("pt_transformer.onnx", {"ratio": 0.5, "calib": "digits_calib.npz", "samples": 40}),
    ("pt_resnet_bn.onnx", {"target": {"macs": 0.4}, "calib": "digits_calib.npz", "samples": 40}),
    ("pt_bilstm.onnx", {"ratio": 0.3, "calib": "digits_calib.npz", "samples": 40}),
    ("sk_mlp.onnx", {"calib": "digits_calib_flat.npz", "samples": 96, "gate": {"drift": 0.1}, "drift_search": True}),
]
"""Plain, data-free, calibrated, by a budget, with recurrent layers, by a search."""


WIDE = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,64] x) => (float[N,10] y)
{
  a = MatMul (x, w1)
  b = Relu (a)
  c = MatMul (b, w2)
  d = Relu (c)
  y = MatMul (d, w3)
}
"""


def parts_of(result: onnxprune.Result) -> list[str]:
    """Digests of model, plan and report (times left out) of a run."""
    report = {k: v for k, v in result.report.to_dict().items() if k != "seconds"}
    parts = [
        result.proto.SerializeToString(deterministic=True),
        result.plan.to_json().encode(),
        json.dumps(report).encode(),
    ]
    return [hashlib.sha256(part).hexdigest()[:16] for part in parts]


def digests() -> dict[str, list[str]]:
    """What comes out of each run."""
    found = {}
    for name, options in RUNS:
        if "calib" in options:
            options = {**options, "calib": str(MODELS / options["calib"])}
        result = onnxprune.prune(MODELS / name, time=False, **options)
        found[name] = parts_of(result)
    found["wide"] = parts_of(wide())
    return found


def wide() -> onnxprune.Result:
    """Layers that are wide enough for BLAS to split its sums between threads."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(WIDE)
    for name, shape in (("w1", (64, 256)), ("w2", (256, 256)), ("w3", (256, 10))):
        values = rng.normal(size=shape).astype(np.float32) / shape[0] ** 0.5
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    data = [{"x": rng.normal(size=(256, 64)).astype(np.float32)} for _ in range(4)]
    return onnxprune.prune(model, 0.5, calib=data, time=False)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[2])])
    with threadpool_limits(int(sys.argv[1]), user_api="blas"):  # more than cores too, unlike OPENBLAS_NUM_THREADS
        print(json.dumps(digests()))
