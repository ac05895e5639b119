"""Graph inputs and outputs that may shrink: caches and states, run step after step beside the masked original."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.coupling.coupling import analyze
from onnxprune.errors import InputError
from onnxprune.graph.graph import Graph
from onnxprune.model.model import load
from onnxprune.planning.plan import Plan, channels, io_slices
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.testing import mask
from tests.ops.case import build
from tests.support.oracle import assert_verified, session

STEPS = 3

RAW = build(
    """(float[N,1,6] x, float[N,2,P,4] past_k, float[N,2,P,4] past_v)
    => (float[N,1,2] y, float[N,2,T,4] new_k, float[N,2,T,4] new_v)
    <float[6,16] q, float[6,8] k, float[6,8] v, float[16,2] o, int64[4] by_head, int64[4] by_kv, int64[3] flat,
     int64[4] grouped, int64[1] two, int64[5] times>
    { qm = MatMul(x, q)  km = MatMul(x, k)  vm = MatMul(x, v)
       qr = Reshape(qm, by_head)  kr = Reshape(km, by_kv)  vr = Reshape(vm, by_kv)
       qt = Transpose <perm = [0, 2, 1, 3]> (qr)  kt = Transpose <perm = [0, 2, 1, 3]> (kr)
       vt = Transpose <perm = [0, 2, 1, 3]> (vr)
       new_k = Concat <axis = 2> (past_k, kt)  new_v = Concat <axis = 2> (past_v, vt)
       ku = Unsqueeze(new_k, two)  ke = Expand(ku, times)  kg = Reshape(ke, grouped)
       vu = Unsqueeze(new_v, two)  ve = Expand(vu, times)  vg = Reshape(ve, grouped)
       kx = Transpose <perm = [0, 1, 3, 2]> (kg)  l = MatMul(qt, kx)  p = Softmax <axis = -1> (l)
       m = MatMul(p, vg)  mt = Transpose <perm = [0, 2, 1, 3]> (m)  mf = Reshape(mt, flat)  y = MatMul(mf, o) }
    """,
    constants={
        "by_head": [0, 0, 4, 4],
        "by_kv": [0, 0, 2, 4],
        "flat": [0, 0, 16],
        "two": 2,
        "times": [1, 1, 2, 1, 1],
        "grouped": [0, 4, -1, 4],
    },
)
FUSED = build(
    """(float[2,1,6] x, float[2,3,P,4] past_k, float[2,3,P,4] past_v)
    => (float[2,1,2] y, float[2,3,T,4] new_k, float[2,3,T,4] new_v)
    <float[6,12] w, float[6,12] k, float[6,12] v, float[12,2] o>
    { q = MatMul(x, w)  p = MatMul(x, k)  r = MatMul(x, v)
      a, new_k, new_v = Attention <q_num_heads = 3, kv_num_heads = 3> (q, p, r, , past_k, past_v)  y = MatMul(a, o) }""",
    opset=23,
    ir=11,
)
LSTM = build(
    """(float[1,N,3] x, float[1,N,6] past_h, float[1,N,6] past_c)
    => (float[1,N,2] y, float[1,N,6] new_h, float[1,N,6] new_c)
    <float[1,24,3] w, float[1,24,6] r, float[1,48] b, float[6,2] o, int64[1] one>
    { s, new_h, new_c = LSTM <hidden_size = 6> (x, w, r, b, , past_h, past_c)  t = Squeeze(s, one)  y = MatMul(t, o) }""",
    constants={"one": 1},
)
MODELS = {"attention written out": RAW, "standard attention": FUSED, "recurrent": LSTM}
INPUT = {"attention written out": (2, 1, 6), "standard attention": (2, 1, 6), "recurrent": (1, 2, 3)}


def states(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Empty caches, and states of zeros."""
    shapes = {
        v.name: [{"N": 2, "P": 0}.get(d.dim_param, d.dim_value) for d in v.type.tensor_type.shape.dim]
        for v in model.graph.input
        if v.name != "x"
    }
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def generated(model: onnx.ModelProto, inputs: list[np.ndarray]) -> list[dict[str, Any]]:
    """Outputs of successive steps, with the new state fed as the past state."""
    one, state, found = session(model), states(model), []
    names = [o.name for o in model.graph.output]
    for x in inputs:
        outputs = dict(zip(names, one.run(names, {"x": x, **state}), strict=True))
        found.append(outputs)
        state = {name: outputs[name.replace("past", "new")] for name in state}
    return found


