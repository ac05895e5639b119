"""Zeros in a pattern along the axis that products sum over, on every layout of weights."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import sparsity
from onnxprune.graph.operators import WeightLayout
from onnxprune.model.model import load
from onnxprune.planning.masks import unpack_mask
from onnxprune.sparsity.patterns import NOfM
from onnxprune.verification.output_error import relative_errors
from tests.support.lanes import spread
from tests.support.oracle import OLD_RUNTIME, assert_verified, session
from tests.support.paths import MODELS

PATTERNS = ["2:4", "1:4", "4:8", "3:5", "2:32"]

CASES: dict[str, tuple[str, tuple[int, ...], tuple[int, int]]] = {
    # body, shape of w, (blocks that the reduction axis falls into, that axis)
    "conv": ("(float[2,14,5,5] x) => (float[N,M,H,W] y) { y = Conv (x, w) }", (6, 14, 3, 3), (1, 1)),
    "conv 1d": ("(float[2,14,5] x) => (float[N,M,H] y) { y = Conv (x, w) }", (6, 14, 3), (1, 1)),
    "grouped": ("(float[2,20,5,5] x) => (float[N,M,H,W] y) { y = Conv <group = 2> (x, w) }", (6, 10, 3, 3), (1, 1)),
    "transposed": ("(float[2,14,5,5] x) => (float[N,M,H,W] y) { y = ConvTranspose (x, w) }", (14, 6, 3, 3), (1, 0)),
    "transposed, grouped": (
        "(float[2,14,5,5] x) => (float[N,M,H,W] y) { y = ConvTranspose <group = 2> (x, w) }",
        (14, 6, 3, 3),
        (2, 0),
    ),
    "gemm": ("(float[2,14] x) => (float[N,M] y) { y = Gemm (x, w) }", (14, 6), (1, 0)),
    "gemm transB": ("(float[2,14] x) => (float[N,M] y) { y = Gemm <transB = 1> (x, w) }", (6, 14), (1, 1)),
    "gemm left": ("(float[14,2] x) => (float[N,M] y) { y = Gemm (w, x) }", (6, 14), (1, 1)),
    "gemm left transA": ("(float[14,2] x) => (float[N,M] y) { y = Gemm <transA = 1> (w, x) }", (14, 6), (1, 0)),
    "matmul": ("(float[3,2,14] x) => (float[A,B,C] y) { y = MatMul (x, w) }", (14, 6), (1, 0)),
    "matmul left": ("(float[3,14,2] x) => (float[A,B,C] y) { y = MatMul (w, x) }", (6, 14), (1, 1)),
    "matmul of many": ("(float[3,2,14] x) => (float[A,B,C] y) { y = MatMul (x, w) }", (3, 14, 6), (1, 1)),
    "matmul of many, left": ("(float[3,14,2] x) => (float[A,B,C] y) { y = MatMul (w, x) }", (3, 6, 14), (1, 2)),
    "through a transpose": (
        "(float[2,14] x) => (float[N,M] y) { v = Transpose <perm = [1, 0]> (w) y = MatMul (x, v) }",
        (6, 14),
        (1, 1),
    ),
    "through a reshape": (
        "(float[2,14] x) => (float[N,M] y) <int64[2] s = {14, 6}> { v = Reshape (w, s) y = MatMul (x, v) }",
        (14, 3, 2),
        (1, 0),
    ),
    "einsum": (
        '(float[3,2,14] x) => (float[A,B,C] y) { y = Einsum <equation = "bsi,oi->bso"> (x, w) }',
        (6, 14),
        (1, 1),
    ),
    "attention": (
        "(float[2,3,14] x) => (float[A,B,C] y) { y = com.microsoft.Attention <num_heads = 2> (x, w) }",
        (14, 24),
        (1, 0),
    ),
    "vector": ("(float[2,14] x) => (float[N,M] y) { y = MatMul (x, w) }", (14, 1), (1, 0)),
}


def case(name: str, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    if OLD_RUNTIME and name == "attention":
        pytest.skip("an old onnxruntime crashes on Attention without a bias")
    body, shape, _ = CASES[name]
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1]> net {body}')
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, shape, values.ravel()))
    if kind != TensorProto.FLOAT:
        w = model.graph.initializer.pop()
        array = numpy_helper.to_array(w).astype(helper.tensor_dtype_to_np_dtype(kind))
        model.graph.initializer.append(numpy_helper.from_array(array, "v"))
        model.graph.node.insert(0, helper.make_node("Cast", ["v"], ["w"], to=TensorProto.FLOAT))
    return model


def weight(model: onnx.ModelProto, name: str = "w") -> NDArray[Any]:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def groups(array: NDArray[Any], blocks: int, axis: int, m: int) -> list[NDArray[Any]]:
    """Every group of m along the axis, one by one, by plain indexing."""
    length = array.shape[axis] // blocks
    found = []
    for where in itertools.product(*(range(n) for i, n in enumerate(array.shape) if i != axis)):
        line = array[(*where[:axis], slice(None), *where[axis:])]
        for b in range(blocks):
            part = line[b * length : (b + 1) * length]
            found += [part[i : i + m] for i in range(0, length, m)]
    return found


@pytest.mark.parametrize(("pattern", "name"), spread(itertools.product(PATTERNS, CASES)))
def test_every_group_keeps_its_largest(pattern: str, name: str) -> None:
    """The n largest of every m along the reduction axis are kept, also in a tail."""
    n, m = map(int, pattern.split(":"))
    model = case(name)
    blocks, axis = CASES[name][2]
    result = onnxprune.prune(model, pattern=pattern)
    assert_verified(result)
    for old, new in zip(
        groups(weight(model), blocks, axis, m), groups(weight(result.proto), blocks, axis, m), strict=True
    ):
        stay = np.sort(np.argsort(-np.abs(old), kind="stable")[:n])
        np.testing.assert_array_equal(np.flatnonzero(new), stay)
        np.testing.assert_array_equal(new[stay], old[stay])


@pytest.mark.parametrize("name", CASES)
def test_holds_counts_the_same(name: str) -> None:
    blocks, axis = CASES[name][2]
    layout = WeightLayout(axis, None, blocks)
    array = weight(onnxprune.prune(case(name), pattern="2:4").proto)
    assert NOfM(2, 4).holds(array == 0, layout)
    assert not NOfM(2, 4).holds(weight(case(name)) == 0, layout)
    for n, m in ((1, 4), (1, 2), (4, 8), (2, 3)):
        assert NOfM(n, m).holds(array == 0, layout) == all(
            np.count_nonzero(g) <= n for g in groups(array, blocks, axis, m)
        )


@pytest.mark.slow
@pytest.mark.parametrize("importance", ["wanda", "sparsegpt", "obs"])
@pytest.mark.parametrize("name", CASES)
def test_the_pattern_holds_for_every_group_with_data(name: str, importance: str) -> None:
    """No group has more than two nonzero elements, refitted or not, and a tail keeps its largest."""
    model = case(name)
    (x,) = [i for i in model.graph.input if i.name == "x"]
    rng = np.random.default_rng(1)
    shape = [d.dim_value for d in x.type.tensor_type.shape.dim]
    data = [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(12)]
    result = onnxprune.prune(model, pattern="2:4", importance=importance, calib=data, verify=False)
    blocks, axis = CASES[name][2]
    new = weight(result.proto)
    assert all(np.count_nonzero(g) == min(2, len(g)) for g in groups(new, blocks, axis, 4))
    np.testing.assert_array_equal(unpack_mask(result.plan.zeroed["w"]["mask"], new.shape), new == 0)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
@pytest.mark.parametrize("pattern", ["2:4", "weights=0.5", "2x2=0.5"])
def test_other_floats_rank_by_magnitude(kind: int, pattern: str) -> None:
    model = case("gemm", kind)
    old = weight(model, "v").astype(np.float64)
    new = weight(onnxprune.prune(model, pattern=pattern, verify=False).proto, "v").astype(np.float64)
    gone = (new == 0) & (old != 0)
    assert gone.mean() == pytest.approx(0.5, abs=0.12)
    np.testing.assert_array_equal(new[~gone], old[~gone])
    if pattern == "weights=0.5":
        assert np.abs(old[gone]).max() <= np.abs(old[~gone]).min()


@pytest.mark.parametrize(("rows", "columns"), [(4, 1), (1, 4), (3, 5), (64, 64)])
def test_the_smallest_blocks_become_zero(rows: int, columns: int) -> None:
    model = case("gemm transB")
    old = weight(model)
    new = weight(onnxprune.prune(model, 0.5, pattern=f"{rows}x{columns}").proto)
    blocks = [(slice(i, i + rows), slice(j, j + columns)) for i in range(0, 6, rows) for j in range(0, 14, columns)]
    gone = [b for b in blocks if not new[b].any()]
    stay = [b for b in blocks if new[b].all()]
    assert len(gone) + len(stay) == len(blocks)
    assert len(gone) == len(blocks) // 2
    if gone:
        assert max(np.abs(old[b]).mean() for b in gone) <= min(np.abs(old[b]).mean() for b in stay)


def test_zero_of_a_quantised_weight_is_its_zero_point() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    net (float[2,16] x) => (float[2,6] y) <float s = {0.1}, uint8 z = {128}>
    { v = DequantizeLinear (w, s, z) y = MatMul (x, v) }"""
    model = onnx.parser.parse_model(text)
    values = np.random.default_rng(0).integers(0, 255, (16, 6)).astype(np.uint8)
    model.graph.initializer.append(numpy_helper.from_array(values, "w"))
    new = weight(onnxprune.prune(model, pattern="2:4").proto).astype(int) - 128
    assert all(np.count_nonzero(g) <= 2 for g in groups(new, 1, 0, 4))
    kept = new != 0
    np.testing.assert_array_equal(new[kept], (values.astype(int) - 128)[kept])


