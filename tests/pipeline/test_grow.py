"""Channels that come back: the grown model computes what the trained one did, and has the widths of the new plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxprune
from onnxprune.errors import InputError, PlanError
from onnxprune.model.model import load
from onnxprune.runtime.session import local_session
from tests.ops.case import build, random_feeds
from tests.support.commands import Cli
from tests.support.paths import MODELS

NET = """(float[N,3,6,6] x) => (float[N,2] y) <float[8,3,3,3] w, float[8] b, float[8,8,3,3] u, float[2,8] m, float[2] c>
    { h = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu(h)  k = Conv <pads = [1,1,1,1]> (r, u)  e = Relu(k)
      g = GlobalAveragePool(e)  f = Flatten(g)  y = Gemm <transB = 1> (f, m, c) }"""
X = np.random.default_rng(0).standard_normal((40, 3, 6, 6)).astype(np.float32)


def plan(ratio: float) -> onnxprune.Plan:
    return onnxprune.plan(onnxprune.analyze(build(NET)), ratio, importance="l2")


def trained(old: onnxprune.Plan, **options: Any) -> onnx.ModelProto:
    """What the plan makes, with other weights."""
    made = onnxprune.apply(old, build(NET), verify=False, **options).proto
    rng = np.random.default_rng(1)
    for tensor in made.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(
            onnx.numpy_helper.from_array((array * rng.uniform(0.8, 1.2, array.shape)).astype(np.float32), tensor.name)
        )
    return made


def outputs(model: onnx.ModelProto) -> NDArray[Any]:
    found: NDArray[Any] = local_session(load(model)).run(["y"], {"x": X})[0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("repair", ["none", "calibrated"])
def test_channels_come_back_without_effect(repair: str) -> None:
    """A repair may have given a layer a bias that the original lacks: it is taken too."""
    data = {"calib": {"x": X}} if repair == "calibrated" else {}
    old, new = plan(0.75), plan(0.25)
    small = trained(old, repair=repair, **data)
    grown = onnxprune.apply(new, build(NET), grow_from=old, trained=small, verify=False).proto
    shapes = {t.name: tuple(t.dims) for t in grown.graph.initializer}
    assert shapes["w"] == (6, 3, 3, 3) and shapes["u"] == (6, 6, 3, 3)
    np.testing.assert_allclose(outputs(grown), outputs(small), atol=1e-5)
    back = {t.name: onnx.numpy_helper.to_array(t) for t in grown.graph.initializer}["w"]
    assert (np.abs(back).reshape(6, -1).sum(axis=1) > 0).all()  # what makes them is there, so that they can be trained


def test_a_loss_is_warned_of_where_the_plan_takes_more_than_it_gives_back() -> None:
    old, less, more = plan(0.5), plan(0.25), plan(0.75)
    small = trained(old)

    def warned(new: onnxprune.Plan, **options: Any) -> bool:
        warnings = onnxprune.apply(new, build(NET), verify=False, **options).report.warnings
        return any("nothing was repaired" in line for line in warnings)

    assert warned(less)
    assert not warned(less, grow_from=old, trained=small) and not warned(old, grow_from=old, trained=small)
    assert warned(more, grow_from=old, trained=small)


READ_OTHERWISE = {
    "a layer that reads and makes the same stream": """(float[N,4] x) => (float[N,2] y) <float[4,8] w, float[8] b, float[8,8] u, float[8,2] v>
        { h = MatMul(x, w)  a = Add(h, b)  k = MatMul(a, u)  r = Add(a, k)  y = MatMul(r, v) }""",
    "a normalisation": """(float[N,4] x) => (float[N,2] y) <float[4,8] w, float[8] b, float[8] s, float[8] o, float[8,2] v>
        { h = MatMul(x, w)  a = Add(h, b)  n = LayerNormalization(a, s, o)  y = MatMul(n, v) }""",
    "a recurrent state": """(float[5,N,4] x) => (float[5,N,2] y) <float[1,24,4] w, float[1,24,8] r, float[1,48] b, float[8,2] v,
        int64[1] one = {1}>
        { h, e = GRU <hidden_size = 8, linear_before_reset = 1> (x, w, r, b)  a = Squeeze(h, one)  y = MatMul(a, v) }""",
    "a tied embedding": """(int64[N,5] x) => (float[N,5,12] y) <float[12,8] e, float[8] s, float[8] o>
        { h = Gather(e, x)  n = LayerNormalization(h, s, o)  t = Transpose(e)  y = MatMul(n, t) }""",
}


@pytest.mark.parametrize("name", list(READ_OTHERWISE))
def test_what_reads_them_besides_layers_reads_zeros(name: str) -> None:
    text = READ_OTHERWISE[name].replace(
        "float[8,2] v>\n        { h, e", "float[8,2] v, int64[1] one = {1}>\n        { h, e"
    )
    model = build(text)
    old, new = (onnxprune.plan(onnxprune.analyze(model), ratio, importance="l2") for ratio in (0.75, 0.25))
    small = onnxprune.apply(old, model, verify=False).proto
    grown = onnxprune.apply(new, model, grow_from=old, trained=small, verify=False).proto
    feeds = random_feeds(model)
    one, other = (local_session(load(made)).run(["y"], feeds)[0] for made in (small, grown))
    assert sum(len(g["removed"]) for g in new.groups) < sum(len(g["removed"]) for g in old.groups)
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_a_repair_puts_them_to_use() -> None:
    old, new = plan(0.75), plan(0.25)
    small = trained(old)
    grown = onnxprune.apply(new, build(NET), grow_from=old, trained=small, calib={"x": X}, verify=False).proto
    wanted, before, after = outputs(build(NET)), outputs(small), outputs(grown)
    assert np.square(after - wanted).sum() < 0.5 * np.square(before - wanted).sum()


@pytest.mark.slow
def test_the_command(tmp_path: Path, cli: Cli) -> None:
    model = str(MODELS / "sk_mlp.onnx")
    files = {name: str(tmp_path / name) for name in ("old.json", "new.json", "small.onnx", "more.onnx", "grown.onnx")}
    cli(model, "--ratio", "0.5", "--plan", files["old.json"], "-o", files["small.onnx"], "--no-time", "--no-verify")
    cli(model, "--ratio", "0.25", "--plan", files["new.json"], "-o", files["more.onnx"], "--no-time", "--no-verify")
    grow = ["--grow-from", files["old.json"], "--trained", files["small.onnx"], "--no-verify"]
    assert cli("apply", files["new.json"], model, *grow, "-o", files["grown.onnx"]).code == 0
    x = {"input": np.random.default_rng(0).random((20, 64)).astype(np.float32)}
    one, other = (local_session(load(files[n])).run(["probabilities"], x)[0] for n in ("small.onnx", "grown.onnx"))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_what_does_not_go_together() -> None:
    old = plan(0.75)
    with pytest.raises(InputError, match="grow_from and trained go together"):
        onnxprune.apply(old, build(NET), grow_from=old)
    with pytest.raises(InputError, match="in the trained model, and the plan leaves"):
        onnxprune.apply(old, build(NET), grow_from=old, trained=build(NET), verify=False)
    with pytest.raises(PlanError, match="does more than to remove channels"):
        onnxprune.apply(
            old, build(NET), grow_from=onnxprune.Plan(old.model, permuted={"w": {"0": [0]}}), trained=build(NET)
        )
