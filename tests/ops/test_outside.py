"""An operator that the package has never heard of, declared in one place: pruned, counted, zeroed and refitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

import onnxprune
from onnxprune.cost.measure import measure
from onnxprune.errors import InputError
from onnxprune.graph.graph import Node
from onnxprune.graph.operators import Affine, Shape, Term, WeightLayout
from onnxprune.model.model import load
from onnxprune.ops import registry
from onnxprune.ops.op import Op
from tests.ops.case import build
from tests.support import oracle

DOMAIN = "my.ops"


@pytest.fixture
def tripled() -> Iterator[None]:
    """Tripled(x, w) = 3 x w, with all that can be declared of it."""

    @registry.rule("Tripled", domain=DOMAIN)
    def rule(op: Op) -> None:
        """Rows of the weight are tied to the input's features, columns to the output's."""
        x, w, out = op.input(0), op.input(1), op.output()
        op.tie(x.axis(1), w.axis(0))
        op.sum_over(x.axis(1), x.axis(1), w.axis(0))
        op.tie(w.axis(1), out.axis(1), zero=True)
        op.tie(x.axis(0), out.axis(0))

    @registry.macs("Tripled", domain=DOMAIN)
    def macs(node: Node) -> list[Term]:
        return [(1.0, [*node.output().ranked_axes(), node.input(0).ranked_axes()[1]])]

    @registry.output_shape("Tripled", domain=DOMAIN)
    def shape(node: Node, shapes: list[Shape]) -> list[Shape]:
        assert shapes[0] is not None and shapes[1] is not None
        return [[shapes[0][0], shapes[1][1]]]

    @registry.weights("Tripled", domain=DOMAIN)
    def weights(node: Node, i: int, shape: Sequence[int]) -> WeightLayout | None:
        return WeightLayout(0, 1) if i == 1 else None

    @registry.affine("Tripled", domain=DOMAIN)
    def affine(node: Node) -> list[Affine]:
        return [Affine("matmul", 0, 1, None, -1, -1, transposed=True, alpha=3.0)]

    yield
    registry.forget("Tripled", domain=DOMAIN)


def model() -> onnx.ModelProto:
    """Two layers of the operator between two products; a local function says how to run it."""
    made = build(
        """(float[N,16] x) => (float[N,4] y) <float[16,32] w, float[32,32] u, float[32,32] v, float[32,4] z>
        { a = MatMul(x, w)  b = Relu(a)  c = my.ops.Tripled(b, u)  d = Relu(c)  e = my.ops.Tripled(d, v)  f = Relu(e)
          y = MatMul(f, z) }""",
        domains=[DOMAIN],
    )
    del made.graph.value_info[:]
    body = parser.parse_function(
        '<domain: "my.ops", opset_import: ["" : 18]> Tripled (x, w) => (y) '
        "{ t = Constant <value = float {3}> ()  p = MatMul(x, w)  y = Mul(p, t) }"
    )
    made.functions.append(body)
    return made


def feeds(count: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((count, 16)).astype(np.float32)}


@pytest.mark.usefixtures("tripled")
def test_it_is_pruned_and_the_call_stays() -> None:
    assert oracle.assert_equivalent(model(), feeds(3)) == 48
    result = onnxprune.prune(model(), 0.5, repair="none")
    assert [n.op_type for n in result.proto.graph.node].count("Tripled") == 2


@pytest.mark.slow
@pytest.mark.usefixtures("tripled")
def test_it_counts_and_is_found_by_a_target() -> None:
    assert measure(load(model())).macs == 16 * 32 + 2 * 32 * 32 + 32 * 4
    result = onnxprune.prune(model(), target={"macs": 0.4}, repair="none")
    left = measure(load(result.proto)).macs
    assert left is not None and left <= 0.4 * (16 * 32 + 2 * 32 * 32 + 32 * 4)


@pytest.mark.usefixtures("tripled")
def test_its_shape_is_told() -> None:
    """Also where the model neither states it nor holds a function to infer it from."""
    bare = model()
    del bare.functions[:]
    groups = {g.name: str(g.grade) for g in onnxprune.analyze(bare).groups}
    assert groups["w:1"] == groups["u:1"] == groups["v:1"] == "exact"


@pytest.mark.usefixtures("tripled")
def test_its_weights_take_a_pattern() -> None:
    result = onnxprune.prune(model(), pattern="2:4", repair="none")
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in result.proto.graph.initializer}
    for name in ("u", "v"):
        assert ((stored[name].reshape(8, 4, 32) == 0).sum(axis=1) == 2).all()


@pytest.mark.slow
@pytest.mark.usefixtures("tripled")
def test_it_is_refitted() -> None:
    """A layer of it is fitted to what the original made, which lowers the error of the outputs."""
    data = feeds(512)
    original = oracle.session(model()).run(None, data)[0]

    def error(repair: str) -> float:
        made = onnxprune.prune(model(), 0.4, repair=repair, calib=data, importance="l2", verify=False)
        return float(np.mean((oracle.session(made.proto).run(None, data)[0] - original) ** 2))

    assert error("calibrated") < 0.5 * error("none")


def test_without_a_declaration_the_function_is_inlined() -> None:
    result = onnxprune.prune(model(), 0.5, repair="none")
    assert "Tripled" not in [n.op_type for n in result.proto.graph.node]


def faulty(node: Node, *rest: object) -> object:
    """A declaration with a fault in it."""
    return node.no_such_attribute  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.usefixtures("tripled")
@pytest.mark.parametrize(
    ("declare", "options"),
    [
        (registry.output_shape, {"ratio": 0.5}),
        (registry.affine, {"ratio": 0.5, "importance": "wanda"}),
        (registry.affine, {"pattern": "2:4", "importance": "wanda"}),
        (registry.weights, {"pattern": "2:4", "importance": "l2"}),
    ],
)
def test_a_declaration_that_fails_is_logged_and_leaves_its_fact_unknown(
    declare: Callable[..., Any], options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It ends no run: what it would have said is unknown, of its operator alone."""
    declare("Tripled", domain=DOMAIN)(faulty)
    result = onnxprune.prune(model(), **options, calib=feeds(64), repair="none")
    assert result.report.verified and result.plan.changes_model
    assert any("Tripled" in r.getMessage() and r.exc_info for r in caplog.records if r.levelname == "WARNING")
    if declare is registry.weights:
        assert set(result.report.dense) == {"u", "v"} and set(result.report.zeroed) == {"w", "z"}


@pytest.mark.usefixtures("tripled")
def test_macs_that_cannot_be_declared_cannot_be_a_target() -> None:
    registry.macs("Tripled", domain=DOMAIN)(faulty)
    with pytest.raises(InputError, match="the model's MACs cannot be counted"):
        onnxprune.prune(model(), target={"macs": 0.5}, repair="none")
    assert onnxprune.prune(model(), 0.5, repair="none").report.verified