def test_weights_without_a_layout_are_kept_dense_and_reported() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    net (float[2,8] x) => (float[2,8] y) { a = MatMul (x, w) v = Transpose <perm = [1, 0]> (w) y = MatMul (a, v) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.eye(8, dtype=np.float32) + 1, "w"))
    report = onnxprune.prune(model, pattern="2:4").report
    assert report.dense == {"w": "it is read along different axes"}
    assert report.zeroed == {}
    assert onnxprune.prune(model, pattern="weights=0.5").report.zeroed == {"w": 0.5}


def test_the_report_gives_the_reason_for_no_zeros() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    net (float[2,8] x) => (float[2,8] y) { a = MatMul (x, w) v = Transpose <perm = [1, 0]> (w) y = MatMul (a, v) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.eye(8, dtype=np.float32) + 1, "w"))
    assert onnxprune.prune(model, pattern="2:4").report.whole_because == ["it is read along different axes"]
    few = onnxprune.prune(model, pattern="weights=0.001").report
    assert few.whole_because == ["what was asked for takes none of its elements"]
    assert list(few.dense) == ["w"]


@pytest.mark.slow
def test_recurrent_weights_by_name() -> None:
    path = MODELS / "pt_bilstm.onnx"
    whole = onnxprune.prune(path, pattern="2:4", verify=False)
    assert set(whole.report.dense) and all("only=" in why for why in whole.report.dense.values())
    (first, *_) = whole.report.dense
    named = onnxprune.prune(path, pattern="2:4", only=[f"^{first}$"])
    assert list(named.report.zeroed) == [first]
    array = weight(named.proto, first)
    assert all(np.count_nonzero(g) <= 2 for g in groups(array, 1, 2, 4))


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["2:4", "4x1", "weights"])
def test_channels_first_then_zeros(pattern: str) -> None:
    share = {} if pattern == "2:4" else {"=0.5": ""}
    text = pattern + "".join(share)
    result = onnxprune.prune(MODELS / "pt_resnet_bn.onnx", 0.3, pattern=["channels", text], repair="none")
    alone = onnxprune.prune(MODELS / "pt_resnet_bn.onnx", 0.3, repair="none")
    assert result.report.params == alone.report.params
    assert result.plan.removed == alone.plan.removed
    assert result.report.zeroed
    again = onnxprune.apply(onnxprune.Plan.from_json(result.plan.to_json()), MODELS / "pt_resnet_bn.onnx")
    assert again.proto == result.proto
    for t in result.proto.graph.initializer:
        old, new = weight(alone.proto, t.name), numpy_helper.to_array(t)
        np.testing.assert_array_equal(new[new != 0], old[new != 0])


