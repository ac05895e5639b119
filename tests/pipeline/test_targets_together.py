"""Targets beside depth, searches, kept shares, sparse files and engines: what is asked of all at once is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxprune
from onnxprune.allocation import selection
from onnxprune.allocation.selection import Selection
from onnxprune.engines.times import Times
from onnxprune.errors import InputError
from onnxprune.options import Channels
from onnxprune.pipeline import time_target
from onnxprune.pipeline.depth import least_damaging
from onnxprune.pipeline.latency import read_times, ready_engine
from onnxprune.planning.fingerprint import fingerprint
from onnxprune.timing.engines import command
from tests.ops.case import build
from tests.pipeline.test_depth import TWO, block
from tests.pipeline.test_depth import two_blocks as multiples
from tests.support.paths import MODELS

RNG = np.random.default_rng(0)
QUICK: dict[str, Any] = {"repair": "none", "time": False}


def two_blocks(size: float = 1.0) -> onnx.ModelProto:
    return build(TWO, constants={name: size * RNG.standard_normal((4, 4)) for name in ("w", "u")})


def samples(count: int = 64) -> dict[str, np.ndarray]:
    return {"x": RNG.standard_normal((count, 4)).astype(np.float32)}


@pytest.mark.slow
def test_a_number_of_blocks_with_a_share_of_the_time() -> None:
    """The share is of the original's time, which is measured for that."""
    report = onnxprune.prune(two_blocks(), target={"latency": 0.9}, depth=1, **QUICK).report
    asked = report.targets["latency"].asked
    assert np.isfinite(asked) and asked > 0


def test_a_search_that_finds_nothing_within_the_limit() -> None:
    """Not even the least that is asked, a block less, holds."""
    x = samples(400)
    model = two_blocks(8.0)
    labels = ReferenceEvaluator(model).run(None, x)[0].argmax(axis=1)
    asked: dict[str, Any] = {"search": True, "max_drop": 0.05, "calib": {**x, "labels": labels}}
    with pytest.raises(onnxprune.GateError):
        onnxprune.prune(model, 0.5, depth=1, **asked, **QUICK).save("never.onnx")


def test_a_share_that_is_kept_beside_a_stream_that_is_spared() -> None:
    analysis = onnxprune.analyze(MODELS / "pt_transformer.onnx")
    asked: dict[str, Any] = {"importance": "l2", "repair": "none", "keep": {"layers.0.mlp.0.bias": 0.2}}
    plan = onnxprune.plan(analysis, target={"params": 0.7}, **asked)
    (group,) = [g for g in plan.groups if g["name"].startswith("layers.0.mlp.0.bias")]
    assert len(group["removed"]) == pytest.approx(0.8 * 256, abs=1)


@pytest.mark.slow
def test_blocks_go_where_channels_alone_miss_the_target() -> None:
    """The smaller error of the model that misses it is no reason to leave them."""
    found = onnxprune.prune(multiples(0.1, 0.5), target={"params": 0.5}, depth="auto", calib=samples(), time=False)
    assert found.report.targets["params"].met and found.report.targets["params"].left == 16


def test_an_amount_below_one_is_no_share() -> None:
    """Joules, say: half of 1.5 is 0.75, and not 0.75 of them."""
    whole: dict[str, float | None] = {"params": 1.5}
    half = selection.intermediate_target(Channels(target={"params": 0.5}), whole, 1.0)
    again = selection.intermediate_target(half, whole, 1.0)
    assert [float(one.limits["params"]) for one in (half, again)] == [0.75, 0.75]
    assert selection._limit("params", again.limits["params"], 1.5) == 0.75


def test_bytes_of_a_sparse_file() -> None:
    """Half of the sparse file is not what half of the weights would be."""
    sizes = [(64, 64)] * 3
    model = build(
        "(float[N,64] x) => (float[N,64] y) <float[64,64] w0, float[64,64] w1, float[64,64] w2>"
        "{ a = MatMul(x, w0) b = Relu(a) c = MatMul(b, w1) d = Relu(c) y = MatMul(d, w2) }"
    )
    del model.graph.initializer[:]
    for i, size in enumerate(sizes):
        dense = (RNG.standard_normal(size) * (RNG.random(size) < 0.1)).astype(np.float32)
        at = np.flatnonzero(dense)
        values = numpy_helper.from_array(dense.ravel()[at], f"w{i}")
        indices = numpy_helper.from_array(at.astype(np.int64), f"w{i}_indices")
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, size))
    found = onnxprune.prune(model, target={"bytes": 0.5}, importance="l2", **QUICK).report
    assert found.bytes.after < 0.6 * found.bytes.before


@pytest.mark.parametrize("engine", ["openvino", "mnn"])
def test_an_engine_that_is_only_named_times_nothing(engine: str) -> None:
    """Times of onnxruntime would be told as its own."""
    with pytest.raises(InputError, match=f"{engine} cannot be run by its name"):
        onnxprune.prune(two_blocks(), target={"latency": 0.6}, engine=engine, **QUICK)


def test_times_of_other_inputs_are_refused() -> None:
    analysis = onnxprune.analyze(two_blocks())
    times = Times(fingerprint(analysis.model.proto), "a timer", "a device", 1.0, {}, {"x": [1, 4]}, ())
    assert read_times(times, analysis, {"x": [1, 4]}) is times
    with pytest.raises(InputError, match="measured with x of shape 1x4, not of the asked 8x4"):
        read_times(times, analysis, {"x": [8, 4]})


@pytest.mark.slow
def test_series_of_allocations() -> None:
    """Multiples that are asked for are those of all series, and the MACs are tried with any engine."""
    asked: list[tuple[dict[Any, Any], Any]] = []
    analysis = onnxprune.analyze(MODELS / "sk_mlp.onnx")

    def allocate(channels: Channels) -> Selection:
        asked.append((dict(channels.target), channels.round_to))
        return selection.nothing(analysis.coupling)

    channels = Channels(target={"latency": 0.6}, round_to=16, engine=lambda path: 1.0)
    made: Any = _Times(ready_engine(analysis, {}, channels.engine).engine)
    assert len(list(time_target._trials(allocate, analysis, made, channels, lambda s: 0.0, 0.6))) == 2
    assert asked == [({"latency": "0.6ms"}, 16), ({"macs": 0.6}, 16)]


class _Times:
    """Measured times of a model that takes a millisecond."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.times = engine, self
        self.milliseconds = 1.0


@pytest.mark.parametrize(
    ("seen", "goal"), [([(4.0, 4.0), (4.0, 4.05)], 3.94), ([(4.0, 4.0), (10.0, 9.0)], 9.85), ([(1.0, 4.0)], 2.0)]
)
def test_the_next_amount_where_little_is_known(seen: list[tuple[float, float]], goal: float) -> None:
    """Equal amounts of different times, or nothing that takes longer than the goal."""
    assert 0 < time_target._next(seen, goal) <= 10


def test_a_block_that_leaves_no_numbers_goes_last() -> None:
    damages = {"a": float("nan"), "b": 0.1, "c": float("inf")}
    found = least_damaging([block(name) for name in "abc"], 2, lambda some: sum(damages[one.sum] for one in some))
    assert found[0].block.sum == "b" and all(np.isfinite(one.damage) for one in found)


def test_thousands_may_be_separated(tmp_path: Path) -> None:
    script = tmp_path / "timer.sh"
    script.write_text("echo mean 1,234.5 ms\n")
    assert command(f"sh {script} {{model}}")("net.onnx") == 1234.5
