"""A staged run gives what one run of the whole model gives."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxprune.model.model import Model, load
from onnxprune.model.tensors import is_external, tensors
from onnxprune.runtime.session import Feeds
from onnxprune.runtime.staged_run import BatchValues, StagedRun
from tests.runtime.cases import assert_same, assert_walk, batches_of, made, residual, whole
from tests.support.lanes import spread
from tests.support.oracle import OLD_RUNTIME
from tests.support.paths import MODELS


@pytest.mark.parametrize(
    ("name", "optimize"), spread(itertools.product(sorted(p.stem for p in MODELS.glob("*.onnx")), [False, True]))
)
def test_trained_models(name: str, optimize: bool) -> None:
    model = load(MODELS / f"{name}.onnx")
    suffix = {"sk_mlp": "_flat", "keras_cnn": "_nhwc"}.get(name, "")
    source = model.proto.graph.input[0].name
    with np.load(MODELS / f"digits_calib{suffix}.npz") as data:
        batches = [{source: x} for x in np.split(data["input"][:24], [7, 16])]
    constant = {t.name for t in model.proto.graph.initializer}
    computed = {o for n in model.proto.graph.node if n.op_type != "Constant" for o in n.output}
    reads = [i for n in model.proto.graph.node if n.op_type in ("Conv", "MatMul", "Gemm", "LSTM") for i in n.input]
    stages = [[name] for name in dict.fromkeys(reads) if name not in constant and name in computed | {source}]
    last = next(o.name for o in model.proto.graph.output if o.type.HasField("tensor_type"))
    assert_walk(model, batches, [*stages, [last]], optimize=optimize)


def test_weights_may_change_between_steps(rng: np.random.Generator) -> None:
    """Completed stages are unaffected; later ones use the new weights, even an added bias."""
    model, batches = residual(rng), batches_of(rng, 4)
    before = whole(model, batches, ["b", "c", "y"])
    with StagedRun(model, batches, [["b"], ["c"], ["y"]], optimize=False) as walk:
        assert_same(walk.step()["b"], before["b"])
        weights = {t.name: t for t in model.proto.graph.initializer}
        model.set_array(weights["u"], np.zeros((4, 5), np.float32))  # has run: no effect any more
        model.set_array(weights["v"], model.array(weights["v"]) * 2)
        assert_same(walk.step()["c"], [2 * c for c in before["c"]], exact=False)
        node = next(n for n in model.proto.graph.node if n.output[0] == "y")
        node.op_type = "Gemm"
        node.input.append("late")
        late = numpy_helper.from_array(np.float32([1, 2, 3]), "late")
        model.proto.graph.node.insert(0, helper.make_node("Constant", [], ["late"], value=late))
        end = walk.step()["y"]
    model.set_array(weights["u"], np.zeros((4, 5), np.float32))
    for x, b, c, y in zip(batches, before["b"], before["c"], end, strict=True):
        d = np.concatenate([np.tanh(2 * c + x["x"]), b], axis=1) * 4
        np.testing.assert_allclose(y, d @ model.array(weights["w"]) + [1, 2, 3], rtol=1e-4, atol=1e-5)


def long_chain(
    rng: np.random.Generator, layers: int = 6
) -> tuple[Model, list[dict[str, NDArray[Any]]], list[list[str]]]:
    body = " ".join(f"h{i + 1} = Relu (m{i})".join([f"m{i} = MatMul (h{i}, w{i}) ", ""]) for i in range(layers))
    model = made(
        rng,
        f"g (float[n,64] h0) => (float[n,64] y) {{ {body} y = Add (h{layers}, h1) }}",
        **{f"w{i}": (64, 64) for i in range(layers)},
    )
    batches = [{"h0": rng.standard_normal((32, 64)).astype(np.float32)} for _ in range(4)]
    return model, batches, [*([f"h{i + 1}"] for i in range(layers)), ["y"]]


@pytest.mark.slow
def test_spilling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rng: np.random.Generator) -> None:
    """Spilled values are unchanged, and their files are removed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model, batches, stages = long_chain(rng)
    expected = whole(model, batches, [n for (n,) in stages])
    one = sum(a.nbytes for a in expected["h1"])
    assert_walk(model, batches, stages, memory=0)
    with StagedRun(model, batches, stages, memory=one * 3 // 2, optimize=False) as walk:
        for (name,) in stages:
            values = walk.step()
            assert walk.nbytes <= one * 3 // 2
            assert_same(values[name], expected[name])
            assert all(type(a) is np.ndarray for a in values[name])
        (folder,) = tmp_path.iterdir()
        assert len(list(folder.iterdir())) <= 8, "files of values that nobody holds stay"
        array = values["y"][-1]
    np.testing.assert_array_equal(array, expected["y"][-1])
    assert not list(tmp_path.iterdir())


def test_largest_value_is_spilled_first(rng: np.random.Generator) -> None:
    model = made(
        rng, "g (float[n,64] x) => (float[n,512] b) { a = Relu (x) b = Concat <axis=1> (x, x, x, x, x, x, x, x) }"
    )
    batches = [{"x": np.ones((32, 64), np.float32)}] * 2
    with StagedRun(model, batches, [["a", "b"]], memory=2**16) as walk:
        values = walk.step()
        assert values["b"].spilled and not values["a"].spilled
        assert values["b"][0].shape == (32, 512) and len(values["b"][:]) == 2


def test_memory_is_freed_without_files(rng: np.random.Generator) -> None:
    model, batches, stages = long_chain(rng)
    with StagedRun(model, batches, stages) as walk:
        held = []
        for _ in stages:
            walk.step()
            held.append(walk.nbytes)
        assert max(held) <= 3 * sum(b["h0"].nbytes for b in batches) and held[-1] == 0
        assert walk._folder is None


def test_inputs_with_defaults_and_old_versions(rng: np.random.Generator) -> None:
    """An initializer that is a graph input too is a weight unless batches hold it."""
    model = made(
        rng,
        "g (float[n,4] x, float[4,4] w) => (float[n,4] y) { a = MatMul (x, w) y = MatMul (a, w) }",
        opset=8,
        w=(4, 4),
    )
    model.proto.ir_version = 3
    assert_walk(model, batches_of(rng, 4), [["a"], ["y"]])
    model.proto.ir_version = 8
    other = np.eye(4, dtype=np.float32) * 3
    assert_walk(model, [b | {"w": other} for b in batches_of(rng, 4)], [["a"], ["y"]])


def test_strings_and_empty_arrays(rng: np.random.Generator) -> None:
    model = made(
        rng,
        """g (string[n] x, float[m,2] z) => (string[n] y, float[m,2] w)
        { a = Identity (x) y = Identity (a) b = Relu (z) w = Neg (b) }""",
    )
    feeds: list[dict[str, NDArray[Any]]] = [
        {"x": np.array(["a", "bc"] * (i + 1), dtype=object), "z": np.zeros((0, 2), np.float32)} for i in range(2)
    ]
    assert_walk(model, feeds, [["a", "b"], ["y", "w"]], memory=0)


def test_external_data(tmp_path: Path, rng: np.random.Generator) -> None:
    """Pieces read their external weights from the data file."""
    model, batches, stages = long_chain(rng, 3)
    expected = whole(model, batches, [n for (n,) in stages])
    onnx.save(model.proto, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=64)
    outside = load(tmp_path / "net.onnx")
    assert all(is_external(t) for t in tensors(outside.proto))
    with StagedRun(outside, batches, stages, optimize=False) as walk:
        for (name,) in stages:
            assert_same(walk.step()[name], expected[name])


class Source:
    """Batches that are generated again for every pass, optionally with one more or fewer than before."""

    def __init__(self, *counts: int) -> None:
        self.counts = list(counts)

    def __iter__(self) -> Iterator[Feeds]:
        count = self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]
        return iter([{"x": np.full((2, 4), i, np.float32)} for i in range(count)])