def test_a_global_ranking_has_the_share_of_all_weights() -> None:
    made = onnxprune.prune(MODELS / "pt_resnet_bn.onnx", pattern="weights=0.7", global_ranking=True, verify=False)
    names = list(made.report.zeroed)
    sizes = {n: weight(made.proto, n).size for n in names}
    zeros = sum(made.report.zeroed[n] * sizes[n] for n in names)
    assert zeros / sum(sizes.values()) == pytest.approx(0.7, abs=0.01)
    assert len({round(r, 2) for r in made.report.zeroed.values()}) > 2


# --- with calibration data

RESNET, DATA = MODELS / "pt_resnet_bn.onnx", str(MODELS / "digits_calib.npz")


def error(pruned: onnx.ModelProto) -> float:
    """Relative squared error of the outputs on samples that no run has seen."""
    with np.load(MODELS / "digits_test.npz") as data:
        x = data[data.files[0]] if "input" not in data else data["input"]
    return relative_errors(load(RESNET), [load(pruned)], [{"input": x}])[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "others"),
    [("2:4", ("l2", "wanda", "sparsegpt", "alps")), ("weights=0.8", ("l2",)), ("4x1=0.5", ("l2",))],
)
def test_data_give_better_zeros(pattern: str, others: tuple[str, ...]) -> None:
    options: dict[str, Any] = {"pattern": pattern, "calib": DATA, "samples": 64, "verify": False}
    errors = {k: error(onnxprune.prune(RESNET, importance=k, **options).proto) for k in (*others, "obs")}
    plain = error(onnxprune.prune(RESNET, pattern=pattern, verify=False).proto)
    assert max(errors.values()) < plain
    assert errors["obs"] < 0.5 * plain
    assert errors["obs"] <= 1.15 * min(errors.values())


