"""Sparse storage: nothing is lost on the way there and back, and onnxruntime agrees."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.coupling.coupling import analyze
from onnxprune.errors import ModelError, VerificationError
from onnxprune.graph.graph import Graph
from onnxprune.model import sparse_initializers
from onnxprune.model.model import Model, load
from onnxprune.model.save import save
from onnxprune.model.sparse_initializers import SparseStorage
from onnxprune.options import Checks
from onnxprune.pipeline.store_sparse import store, verification
from onnxprune.verification.check import Verification
from onnxprune.verification.drift import Drift
from tests.ops.case import build
from tests.support.commands import Cli
from tests.support.oracle import run_original, session
from tests.support.paths import MODELS

NAMES = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.FLOAT16: np.float16,
    TensorProto.BFLOAT16: ml_dtypes.bfloat16,
    TensorProto.INT8: np.int8,
    TensorProto.UINT8: np.uint8,
    TensorProto.INT16: np.int16,
    TensorProto.UINT16: np.uint16,
    TensorProto.INT32: np.int32,
    TensorProto.UINT32: np.uint32,
    TensorProto.INT64: np.int64,
    TensorProto.UINT64: np.uint64,
}


def sparse_array(dtype: Any, shape: tuple[int, ...] = (40, 30), zeros: float = 0.95, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < zeros, 0, rng.integers(1, 100, shape)).astype(dtype)


def given_out(array: np.ndarray, data_type: int, opset: int = 17, ir: int = 8) -> ModelProto:
    """A model whose output is its stored weight, cast to float64."""
    nodes = [helper.make_node("Cast", ["w"], ["y"], to=TensorProto.DOUBLE)]
    output = helper.make_tensor_value_info("y", TensorProto.DOUBLE, array.shape)
    tensor = numpy_helper.from_array(array, "w")
    assert tensor.data_type == data_type
    graph = helper.make_graph(nodes, "g", [], [output], [tensor])
    return helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", opset)])


@pytest.mark.parametrize("data_type", sorted(sparse_initializers.TYPES), ids=TensorProto.DataType.Name)
def test_every_type_is_restored_exactly(data_type: int) -> None:
    """Bit for bit, read by onnxruntime and by the package."""
    array = sparse_array(NAMES[data_type])
    model = load(given_out(array, data_type))
    assert set(sparse_initializers.store_sparse(model).bytes) == {"w"}
    assert [s.values.name for s in model.proto.graph.sparse_initializer] == ["w"]
    assert not model.proto.graph.initializer
    onnx.checker.check_model(model.proto)
    np.testing.assert_array_equal(session(model.proto).run(None, {})[0], array.astype(np.float64))
    kept = sparse_initializers.densify(model)
    (tensor,) = model.proto.graph.initializer
    assert tensor.data_type == data_type
    assert model.array(tensor).tobytes() == array.tobytes()
    stored = kept[0][1].SerializeToString()
    sparse_initializers.resparsify(model, kept)
    assert model.proto.graph.sparse_initializer[0].SerializeToString() == stored


@pytest.mark.parametrize(("opset", "ir"), [(9, 6), (11, 6), (13, 7), (15, 8), (17, 9), (21, 10), (22, 11)])
def test_every_opset(opset: int, ir: int) -> None:
    array = sparse_array(np.float32)
    model = load(given_out(array, TensorProto.FLOAT, opset, ir))
    assert sparse_initializers.store_sparse(model).bytes
    np.testing.assert_array_equal(run_original(model.proto, {})[0], array.astype(np.float64))


def test_before_ir_version_6_nothing_is_sparse() -> None:
    model = load(given_out(sparse_array(np.float32), TensorProto.FLOAT, 11, 5))
    before = model.proto.SerializeToString()
    assert "IR version 6; the model has 5" in str(sparse_initializers.store_sparse(model).dense_because)
    assert model.proto.SerializeToString() == before


def test_the_form_of_positions_is_kept() -> None:
    """Positions stored as one index per axis keep that form, also for changed values."""
    array = sparse_array(np.float32)
    places = np.argwhere(array)
    values = numpy_helper.from_array(array[array != 0], "w")
    model = given_out(array, TensorProto.FLOAT)
    del model.graph.initializer[:]
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(places), array.shape)
    )
    opened = load(model)
    kept = sparse_initializers.densify(opened)
    (tensor,) = opened.proto.graph.initializer
    np.testing.assert_array_equal(opened.array(tensor), array)
    opened.set_array(tensor, array[:7, 3:])
    sparse_initializers.resparsify(opened, kept)
    (sparse,) = opened.proto.graph.sparse_initializer
    assert list(sparse.indices.dims) == [np.count_nonzero(array[:7, 3:]), 2]
    opened.proto.graph.output[0].type.tensor_type.shape.CopyFrom(
        helper.make_tensor_type_proto(1, [7, 27]).tensor_type.shape
    )
    np.testing.assert_array_equal(session(opened.proto).run(None, {})[0], array[:7, 3:].astype(np.float64))


@pytest.mark.parametrize(
    ("values", "positions", "dims", "words"),
    [
        (np.ones(2), [0, 16], [4, 4], "has a value outside of it"),
        (np.ones(2), [0, -1], [4, 4], "has a value outside of it"),
        (np.ones(2), [[0, 0], [0, 4]], [4, 4], "has a value outside of it"),
        (np.ones(2), [0], [4, 4], r"has 2 values; its positions are int64 of the shape \[2\] or \[2, 2\], not"),
        (np.ones(2), [[0, 1, 2]] * 2, [4, 4], r"not INT64 of \[2, 3\]"),
        (np.ones(2), np.zeros(2, np.float32), [4, 4], r"not FLOAT of \[2\]"),
        (np.ones((2, 1)), [0, 1], [4, 4], "have 2 axes; they are a list"),
        (np.ones(2), [0, 1], [2**30, 2**30], "does not fit into memory"),
        (np.ones(2), [0, 1], [-4, 4], "dimension of -4"),
    ],
)
def test_a_malformed_tensor_is_refused(values: Any, positions: Any, dims: list[int], words: str) -> None:
    model = given_out(sparse_array(np.float32), TensorProto.FLOAT)
    del model.graph.initializer[:]
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.float32(values), "w"), numpy_helper.from_array(np.asarray(positions)), dims
    )
    model.graph.sparse_initializer.append(sparse)
    with pytest.raises(ModelError, match=words):
        sparse_initializers.densify(load(model))


def test_negative_zeros_and_not_a_number_survive() -> None:
    array = sparse_array(np.float32)
    array[0, :3] = -0.0, np.nan, np.inf
    model = load(given_out(array, TensorProto.FLOAT))
    sparse_initializers.store_sparse(model)
    sparse_initializers.densify(model)
    assert model.array(model.proto.graph.initializer[0]).tobytes() == array.tobytes()


@pytest.mark.parametrize(("dtype", "limit"), [(np.float32, 2 / 3), (np.int8, 8 / 9), (np.float16, 0.8)])
def test_only_tensors_that_get_smaller_are_made_sparse(dtype: Any, limit: float) -> None:
    """A nonzero value takes 8 more bytes for its position, so the share of zeros decides."""
    for zeros, smaller in ((limit - 0.03, False), (limit + 0.03, True)):
        array = sparse_array(dtype, (200, 200), zeros)
        model = load(given_out(array, helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))
        size = model.nbytes
        assert bool(sparse_initializers.store_sparse(model).bytes) == smaller
        assert (model.nbytes < size) == smaller


def test_constants_in_nodes_and_bodies() -> None:
    """Constant nodes and tensors of branches become sparse initializers; graph outputs are kept."""
    model = build("""(bool c, float[40] x) => (float[30] y, float[40,30] w) <float[40,30] w, float[40,30] v>
        { y = If (c) <then_branch = t () => (float[30] a) { a = MatMul(x, u) },
                      else_branch = e () => (float[30] b) { b = MatMul(x, v) }> }""")
    proto = ModelProto()
    proto.CopyFrom(model)
    (branch,) = [a.g for a in proto.graph.node[0].attribute if a.name == "then_branch"]
    branch.initializer.add(name="u")
    for tensor in [*proto.graph.initializer, *branch.initializer]:
        tensor.CopyFrom(numpy_helper.from_array(sparse_array(np.float32, seed=len(tensor.name)), tensor.name))
    held = next(t for t in proto.graph.initializer if t.name == "v")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["v"], value=held))
    proto.graph.initializer.remove(held)
    stored = load(proto)
    done = sparse_initializers.store_sparse(stored)
    assert set(done.bytes) == {"v", "y/then_branch|u"}
    assert [n.op_type for n in stored.proto.graph.node] == ["If"]
    x = np.arange(40, dtype=np.float32)
    for c in (True, False):
        feeds = {"c": np.array(c), "x": x}
        for a, b in zip(session(proto).run(None, feeds), session(stored.proto).run(None, feeds), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pt_resnet_bn", "pt_transformer", "keras_cnn"])
def test_a_sparse_model_is_pruned_like_a_dense_one(name: str, tmp_path: Path) -> None:
    """Channels are removed and zeros set as in the dense model, and the weights remain sparse."""
    zeros = onnxprune.prune(MODELS / f"{name}.onnx", pattern="weights=0.9", verify=False)
    stored = onnxprune.prune(MODELS / f"{name}.onnx", pattern="weights=0.9", sparse_storage=True)
    assert stored.report.verified
    assert stored.report.bytes.after < 0.6 * zeros.report.bytes.after
    assert stored.report.params == zeros.report.params
    assert stored.report.macs == zeros.report.macs
    stored.save(tmp_path / "s.onnx")
    names = {s.values.name for s in onnx.load(tmp_path / "s.onnx").graph.sparse_initializer}
    assert len(names) > 3
    dense, sparse = (onnxprune.prune(source, 0.5, repair="none") for source in (zeros.proto, tmp_path / "s.onnx"))
    assert {s.values.name for s in sparse.proto.graph.sparse_initializer} == names
    assert sparse.plan.removed == dense.plan.removed
    again = load(sparse.proto)
    sparse_initializers.densify(again)
    for tensor in dense.proto.graph.initializer:
        (mine,) = [t for t in again.proto.graph.initializer if t.name == tensor.name]
        np.testing.assert_array_equal(numpy_helper.to_array(mine), numpy_helper.to_array(tensor))
    applied = onnxprune.apply(sparse.plan, tmp_path / "s.onnx")
    assert applied.proto.SerializeToString(deterministic=True) == sparse.proto.SerializeToString(deterministic=True)


@pytest.mark.slow
def test_a_plan_applies_to_dense_and_sparse_models() -> None:
    """A plan of the dense model applies to the same model stored sparse."""
    zeros, stored = (
        onnxprune.prune(MODELS / "pt_resnet_bn.onnx", pattern="weights=0.9", sparse_storage=sparse)
        for sparse in (False, True)
    )
    plan = onnxprune.prune(zeros.proto, 0.5, repair="none", verify=False).plan
    dense, sparse = onnxprune.apply(plan, zeros.proto), onnxprune.apply(plan, stored.proto)
    assert sparse.report.params == dense.report.params


@pytest.mark.slow
def test_sparse_convolutions_are_treated_like_dense_ones() -> None:
    """Data-free repair does not depend on whether weights are stored sparse."""
    zeros, stored = (
        onnxprune.prune(MODELS / "keras_cnn.onnx", pattern="weights=0.8", sparse_storage=sparse).proto
        for sparse in (False, True)
    )
    dense, sparse = (onnxprune.prune(source, 0.5, verify=False).report.repair for source in (zeros, stored))
    assert dense
    assert sparse == dense


@pytest.mark.slow
def test_nothing_pruned_is_the_model_itself() -> None:
    stored = onnxprune.prune(MODELS / "keras_cnn.onnx", pattern="weights=0.9", sparse_storage=True).proto
    assert onnxprune.prune(stored, 0.0).proto == stored


def test_sparse_initializers_that_are_inputs_are_pinned() -> None:
    """A sparse initializer that is a graph input is not changed or pruned."""
    model = load(given_out(sparse_array(np.float32), TensorProto.FLOAT))
    sparse_initializers.store_sparse(model)
    model.proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [40, 30]))
    before = model.proto.SerializeToString()
    assert sparse_initializers.densify(model) == []
    assert model.proto.SerializeToString() == before
    assert not analyze(Graph(model.proto)).groups


def test_empty_tensors_stay_as_they_are() -> None:
    """An empty scales input of Resize has no zeros."""
    model = load(given_out(np.zeros((0,), np.float32), TensorProto.FLOAT))
    sparse_initializers.store_sparse(model)
    assert not model.proto.graph.sparse_initializer and len(model.proto.graph.initializer) == 1


def test_gzip(tmp_path: Path) -> None:
    """The size is that of the file in a gzip archive, give or take its header."""
    model = load(MODELS / "sk_mlp.onnx")
    save(model, tmp_path / "m.onnx")
    truth = len(gzip.compress((tmp_path / "m.onnx").read_bytes(), 6))
    assert sparse_initializers.gzip_bytes(model) == pytest.approx(truth, rel=1e-3)


MOVED = Verification(verified=True, reason=None, drift={"y": Drift(1e-7, 1e-7, 1.0)})
UNSEEN = Verification(verified=False, reason="no kernel")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (MOVED, "reads other weights"),
        (UNSEEN, "cannot be seen here: no kernel"),
        (VerificationError("no such kernel"), "does not take it: no such kernel"),
    ],
)
def test_a_sparse_model_that_fails_verification_is_kept_dense(
    found: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*_: object, **__: object) -> Any:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(verification, "check", check)
    proto = given_out(sparse_array(np.float32), TensorProto.FLOAT)
    model = load(proto)
    done = store(model, Checks())
    assert words in str(done.dense_because)
    assert not done.bytes
    assert model.proto == proto
    trusting = store(model, Checks(verify=False))
    assert trusting.bytes


def test_sparse_tensors_are_bounded_by_the_protobuf_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse tensors are stored in the model file, whose size protobuf limits."""
    monkeypatch.setattr(sparse_initializers, "PROTOBUF_LIMIT", 100)
    done: SparseStorage = sparse_initializers.store_sparse(load(given_out(sparse_array(np.float32), TensorProto.FLOAT)))
    assert "at most 2 GB" in str(done.dense_because)


