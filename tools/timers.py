"""How long other engines take for a model, on one thread of the processor.

    onnxprune measure MODEL --engine tools.timers:openvino
    onnxprune measure MODEL --engine tools.timers:mnn
    python -m tools.timers openvino MODEL

Each function takes the path of an ONNX model and returns milliseconds of processor time: the mean of the faster half of
some runs. Model and engine are loaded anew for each call, as a benchmark of the engine itself would.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from onnxprune.verification.check import working_feeds

RUNS, SECONDS = 60, 0.5
"""Runs at most, and seconds after which no further one begins."""
FEWEST = 6


def openvino(path: str) -> float:
    """OpenVINO on the CPU, in float32."""
    import openvino as ov

    feeds, _ = working_feeds(path)
    converted = ov.convert_model(path)
    names = {port.any_name: next(n for n in feeds if n in port.names) for port in converted.inputs}
    converted.reshape({port: list(feeds[name].shape) for port, name in names.items()})
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(converted, "CPU", settings)
    request = compiled.create_infer_request()
    given = {port: feeds[name] for port, name in names.items()}
    return _timed(lambda: request.infer(given, share_inputs=True))


def mnn(path: str) -> float:
    """MNN on the CPU, in float32."""
    from tools.engines import mnn as engine

    feeds, wanted = working_feeds(path)
    with tempfile.TemporaryDirectory() as folder:
        net, given = engine.loaded(Path(path), feeds, wanted, Path(folder))
        return _timed(lambda: [engine.read(y) for y in net.forward(given)])


def _timed(run: Callable[[], object]) -> float:
    for _ in range(3):
        run()
    spent, end = [], time.perf_counter() + SECONDS
    while len(spent) < RUNS and (len(spent) < FEWEST or time.perf_counter() < end):
        start = time.process_time()
        run()
        spent.append(time.process_time() - start)
    return 1e3 * float(np.mean(sorted(spent)[: (len(spent) + 1) // 2]))


def main() -> int:
    """Prints the milliseconds of a model."""
    if len(sys.argv) != 3 or sys.argv[1] not in ("openvino", "mnn"):
        print(__doc__, file=sys.stderr)
        return 2
    print(f"{globals()[sys.argv[1]](sys.argv[2]):.6g}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
