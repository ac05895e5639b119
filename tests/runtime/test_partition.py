"""Where a graph is cut into pieces: each node runs once, unless its result cannot be handed on."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from onnxprune.model.model import Model
from onnxprune.runtime.partition import CannotCut
from onnxprune.runtime.staged_run import StagedRun
from tests.runtime.cases import CAPTURING, SEQUENCES, assert_walk, batches_of, made, residual


@pytest.mark.parametrize(
    "stages",
    [
        [["x"], ["b"], ["h"], ["y"]],
        [["b", "x"], ["e", "b"], ["y", "x"]],
        [["d"], ["c"], ["y"]],
        [["y"]],
        [[], ["h"], [], ["h", "y"]],
    ],
    ids=str,
)
def test_residuals_and_concatenations(stages: list[list[str]], rng: np.random.Generator) -> None:
    walk = assert_walk(residual(rng), batches_of(rng, 4), stages)
    nodes = [name for piece in walk.pieces for name in piece.nodes]
    assert sorted(nodes) == ["a", "b", "c", "d", "e", "f", "h", "y"]


def test_only_what_is_needed_is_run_and_kept(rng: np.random.Generator) -> None:
    walk = assert_walk(residual(rng), batches_of(rng, 4), [["b"], ["f"]])
    assert [piece.nodes for piece in walk.pieces] == [["a", "b"], ["c", "d", "e", "f"]]
    assert [piece.outputs for piece in walk.pieces] == [["b"], ["f"]]


def test_constants_run_in_every_piece_that_reads_them(rng: np.random.Generator) -> None:
    model = made(
        rng,
        """g (float[n,4] x) => (float[n,4] z)
                    { k = Constant <value_float=2.0> () t = Transpose (w) r = Mul (t, k) y = MatMul (x, r)
                      q = Relu (y) z = MatMul (q, r) }""",
        w=(4, 4),
    )
    walk = assert_walk(model, batches_of(rng, 4), [["y"], ["z"]])
    assert [piece.repeated for piece in walk.pieces] == [["k", "t", "r"], ["k", "t", "r"]]


@pytest.mark.parametrize("branch", [True, False])
def test_bodies_that_capture(branch: bool, rng: np.random.Generator) -> None:
    """Activations and weights captured by a body are passed on to a later piece."""
    model = made(rng, CAPTURING, w=(4, 4), scale=(4,))
    feeds = [b | {"p": np.array(branch)} for b in batches_of(rng, 4)]
    assert_walk(model, feeds, [["a"], ["b"], ["y"]])
    assert_walk(model, feeds, [["b"], ["c", "y"]])


def test_loops(rng: np.random.Generator) -> None:
    model = made(
        rng,
        """g (float[n,4] x) => (float[n,4] y)
        { a = MatMul (x, w)
          b, all = Loop (count, yes, a) <body = l (int64 i, bool c, float[n,4] s) => (bool k, float[n,4] o, float[n,4] q)
            { k = Identity (c) m = MatMul (s, w) o = Add (m, x) q = Identity (o) }>
          e = ReduceSum <keepdims=0> (all, axis) y = Add (b, e) }""",
        w=(4, 4),
        count=np.int64(2),
        yes=np.array(True),
        axis=np.int64([0]),
    )
    assert_walk(model, batches_of(rng, 4), [["a"], ["all"], ["y"]])


def test_absent_inputs_and_outputs_and_unordered_nodes(rng: np.random.Generator) -> None:
    model = made(
        rng,
        """g (float[n,2,4] x) => (float[1,2,3] y)
        { y = Clip (h, , top) all, h = RNN <hidden_size=3> (a, w, r) a = Relu (x) }""",
        top=np.float32(0.5),
        w=(1, 3, 4),
        r=(1, 3, 3),
    )
    model.proto.graph.node[1].output[0] = ""
    assert_walk(model, batches_of(rng, 2, 4), [["a"], ["h"], ["y"]])


def test_nodes_that_make_sequences_are_repeated(rng: np.random.Generator) -> None:
    """Sequences cannot be stored, but the tensors that they are made of can."""
    model = made(rng, SEQUENCES, w=(4, 4), v=(1, 4), zero=np.int64(0), last=np.int64(-1))
    walk = assert_walk(model, batches_of(rng, 4), [["b"], ["c"], ["y"]])
    assert [piece.repeated for piece in walk.pieces] == [["s", "t"], [], ["s", "t"]]
    with pytest.raises(CannotCut, match="'t' is no tensor"):
        StagedRun(model, batches_of(rng, 4), [["t"]])


def test_values_that_cannot_be_passed_on_are_refused(rng: np.random.Generator) -> None:
    model = made(
        rng,
        """g (float[n,4] x, bool p) => (float[n,4] y)
        { s = If (p) <then_branch = t () => (seq(float[n,4]) s1) { s1 = SequenceConstruct (x, x) },
                      else_branch = e () => (seq(float[n,4]) s2) { s2 = SequenceConstruct (x) }>
          b = SequenceAt (s, zero) c = Relu (b) d = SequenceAt (s, zero) y = Add (c, d) }""",
        zero=np.int64(0),
    )
    feeds = [b | {"p": np.array(True)} for b in batches_of(rng, 4)]
    with pytest.raises(CannotCut, match="'s' is no tensor, is needed on both sides"):
        StagedRun(model, feeds, [["b"], ["y"]])
    assert_walk(model, feeds, [["x"], ["y"]])
    for name, why in {"zero": "is a stored constant", "nowhere": "no value .* is called", "": "no value"}.items():
        with pytest.raises(CannotCut, match=why):
            StagedRun(model, feeds, [[name]])


def test_random_values_are_drawn_once(rng: np.random.Generator) -> None:
    model = made(
        rng,
        """g (float[2,3] x) => (float[2,3] y)
        { r = RandomNormal <shape=[2,3]> () a = Add (x, r) b = Add (a, r) y = Sub (b, a) }""",
    )
    with StagedRun(model, [{"x": np.zeros((2, 3), np.float32)}], [["r"], ["a"], ["y"]], optimize=False) as walk:
        r, a, y = walk.step()["r"][0], walk.step()["a"][0], walk.step()["y"][0]
    np.testing.assert_array_equal(a, r)
    np.testing.assert_allclose(y, r, atol=1e-6)


def test_local_functions(rng: np.random.Generator) -> None:
    text = """<ir_version: 8, opset_import: ["" : 18, "own" : 1]>
        g (float[n,4] x) => (float[n,4] y) { a = own.twice (x) b = Relu (a) y = own.twice (b) }
        <opset_import: ["" : 18], domain: "own"> twice (v) => (w) { w = Add (v, v) }"""
    assert_walk(Model(parser.parse_model(text)), batches_of(rng, 4), [["a"], ["b"], ["y"]])