def test_batches(rng: np.random.Generator) -> None:
    model, stages = residual(rng), [["b"], ["e"], ["y"]]
    with StagedRun(model, Source(3), stages) as walk:
        assert [len(next(iter(walk.step().values()))) for _ in stages] == [3, 3, 3]
    with StagedRun(model, [], stages) as walk:
        assert [len(next(iter(walk.step().values()))) for _ in stages] == [0, 0, 0]
    for other in (2, 4):
        with StagedRun(model, Source(3, 3, other), stages) as walk:
            walk.step()
            with pytest.raises(RuntimeError, match="there were 3 batches"):
                walk.step()
    with pytest.raises(TypeError, match="more than once"):
        StagedRun(model, iter([{"x": np.zeros((1, 4), np.float32)}]), stages)


def test_types_of_stored_values(rng: np.random.Generator) -> None:
    model = made(
        rng,
        """g (float[n,4] x) => (int64[n] y)
        { h = Cast <to=10> (x) k = Greater (x, zero) i = ArgMax <axis=1, keepdims=0> (x)
          a = Cast <to=7> (k) b = Cast <to=7> (h) e = ReduceSum <keepdims=0> (a, axis)
          f = ReduceSum <keepdims=0> (b, axis) y = Sum2 (e, f) }""".replace("Sum2", "Add"),
        zero=np.float32(0),
        axis=np.int64([1]),
    )
    walk = assert_walk(model, batches_of(rng, 4), [["h", "k", "i"], ["y"]])
    assert walk.pieces[0].outputs == ["h", "k", "i"]


