"""Blocks that have caches of their own: with `shrink` these go with them, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune import testing
from onnxprune.coupling.blocks import find_blocks
from onnxprune.edit.bypass import Summand, bypass
from onnxprune.errors import InputError, PlanError
from onnxprune.model.model import load
from onnxprune.planning.plan import Plan
from onnxprune.runtime.io_slices import IoSlices
from tests.ops.case import build, coupling_of
from tests.support.oracle import session
from tools.decoder_graph import Shape, decoder, random_weights

SHAPE = Shape(heads=8, keys=4, layers=3)
CACHES: dict[str, Any] = {"shrink": ["past", "present"]}
QUICK: dict[str, Any] = {"time": False}

STATE = """(float[N,4] x, float[N,4] past) => (float[N,4] y, float[N,4] next) <float[4,4] w, float[4,4] u>
    { h = MatMul(x, w)  next = Add(h, past)  f = MatMul(next, u)  y = Add(x, f) }"""


def weights(quiet: int) -> dict[str, Any]:
    """Those of a decoder one of whose attention blocks does next to nothing."""
    made = random_weights(SHAPE)
    made[f"layers.{quiet}.o"] = 1e-3 * made[f"layers.{quiet}.o"]
    return made


@pytest.fixture(params=["raw", "fused"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(decoder(SHAPE, weights(2), request.param), path)
    return path


def ends(layer: int) -> list[str]:
    kinds = ("key", "value")
    return [f"past_key_values.{layer}.{k}" for k in kinds] + [f"present.{layer}.{k}" for k in kinds]


def blocks(text: str, *shrinking: str) -> list[tuple[str, tuple[str, ...]]]:
    found = find_blocks(coupling_of(build(text)).graph, shrinking)
    return [(block.summand, block.ends) for block in found]


def test_a_state_goes_where_it_may() -> None:
    assert blocks(STATE) == []
    assert blocks(STATE, "past", "next") == [("f", ("past", "next"))]
    assert blocks(STATE, "next") == [("f", ("next",))]


def test_a_state_that_something_else_reads_stays() -> None:
    """Positions are counted from a cache, say: the next one would not be there to go in."""
    read = STATE.replace("float[N,4] next)", "float[N,4] next, int64[2] s)").replace(
        "y = Add", "s = Shape(past)  y = Add"
    )
    assert blocks(read, "past", "next") == []
    made = STATE.replace("float[N,4] next)", "float[N,4] next, float[N,4] r)").replace(
        "y = Add", "r = Relu(next)  y = Add"
    )
    assert blocks(made, "past", "next") == []


def test_inputs_and_outputs_go_with_a_block() -> None:
    left = load(build(STATE))
    bypass(left, [Summand("y", "f")], ["past", "next"])
    graph = left.proto.graph
    assert [[v.name for v in values] for values in (graph.input, graph.output)] == [["x"], ["y"]]
    assert [node.op_type for node in graph.node] == ["Identity"] and not graph.initializer


@pytest.mark.parametrize(
    ("gone", "fault"), [(["other"], "'other', which is no input or output"), (["past"], "'past', which is still read")]
)
def test_what_cannot_go_is_refused(gone: list[str], fault: str) -> None:
    with pytest.raises(PlanError, match=fault):
        bypass(load(build(STATE)), [], gone)


def test_arrays_of_what_went_are_left_out() -> None:
    lost = IoSlices({"b": {0: [0]}}, frozenset({"a"}))
    x = np.arange(3)
    assert lost.left(["a", "b", "c"]) == ["b", "c"]
    np.testing.assert_array_equal(np.concatenate(lost.arrays(["a", "b"], [x, x])), [1, 2])
    assert list(lost.feeds({"a": x, "c": x})) == ["c"] and lost.shapes({"a": (3,), "b": (3,)}) == {"b": (2,)}


def test_caches_stay_unless_they_may_go(model: Path) -> None:
    result = onnxprune.prune(model, depth=3, repair="none", **QUICK)
    before = onnx.load(model).graph
    assert [v.name for v in result.proto.graph.output] == [v.name for v in before.output]
    assert all(not block.ends for block in result.report.blocks)
    assert all("attention" not in node for block in result.report.blocks for node in block.nodes)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.0, 0.25])
def test_caches_go_with_their_attention_exactly(model: Path, ratio: float) -> None:
    result = onnxprune.prune(model, ratio, depth=1, repair="none", **QUICK, **CACHES)
    (block,) = result.report.blocks
    assert block.ends == ends(2) and result.report.verified
    testing.assert_equivalent(model, result)
    before, after = onnx.load(model).graph, result.proto.graph
    for old, new in ((before.input, after.input), (before.output, after.output)):
        assert [v.name for v in new] == [v.name for v in old if v.name not in ends(2)]
    again = onnxprune.apply(Plan.from_json(result.plan.to_json()), model)
    assert again.proto.SerializeToString(deterministic=True) == result.proto.SerializeToString(deterministic=True)


@pytest.mark.slow
def test_step_by_step_gives_what_the_whole_prompt_gives(model: Path) -> None:
    """The caches that are left carry all that the next step needs."""
    made = onnxprune.prune(model, 0.25, depth=2, repair="none", **QUICK, **CACHES).proto
    one, names = session(made), [o.name for o in made.graph.output]
    prompt = np.random.default_rng(0).integers(0, SHAPE.vocabulary, (1, 6))
    state = {
        v.name: np.zeros((1, v.type.tensor_type.shape.dim[1].dim_value, 0, SHAPE.size), np.float32)
        for v in made.graph.input
        if v.name.startswith("past")
    }
    assert 0 < len(state) < 2 * SHAPE.layers
    fused = "attention_mask" in {v.name for v in made.graph.input}

    def run(ids: np.ndarray, first: int, state: dict[str, Any]) -> dict[str, Any]:
        count = ids.shape[1]
        mask, positions = np.ones((1, first + count), np.int64), np.arange(first, first + count)[None]
        feeds = {"input_ids": ids, **({"attention_mask": mask} if fused else {"position_ids": positions}), **state}
        return dict(zip(names, one.run(names, feeds), strict=True))

    whole, logits = run(prompt, 0, state)["logits"], []
    for step in range(prompt.shape[1]):
        outputs = run(prompt[:, step : step + 1], step, state)
        state = {name: outputs[name.replace("past_key_values", "present")] for name in state}
        logits.append(outputs["logits"])
    np.testing.assert_allclose(np.concatenate(logits, axis=1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_calibrated_on_the_samples_of_the_original(model: Path) -> None:
    """Samples have the caches of the original; what is repaired and judged has fewer."""
    data = {"input_ids": np.random.default_rng(0).integers(0, SHAPE.vocabulary, (24, 10))}
    bare = onnxprune.prune(model, 0.25, depth=1, calib=data, repair="none", **QUICK, **CACHES).report
    repaired = onnxprune.prune(model, 0.25, depth=1, calib=data, **QUICK, **CACHES)
    report = repaired.report
    again = onnxprune.apply(repaired.plan, model, calib=data)
    assert again.proto.SerializeToString(deterministic=True) == repaired.proto.SerializeToString(deterministic=True)
    assert report.verified and [block.ends for block in report.blocks] == [ends(2)]
    assert bare.calibration is not None and report.calibration is not None
    assert report.calibration.relative_error < bare.calibration.relative_error
    weighed = onnxprune.prune(model, depth="auto", target={"params": 0.5}, calib=data, **QUICK, **CACHES).report
    assert weighed.verified and weighed.targets["params"].met


@pytest.mark.slow
def test_shapes_of_what_went_may_be_given(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(decoder(SHAPE, weights(2), "raw"), path)
    sizes = {"batch": 2, "length": 5, "past": 3}
    shapes = {
        v.name: tuple(sizes.get(d.dim_param, d.dim_value) for d in v.type.tensor_type.shape.dim)
        for v in onnx.load(path).graph.input
    }
    assert set(ends(2)[:2]) <= set(shapes)
    report = onnxprune.prune(path, target={"macs": 0.8}, depth=1, input_shapes=shapes, **CACHES).report
    assert report.verified and report.latency is not None and report.targets["macs"].met


@pytest.mark.slow
def test_compared_with_the_plan(model: Path) -> None:
    result = onnxprune.prune(model, depth=1, repair="none", **QUICK, **CACHES)
    found = onnxprune.compare(model, result.proto, plan=result.plan).models[1]
    assert set(found.drift) == {v.name for v in result.proto.graph.output}
    with pytest.raises(InputError, match=r"no input or output 'past_key_values\.2\.key'") as raised:
        onnxprune.compare(model, result.proto)
    assert "plan" in str(raised.value.hint)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quiet", "layers", "told"),
    [(2, 2, "num_hidden_layers 3 -> 2"), (1, 3, "num_hidden_layers left as it was: caches are numbered 0, 2 now")],
)
def test_the_number_of_layers_beside_the_model(tmp_path: Path, quiet: int, layers: int, told: str) -> None:
    """A runtime makes as many caches and numbers them: that is right only of those from the first on."""
    path, out = tmp_path / "m.onnx", tmp_path / "out"
    out.mkdir()
    onnx.save(decoder(SHAPE, weights(quiet), "fused"), path)
    path.with_name("config.json").write_text(json.dumps({"num_hidden_layers": 3, "hidden_size": SHAPE.width}))
    result = onnxprune.prune(path, depth=1, repair="none", **QUICK, **CACHES)
    result.save(out / "s.onnx")
    assert any(told in note for note in result.report.notes)
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == layers
