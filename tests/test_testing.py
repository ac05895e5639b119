"""Masked equivalence as a public function and as a verb: it holds of exact removals, and sees everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.errors import InputError
from onnxprune.ops import registry
from onnxprune.testing import assert_equivalent, equivalence
from tests.ops.case import build
from tests.support.commands import Cli, assert_refused, tiny
from tests.support.paths import MODELS

NAMES = sorted(p.stem for p in MODELS.glob("*.onnx"))
OPTIONS: list[dict[str, Any]] = [
    {"ratio": 0.5},
    {"pattern": "2:4", "permute": True},
    {"ratio": 0.3, "pattern": ["channels", "weights=0.5"]},
    {"ratio": 0.3, "pattern": ["channels", "2:4"], "permute": True},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, OPTIONS[0]) for name in NAMES), *((name, o) for name in ("pt_resnet_bn", "sk_mlp") for o in OPTIONS[1:])],
    ids=str,
)
def test_what_was_left_as_it_was_is_equivalent(name: str, options: dict[str, Any]) -> None:
    path = MODELS / f"{name}.onnx"
    result = onnxprune.prune(path, **options, importance="l2", repair="none", verify=False)
    assert_equivalent(path, result)
    assert_equivalent(onnx.load(path), result.proto, result.plan)


def changed(model: onnx.ModelProto, name: str, change: Any) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
    return copy


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("w1", lambda w: np.roll(w, 1, axis=0)),
        ("w2", lambda w: w[:, ::-1].copy()),
        ("b1", lambda b: b + np.float32(0.01)),
        ("w2", lambda w: w[:, :-1].copy()),
    ],
)
def test_what_was_changed_is_not(name: str, change: Any) -> None:
    """Channels in another order, a bias that moved by a hundredth, a slice too many."""
    result = onnxprune.prune(tiny(), 0.5, repair="none")
    assert_equivalent(tiny(), result)
    with pytest.raises(AssertionError, match=r"away from that of the masked original|does not run|not valid"):
        assert_equivalent(tiny(), changed(result.proto, name, change), result.plan)


def test_the_original_is_not_equivalent_to_its_masked_self() -> None:
    result = onnxprune.prune(tiny(), 0.5, repair="none")
    with pytest.raises(AssertionError, match=r"'y' is .* away"):
        assert_equivalent(tiny(), tiny(), result.plan)


BACKWARDS = """
<ir_version: 9, opset_import: ["" : 17, "my.ops" : 1]>
net (float[N,4] x) => (float[N,2] y) <float[N,8] r> { h = MatMul (x, w)  r = my.ops.Backwards (h)  y = MatMul (r, u) }
<domain: "my.ops", opset_import: ["" : 17]>
Backwards (a) => (b) { i = Constant <value = int64[8] {7, 6, 5, 4, 3, 2, 1, 0}> ()  b = Gather <axis = 1> (a, i) }
"""


@pytest.mark.parametrize("right", [True, False])
def test_a_rule_that_is_wrong_is_found(right: bool) -> None:
    """What authors of rules are to see: an operator that turns channels round, said to leave each where it is."""
    model = onnx.parser.parse_model(BACKWARDS)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (4, 8)), ("u", (8, 2))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))

    @onnxprune.rule("Backwards", domain="my.ops")
    def backwards(op: Any) -> None:
        """Turns the last axis round."""
        a, b = op.input(0).axis(1), op.output().axis(1)
        op.tie(op.input(0).axis(0), op.output().axis(0))
        if right:
            op.pin(a, "it is read by its place")
            op.pin(b, "it is read by its place")
        else:
            op.tie(a, b, zero=True)

    try:
        result = onnxprune.prune(model, 0.5, importance="l2", repair="none", verify=False)
        if right:
            assert_equivalent(model, result)
        else:
            with pytest.raises(AssertionError):
                assert_equivalent(model, result)
    finally:
        registry.forget("Backwards", domain="my.ops")


def test_what_cannot_be_seen_is_no_equivalence() -> None:
    """Of models that do not run here nothing is said, and an assertion does not pass."""
    model = build(
        "(float[N,4] x) => (float[N,2] y, float[N,2] z) <float[4,8] w, float[8,2] u> { h = MatMul(x, w)  y = MatMul(h, u)  z = nobody.Knows(y) }",
        domains={"nobody": 1},
    )
    result = onnxprune.prune(model, 0.5, repair="none")
    assert result.plan.removed and not result.report.verified
    found = equivalence(model, result)
    assert found.equivalent is None and found.because is not None and "do not run here" in found.because
    with pytest.raises(AssertionError, match="do not run here"):
        assert_equivalent(model, result)


def test_a_model_alone_is_refused() -> None:
    with pytest.raises(InputError, match="does not say what was taken"):
        equivalence(tiny(), tiny())


def test_mixing_is_refused() -> None:
    model = build("""(float[N,3] x) => (float[N,2] y) <float[3,8] w, float[8] s, float[8,2] v>
        { h = MatMul(x, w)  e = Softmax <axis = 0> (h)  n = LayerNormalization(e, s)  y = MatMul(n, v) }""")
    result = onnxprune.prune(model, 0.5, mixing=True, repair="none")
    assert result.plan.removed
    with pytest.raises(InputError, match="channels of grade mixing"):
        assert_equivalent(model, result)


def test_the_interface_may_shrink() -> None:
    model = build(
        "(float[N,8] x) => (float[N,2] y) <float[8,6] w, float[6,2] u> { h = MatMul(x, w)  y = MatMul(h, u) }"
    )
    result = onnxprune.prune(model, 0.5, shrink="x", repair="none")
    assert any(result.plan.interface.values())
    assert_equivalent(model, result)


# --- the verb


def test_the_verb(cli: Cli, model: Path) -> None:
    folder = model.parent
    plan, pruned = folder / "p.json", folder / "net.pruned.onnx"
    assert cli(model, "--ratio", 0.5, "--repair", "none", "--plan", plan).code == 0
    ended = cli("verify", model, pruned, "--plan", plan)
    assert ended.code == 0 and "equivalent to the masked original" in ended.out and ended.err == ""
    data = json.loads(
        cli("verify", model, pruned, "--plan", plan, "--json", "--seed", 3, "--input-shape", "x:1,3,16,16").out
    )
    assert data["equivalent"] is True and data["drift"]["y"]["rel_rms"] <= data["tolerance"] == 1e-4


@pytest.mark.slow
def test_the_verb_sees_what_is_wrong(cli: Cli, model: Path) -> None:
    folder = model.parent
    plan, pruned = folder / "p.json", folder / "net.pruned.onnx"
    assert cli(model, "--ratio", 0.5, "--repair", "none", "--plan", plan).code == 0
    onnx.save(changed(onnx.load(pruned), "b1", lambda b: b + np.float32(1)), pruned)
    said = assert_refused(cli("verify", model, pruned, "--plan", plan), code=3)
    assert "away from that of the masked original" in said and "--repair none" in said
    ended = cli("verify", model, pruned, "--plan", plan, "--json")
    assert ended.code == 3 and json.loads(ended.out)["equivalent"] is False
    assert cli("verify", model, pruned, "--plan", plan, "--tolerance", 1e6).code == 0
    assert_refused(cli("verify", model, pruned, "--plan", folder / "none.json"))
    assert "--plan" in assert_refused(cli("verify", model, pruned))