def masked(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    copy = load(model)
    coupling = analyze(Graph(copy.proto), shrinking=list(plan.interface))
    return mask(copy, coupling, channels(plan, coupling))


@pytest.mark.parametrize("name", MODELS)
def test_the_interface_is_kept_by_default(name: str) -> None:
    result = onnxprune.prune(MODELS[name], 0.5, repair="none")
    before = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in MODELS[name].graph.output]
    assert [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in result.proto.graph.output] == before
    assert not result.plan.interface


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_generation_with_smaller_state_is_that_of_the_masked_original(name: str) -> None:
    model = MODELS[name]
    result = onnxprune.prune(model, 0.5, repair="none", shrink=["past", "new"])
    assert_verified(result)
    lost = io_slices(result.plan)
    assert set(lost.removed) == {v.name for v in [*model.graph.input, *model.graph.output]} - {"x", "y"}
    onnx.checker.check_model(result.proto, full_check=True)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(INPUT[name]).astype(np.float32) for _ in range(STEPS)]
    expected, actual = generated(masked(model, result.plan), inputs), generated(result.proto, inputs)
    for whole, small in zip(expected, actual, strict=True):
        for key in whole:
            np.testing.assert_allclose(small[key], lost.array(key, whole[key]), rtol=1e-5, atol=1e-6)
    assert (
        actual[-1]["new_k" if "new_k" in actual[-1] else "new_h"].size
        < expected[-1]["new_k" if "new_k" in expected[-1] else "new_h"].size
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_plan_with_smaller_state_applies_again(name: str) -> None:
    result = onnxprune.prune(MODELS[name], 0.5, repair="none", shrink=["past", "new"])
    again = onnxprune.apply(Plan.from_json(result.plan.to_json()), MODELS[name])
    assert again.proto.SerializeToString() == result.proto.SerializeToString()


def test_a_plan_with_inconsistent_interface_slices_is_refused() -> None:
    plan = onnxprune.prune(LSTM, 0.5, repair="none", shrink=["past", "new"]).plan
    plan.interface["past_h"] = {"2": [i for i in range(6) if i not in plan.interface["past_h"]["2"]]}
    with pytest.raises(InputError, match="only a part of what is tied"):
        onnxprune.apply(plan, LSTM)


def test_an_input_tied_to_a_pinned_output_is_kept() -> None:
    result = onnxprune.prune(LSTM, 0.5, repair="none", shrink=["past"])
    assert result.plan.interface == {"past_c": {}, "past_h": {}}


def test_an_unmatched_pattern_is_reported_with_the_valid_names() -> None:
    with pytest.raises(InputError, match="'cache' matches no graph input or output") as refused:
        onnxprune.prune(LSTM, 0.5, shrink=["cache"])
    assert "past_h" in (refused.value.hint or "")


@pytest.mark.slow
def test_calibrated_repair_runs_on_the_original_inputs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes: Mapping[str, tuple[int, ...]] = {"x": (1, 64, 3), "past_h": (1, 64, 6), "past_c": (1, 64, 6)}
    samples = {name: rng.standard_normal((12, *shape[:-1], 1)) * np.ones(shape[-1]) for name, shape in shapes.items()}
    samples = {name: array.astype(np.float32) for name, array in samples.items()}  # so that units can replace others
    np.savez(tmp_path / "calib.npz", **samples)
    reports = {
        mode: onnxprune.prune(LSTM, 0.5, shrink=["past", "new"], calib=str(tmp_path / "calib.npz"), repair=mode).report
        for mode in ("none", "calibrated")
    }
    errors = {mode: report.calibration.relative_error for mode, report in reports.items()}
    assert errors["calibrated"] < errors["none"]


def test_arrays_of_the_original_are_sliced_for_the_pruned_model() -> None:
    lost = IoSlices({"a": {0: [1], 2: [0, 3]}})
    whole = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(lost.array("a", whole), whole[:1, :, 1:3])
    assert lost.array("b", whole) is whole
    assert lost.shapes({"a": (2, 3, 4), "b": (2, 3, 4)}) == {"a": (1, 3, 2), "b": (2, 3, 4)}
    batches = lost.batches([{"a": whole}])
    for _ in range(2):  # as often as the original's
        assert [b["a"].shape for b in batches] == [(1, 3, 2)]
