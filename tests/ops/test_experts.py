"""Mixtures of experts: whole experts go with their values of the router, channels inside of them exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import testing
from tests.support.oracle import OLD_RUNTIME, session

pytestmark = pytest.mark.skipif(OLD_RUNTIME, reason="this onnxruntime has no kernel of theirs")

EXPERTS, WIDTH, INNER = 6, 16, 32
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 5, WIDTH)).astype(np.float32)
INSIDE, WHOLE = r"^b1:1$", r"^r:1$"


def model(
    kind: str,
    *,
    k: int = 2,
    gates: int = 0,
    bias: bool = True,
    silent: tuple[int, ...] = (),
    bits: int = 4,
    block: int = 0,
    points: bool = False,
) -> onnx.ModelProto:
    """A router and experts between two products.

    Args:
        kind: ``MoE`` or ``QMoE``.
        k: How many experts a token has.
        gates: How gates lie beside the first matrix: 0 for none, 1 in turn, 2 in halves.
        bias: Whether experts have biases.
        silent: Experts whose router value is so low that they are never taken.
        bits: Of the numbers of QMoE.
        block: How many of them have a scale together; 0 for a row.
        points: Whether they have zero points.
    """
    rng, rows = np.random.default_rng(1), INNER * (2 if gates else 1)
    level = np.zeros(EXPERTS, np.float32)
    level[list(silent)] = -1e9
    made: dict[str, np.ndarray] = {
        "i": rng.standard_normal((WIDTH, WIDTH)).astype(np.float32),
        "r": rng.standard_normal((WIDTH, EXPERTS)).astype(np.float32),
        "level": level,
        "flat": np.array([-1, WIDTH]),
        "o": rng.standard_normal((WIDTH, 3)).astype(np.float32),
        "b1": rng.standard_normal((EXPERTS, rows)).astype(np.float32),
        "b2": rng.standard_normal((EXPERTS, WIDTH)).astype(np.float32),
    }
    shapes = {"1": (EXPERTS, rows, WIDTH), "2": (EXPERTS, WIDTH, INNER)}
    attributes: dict[str, Any] = {"k": k, "activation_type": "swiglu" if gates else "relu"}
    if gates:
        attributes["swiglu_fusion"] = gates
    b1, b2 = ("b1", "b2") if bias else ("", "")
    if kind == "MoE":
        made |= {f"w{n}": rng.standard_normal(s).astype(np.float32) / 4 for n, s in shapes.items()}
        inputs = ["x1", "l", "w1", b1, "w2", b2]
    else:
        scales = {n: (*s[:2], s[2] // block) if block else s[:2] for n, s in shapes.items()}
        for name, lengths in (("w", shapes), ("z", scales)):
            made |= {
                f"{name}{n}": rng.integers(0, 256, (*s[:-1], -(-s[-1] * bits // 8))).astype(np.uint8)
                for n, s in lengths.items()
            }
        step = 0.02 * 2 ** (4 - bits)
        made |= {f"s{n}": (step * (1 + rng.random(s))).astype(np.float32) for n, s in scales.items()}
        inputs = ["x1", "l", "w1", "s1", b1, "w2", "s2", b2, *(["", "", "", "z1", "z2"] if points else [])]
        attributes |= {"expert_weight_bits": bits} | ({"block_size": block} if block else {})
    nodes = [
        helper.make_node("MatMul", ["x", "i"], ["x1"]),
        helper.make_node("Reshape", ["x1", "flat"], ["tokens"]),
        helper.make_node("MatMul", ["tokens", "r"], ["l0"]),
        helper.make_node("Add", ["l0", "level"], ["l"]),
        helper.make_node(kind, inputs, ["e"], domain="com.microsoft", **attributes),
        helper.make_node("MatMul", ["e", "o"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", 3])
    used = {name for node in nodes for name in node.input}
    tensors = [numpy_helper.from_array(array, name) for name, array in made.items() if name in used]
    graph = helper.make_graph(nodes, "experts", [x], [y], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def outputs(made: onnx.ModelProto) -> np.ndarray:
    found: np.ndarray = session(made).run(["y"], {"x": X})[0]
    return found


@pytest.mark.parametrize(("gates", "bias"), [(0, True), (0, False), (1, True)])
def test_channels_inside_of_experts_are_exact(gates: int, bias: bool) -> None:
    """The hidden channels of all experts, and the width that they read and write."""
    made = model("MoE", gates=gates, bias=bias)
    result = onnxprune.prune(made, 0.5, repair="none", time=False)
    testing.assert_equivalent(made, result, feeds={"x": X})
    dims = {t.name: list(t.dims) for t in result.proto.graph.initializer}
    assert dims["w1"] == [EXPERTS, INNER * (2 if gates else 1) // 2, WIDTH // 2]
    assert dims["w2"][2] == INNER // 2 and dims["r"] == [WIDTH // 2, EXPERTS]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("block", "points", "gates"), [(0, False, 0), (0, True, 1), (16, False, 1), (16, True, 0)])
def test_packed_channels_inside_of_experts_go_in_units(bits: int, block: int, points: bool, gates: int) -> None:
    """Channels that share a byte or a scale go together: those of blocks with zero points may be all of them."""
    made = model("QMoE", gates=gates, bits=bits, block=block, points=points)
    result = onnxprune.prune(made, 0.5, repair="none", time=False)
    testing.assert_equivalent(made, result, feeds={"x": X})
    dims = {t.name: list(t.dims) for t in result.proto.graph.initializer}
    shared = 8 // bits
    unit = max(block, 1) * shared if points or not block else block
    inner, width = (n // 2 if n > unit else n for n in (INNER, WIDTH))
    assert dims["w1"] == [EXPERTS, inner * (2 if gates else 1), width // shared]
    assert dims["w2"] == [EXPERTS, width, inner // shared] and dims["r"] == [width, EXPERTS]


def test_packed_experts_are_ranked_by_what_their_numbers_stand_for() -> None:
    """Scales of an eighth in three experts: nothing else tells them apart."""
    made = model("QMoE", bias=False)
    for t in made.graph.initializer:
        if t.name in ("s1", "s2"):
            values = np.full(t.dims, 0.04, np.float32)
            values[[0, 2, 5]] /= 8
            t.CopyFrom(numpy_helper.from_array(values, t.name))
        if t.name == "r":
            t.CopyFrom(numpy_helper.from_array(np.ones(t.dims, np.float32), t.name))
    result = onnxprune.prune(made, 0.5, only=[WHOLE], mixing=True, repair="none", time=False)
    assert [g.removed for g in result.report.groups if g.removed] == [[0, 2, 5]]


@pytest.mark.parametrize(("attribute", "value"), [("quant_type", "fp8"), ("weights_prepacked", 1)])
def test_numbers_in_another_order_are_left(attribute: str, value: Any) -> None:
    """No CPU runs these; whole experts can still go."""
    made = model("QMoE")
    (node,) = [n for n in made.graph.node if n.op_type == "QMoE"]
    node.attribute.append(helper.make_attribute(attribute, value))
    groups = {g.name: g for g in onnxprune.analyze(made).groups}
    assert str(groups["r:1"].grade) == "mixing"
    assert {str(g.grade) for name, g in groups.items() if name != "r:1"} == {"pinned"}


def contributions(made: onnx.ModelProto, k: int) -> np.ndarray:
    """Mean of factor times norm of what each expert makes, over its tokens: worked out from the weights."""
    w = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in made.graph.initializer}
    tokens = (X @ w["i"]).reshape(-1, WIDTH)
    logits = tokens @ w["r"] + w["level"]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    taken = logits >= np.sort(logits, axis=1)[:, [-k]]
    found = np.zeros(EXPERTS)
    for e in range(EXPERTS):
        mine = tokens[taken[:, e]]
        made_of = np.maximum(mine @ w["w1"][e].T + w["b1"][e], 0) @ w["w2"][e].T + w["b2"][e]
        norms = np.linalg.norm(made_of, axis=1)
        found[e] = (shares[taken[:, e], e] * norms).mean() if len(mine) else 0.0
    return found


def test_with_data_experts_are_ranked_by_what_they_contribute() -> None:
    """The router's factor times the norm of the output, over the tokens that an expert has (REAP)."""
    made = model("MoE", silent=(4,))
    expected = contributions(made, 2)
    analysis, calib = onnxprune.analyze(made), {"x": np.tile(X.reshape(1, -1, WIDTH), (8, 1, 1))}
    (found,) = onnxprune.score(
        analysis, "wanda", calib=calib, groups=[g for g in analysis.groups if g.name == "r:1"]
    )
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-4)
    result = onnxprune.prune(made, 0.5, only=[WHOLE], mixing=True, calib=calib, repair="none", time=False)
    assert [g.removed for g in result.report.groups if g.removed] == [sorted(np.argsort(expected)[:3].tolist())]