@pytest.mark.slow
@pytest.mark.parametrize("importance", ["wanda", "sparsegpt", "alps", "obs"])
def test_without_repair_only_the_mask_depends_on_data(importance: str) -> None:
    made = onnxprune.prune(
        RESNET, pattern="2:4", importance=importance, calib=DATA, samples=64, repair="none", verify=False
    )
    original = onnx.load(RESNET)
    for name, share in made.report.zeroed.items():
        old, new = weight(original, name), weight(made.proto, name)
        np.testing.assert_array_equal(new[new != 0], old[new != 0])
        assert share == pytest.approx(0.5, abs=0.01) or old.shape[1] < 4


@pytest.mark.slow
def test_calibrated_zeros_are_reproducible() -> None:
    made = [onnxprune.prune(RESNET, pattern="2:4", calib=DATA, samples=64, verify=False).proto for _ in range(2)]
    assert made[0] == made[1]
    analysis = onnxprune.analyze(made[0])
    for w in sparsity.weights(analysis.coupling):
        assert w.layout is not None
        assert NOfM(2, 4).holds(weight(made[0], w.value.key) == 0, w.layout)


@pytest.mark.slow
def test_shares_of_layers_depend_on_data() -> None:
    even, spread = (
        onnxprune.prune(RESNET, pattern="weights=0.8", calib=DATA, samples=64, global_ranking=across, verify=False)
        for across in (False, None)
    )
    assert error(spread.proto) < error(even.proto)
    assert spread.report.resolved.global_ranking and not even.report.resolved.global_ranking
    assert list(even.report.zeroed.values()) == pytest.approx([0.8] * len(even.report.zeroed), abs=0.03)
    assert max(spread.report.zeroed.values()) > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"repair": "none"}, {"importance": "l2"}, {"calib": None, "samples": None}])
def test_without_repair_or_data_all_layers_have_the_same_share(more: dict[str, Any]) -> None:
    made = onnxprune.prune(RESNET, pattern="weights=0.8", **{"calib": DATA, "samples": 64, **more}, verify=False)
    assert not made.report.resolved.global_ranking
    assert list(made.report.zeroed.values()) == pytest.approx([0.8] * len(made.report.zeroed), abs=0.03)


@pytest.mark.slow
def test_biases_compensate_for_zeros_without_data() -> None:
    plain, biased = (
        onnxprune.prune(RESNET, pattern="weights=0.6", repair=repair, verify=False) for repair in ("none", "data-free")
    )
    for name in plain.report.zeroed:
        np.testing.assert_array_equal(weight(plain.proto, name), weight(biased.proto, name))
    assert error(biased.proto) < error(plain.proto)


@pytest.mark.slow
def test_biases_alone_change_without_data() -> None:
    """Also where few weights have zeros."""
    name = next(iter(onnxprune.prune(RESNET, pattern="2:4", verify=False).report.zeroed))
    made = onnxprune.prune(RESNET, pattern="2:4", only=[f"^{name}$"], repair="data-free", verify=False).proto
    plain = onnxprune.prune(RESNET, pattern="2:4", only=[f"^{name}$"], verify=False).proto
    for t in plain.graph.initializer:
        if len(t.dims) > 1:
            np.testing.assert_array_equal(weight(made, t.name), numpy_helper.to_array(t))


@pytest.mark.slow
def test_zeros_run(tmp_path: Path) -> None:
    """The result runs and equals the masked original."""
    result = onnxprune.prune(RESNET, pattern="2:4")
    masked = onnx.load(RESNET)
    for t in masked.graph.initializer:
        array = numpy_helper.to_array(t) * (weight(result.proto, t.name) != 0)
        if t.name in result.report.zeroed:
            t.CopyFrom(numpy_helper.from_array(array, t.name))
    x = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    a, b = (session(m).run(None, {"input": x})[0] for m in (masked, result.proto))
    np.testing.assert_array_equal(a, b)
