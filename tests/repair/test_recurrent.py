"""Recurrent layers are refitted through their gates: where a unit only repeats another, nothing is lost with it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune import api
from onnxprune.edit.remove import remove
from onnxprune.model.model import load
from onnxprune.pipeline.kept_indices import kept_indices
from onnxprune.repair.layerwise import Ridge, repair
from onnxprune.verification.output_error import relative_errors
from tests.ops.case import build

HIDDEN, GATES = 6, {"LSTM": 4, "GRU": 3, "RNN": 1}
KINDS = [
    (kind, extra, directions)
    for kind, extra in (("LSTM", ""), ("GRU", ""), ("GRU", ", linear_before_reset = 1"), ("RNN", ""))
    for directions in ("forward", "reverse", "bidirectional")
]


def network(kind: str, extra: str, direction: str, bias: bool = True) -> onnx.ModelProto:
    """Two layers over a sequence of five steps, of which unit 4 of the first repeats unit 1."""
    d, rows = 1 + (direction == "bidirectional"), GATES[kind] * HIDDEN
    b, given = (f", float[{d},{2 * rows}] b", ", b") if bias else ("", "")
    model = build(
        f"""(float[5,N,3] x) => (float[A,B,2] y)
        <float[{d},{rows},3] w, float[{d},{rows},{HIDDEN}] r{b}, int64[3] shape, float[{d * HIDDEN},2] u>
        {{ s = {kind} <hidden_size = {HIDDEN}, direction = "{direction}"{extra}> (x, w, r{given})
           t = Transpose <perm = [0, 2, 1, 3]> (s)  f = Reshape(t, shape)  y = MatMul(f, u) }}""",
        constants={"shape": [0, 0, d * HIDDEN]},
        opset=18,
    )
    for t in model.graph.initializer:
        if t.name in ("w", "r", "b"):
            array = numpy_helper.to_array(t).copy()
            blocks = array.reshape(d, -1, HIDDEN, *array.shape[2:])
            blocks[:, :, 4] = blocks[:, :, 1]
            t.CopyFrom(numpy_helper.from_array(array, t.name))
    return model


def batches() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((5, 32, 3)).astype(np.float32)} for _ in range(6)]


def errors(model: onnx.ModelProto, feeds: list[dict[str, np.ndarray]], gone: list[int]) -> tuple[float, float]:
    """Relative squared error of the outputs without some hidden units: removed alone, and repaired."""
    analysis = api.analyze(model)
    group = next(g for g in analysis.groups if g.units == HIDDEN)
    removed = np.zeros(analysis.coupling.classes.elements, dtype=bool)
    removed[group.channels[gone]] = True
    kept = kept_indices(analysis.coupling, removed)
    remove(analysis.model, analysis.coupling, removed)
    repaired = analysis.model.copy()
    done = repair(load(model), repaired, kept, feeds, len(feeds), fitter=Ridge((1e-6,)))
    assert any(r.penalty is not None and "state" in r.layer for r in done)
    before, after = relative_errors(load(model), [analysis.model, repaired], feeds)
    return before, after


@pytest.mark.parametrize(("kind", "extra", "direction"), KINDS)
def test_a_unit_that_repeats_another_is_made_up_for(kind: str, extra: str, direction: str) -> None:
    before, after = errors(network(kind, extra, direction), batches(), [4])
    assert before > 1e-2
    assert after < 1e-6


def test_without_a_bias_the_mean_stays_out() -> None:
    before, after = errors(network("LSTM", "", "forward", bias=False), batches(), [4])
    assert after < 1e-6 < before


def test_other_units_are_made_up_for_in_part() -> None:
    before, after = errors(network("LSTM", "", "bidirectional"), batches(), [0, 5])
    assert after < before


@pytest.mark.slow
def test_command_refits_recurrent_layers() -> None:
    model = network("LSTM", "", "forward")
    samples = {"x": np.random.default_rng(1).standard_normal((64, 5, 1, 3)).astype(np.float32)}

    class Reader:
        def __init__(self) -> None:
            self.rewind()

        def rewind(self) -> None:
            self.at = 0

        def get_next(self) -> dict[str, np.ndarray] | None:
            self.at += 1
            return {"x": samples["x"][self.at - 1]} if self.at <= 64 else None

    report = onnxprune.prune(model, 0.5, calib=Reader()).report
    assert {r.layer for r in report.repair} == {"s input 0", "s state 0", "y"}