def test_gates_in_the_second_half_go_with_their_channels() -> None:
    """No processor runs these: the rows of a channel and of its gate are told by the weights that are left."""
    made = model("MoE", gates=2)
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in m.graph.initializer}
        for m in (made, onnxprune.prune(made, 0.5, only=[INSIDE], repair="none", verify=False).proto)
    )
    kept = [i for i in range(INNER) if (before["w2"][:, :, i] == after["w2"][:, :, [0]][..., 0]).all()]
    assert len(kept) == 1 and after["w1"].shape[1] == INNER
    np.testing.assert_array_equal(after["w1"][:, INNER // 2], before["w1"][:, INNER + kept[0]])


@pytest.mark.parametrize("kind", ["MoE", "QMoE"])
def test_what_is_left_is_the_model_whose_router_never_takes_the_others(kind: str) -> None:
    made = model(kind)
    assert not onnxprune.prune(made, 0.5, only=[WHOLE], repair="none", time=False).plan.removed  # mixing is not asked
    result = onnxprune.prune(made, 0.5, only=[WHOLE], mixing=True, repair="none", time=False)
    (group,) = [g for g in result.report.groups if g.removed]
    assert group.grade == "mixing" and len(group.removed) == EXPERTS // 2
    silent = model(kind, silent=tuple(group.removed))
    np.testing.assert_allclose(outputs(result.proto), outputs(silent), rtol=1e-4, atol=1e-4)


def test_no_more_experts_are_taken_than_are_left() -> None:
    result = onnxprune.prune(model("MoE", k=3), 0.7, only=[WHOLE], mixing=True, repair="none", time=False)
    (node,) = [n for n in result.proto.graph.node if n.op_type == "MoE"]
    assert {a.name: a.i for a in node.attribute if a.name == "k"} == {"k": 2}
    assert outputs(result.proto).shape == (2, 5, 3)
