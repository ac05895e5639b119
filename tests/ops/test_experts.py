"""Mixtures of experts: whole experts go with their values of the router, channels inside of them exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import testing
from tests.support.oracle import session

EXPERTS, WIDTH, INNER = 6, 16, 32
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 5, WIDTH)).astype(np.float32)
INSIDE, WHOLE = r"^b1:1$", r"^r:1$"


def model(kind: str, *, k: int = 2, gates: int = 0, bias: bool = True, silent: tuple[int, ...] = ()) -> onnx.ModelProto:
    """A router and experts between two products.

    Args:
        kind: ``MoE`` or ``QMoE``.
        k: How many experts a token has.
        gates: How gates lie beside the first matrix: 0 for none, 1 in turn, 2 in halves.
        bias: Whether experts have biases.
        silent: Experts whose router value is so low that they are never taken.
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
        packed = {n: (*s[:-1], s[-1] // 2) for n, s in shapes.items()}
        made |= {f"w{n}": rng.integers(0, 256, s).astype(np.uint8) for n, s in packed.items()}
        made |= {f"s{n}": (0.02 + 0.02 * rng.random(s[:2])).astype(np.float32) for n, s in shapes.items()}
        inputs = ["x1", "l", "w1", "s1", b1, "w2", "s2", b2]
        attributes["expert_weight_bits"] = 4
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