def test_external_tensors_become_sparse_in_the_model_file(tmp_path: Path) -> None:
    """External weights become sparse initializers in the model file; the others remain external."""
    proto = given_out(sparse_array(np.float32), TensorProto.FLOAT)
    rest = np.ones((40, 30), np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(rest, "r"))
    proto.graph.node.append(helper.make_node("Identity", ["r"], ["z"]))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, rest.shape))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    model: Model = load(tmp_path / "m.onnx")
    assert set(store(model, Checks()).bytes) == {"w"}
    save(model, tmp_path / "s.onnx")
    back = onnx.load(tmp_path / "s.onnx")
    assert [s.values.name for s in back.graph.sparse_initializer] == ["w"]
    (data,) = tmp_path.glob("s.onnx.*.data")
    assert data.stat().st_size == rest.nbytes


@pytest.mark.slow
def test_command_line(cli: Cli, model: Path) -> None:
    ended = cli(model, "--pattern", "weights=0.9", "--sparse-storage")
    assert ended.code == 0
    assert "2 weights stored as sparse tensors" in ended.out
    (warned,) = [line for line in ended.err.splitlines() if "sparse tensors" in line]
    assert warned.startswith("warning: ") and "onnxruntime opens the file" in warned
    told = json.loads(cli(model, "--pattern", "weights=0.9", "--sparse-storage", "--json", "--force").out)["storage"]
    assert set(told["sparse"]) == {"w1", "w2"}
    assert told["dense_because"] is None
    few = cli(model, "--pattern", "2:4", "--sparse-storage", "--force")
    assert "All is stored dense: no weight has so many zeros" in few.out
    assert "sparse tensors" not in few.err
    assert "gzip makes" in few.out