@pytest.mark.skipif(OLD_RUNTIME, reason="this onnxruntime has no kernel of Attention 23")
def test_lengths_that_are_alike_are_known(rng: np.random.Generator) -> None:
    """From unknown lengths onnx infers a wrong output of Attention, and onnxruntime refuses the MatMul behind it."""
    model = made(
        rng,
        """g (float[n,t,8] x) => (float[n,t,5] y)
        { q = MatMul (x, wq) k = MatMul (x, wk) v = MatMul (x, wv)
          a, k2, v2 = Attention <q_num_heads=4, kv_num_heads=2> (q, k, v, , pk, pv) y = MatMul (a, wo) }""",
        opset=23,
        wq=(8, 32),
        wk=(8, 16),
        wv=(8, 16),
        wo=(32, 5),
        pk=(2, 2, 3, 8),
        pv=(2, 2, 3, 8),
    )
    batches = [{"x": rng.standard_normal((2, length, 8)).astype(np.float32)} for length in (3, 4)]
    assert_walk(model, batches, [["q", "k", "v"], ["y"]])


def test_only_types_that_npy_files_support_are_spilled(tmp_path: Path) -> None:
    stored = BatchValues()
    small, text, wide = np.zeros(3), np.array(["a" * 5000], dtype=object), np.zeros(600)
    half = np.zeros(4096, helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    for array in (small, wide, text, half):
        stored.append(array)
    stored.spill(tmp_path)
    stored.append(wide + 1)
    assert stored.nbytes == 0 and len(list(tmp_path.iterdir())) == 2
    assert [a.dtype for a in stored] == [np.float64, np.float64, object, half.dtype, np.float64]
    assert stored[-1][0] == 1 and stored[1:2][0].shape == (600,)
    del stored
    assert not list(tmp_path.iterdir())


def test_the_remaining_stages_run_with_other_weights(rng: np.random.Generator) -> None:
    """From every place, the rest of another version of the model gives what all of it gives; the walk goes on as before."""
    text = "g (float[N, 3] x) => (float[N, 4] y) { a = MatMul(x, w) b = Relu(a) c = MatMul(b, v) s = MatMul(x, u) y = Add(c, s) }"
    model, batches = made(rng, text, w=(3, 5), v=(5, 4), u=(3, 4)), batches_of(rng, 3)
    other = model.copy()
    (tensor,) = (t for t in other.proto.graph.initializer if t.name == "v")
    other.set_array(tensor, 2 * other.array(tensor))
    expected = whole(other, batches, ["y"])["y"]
    with StagedRun(model, batches, [["x"], ["b"], ["y"]], optimize=False) as walk:
        for stage in ("x", "b", "y"):
            ahead = list(walk.ahead(other))
            assert [len(values) for values in ahead] == [1] * len(batches)
            for (a,), b in zip(ahead, expected, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-5)
            assert_same(
                walk.step()[stage], whole(model, batches, [stage])[stage] if stage != "x" else [f["x"] for f in batches]
            )
