"""Runs of layers refitted together: found where nothing else looks in, exact derivatives, less error at their ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from onnxprune.graph.graph import Graph
from onnxprune.graph.shape_inference import infer
from onnxprune.layers.find import linear_layers
from onnxprune.model.model import Model
from onnxprune.repair import chain_function, gauss_newton
from onnxprune.repair.chain_function import ChainFunction, FeatureMaps, Function, Weights
from onnxprune.repair.gauss_newton import (
    EQUATIONS,
    POSITIONS,
    SPARSEST,
    Doubles,
    Refined,
    _Curvature,
    _Part,
    _Step,
    refine,
)
from onnxprune.repair.joint import repair
from onnxprune.repair.kept_indices import KeptAxis, KeptIndices
from onnxprune.repair.layer_chains import chains
from onnxprune.repair.layer_operator import LayerOperator, _joined, _seen
from onnxprune.runtime import parallel
from tests.support.text_models import text_model

WINDOWS = _joined([_seen([-1, 0, 1], 1, 6, 6)] * 2)
"""A kernel of 3 by 3 on maps of 6 by 6 with one zero around."""


def normal(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("attributes", "weight", "size"),
    [
        ("pads = [1, 1, 1, 1]", (4, 6, 3, 3), (8, 9)),
        ("group = 6, strides = [2, 2], pads = [0, 1, 1, 1]", (6, 1, 3, 3), (8, 9)),
        ("group = 2, strides = [2, 1]", (4, 3, 1, 1), (7, 7)),
        ("group = 2, strides = [2, 1], dilations = [2, 1], pads = [2, 0, 2, 3]", (4, 3, 3, 5), (9, 11)),
        ('auto_pad = "SAME_UPPER", strides = [2, 2]', (4, 6, 3, 2), (7, 8)),
        ('auto_pad = "SAME_LOWER"', (4, 6, 2, 4), (6, 6)),
        ("strides = [2]", (5, 6, 3), (9,)),
    ],
)
def test_an_operator_is_the_layer_and_its_transpose(
    attributes: str, weight: tuple[int, ...], size: tuple[int, ...], rng: np.random.Generator
) -> None:
    letters = ", ".join(["N", "6", *map(str, size)])
    model = text_model(
        rng,
        f"y = Conv<{attributes}>(x, w)",
        f"float[{letters}] x",
        "float[N, M, " + ", ".join(f"S{i}" for i in range(len(size))) + "] y",
        w=weight,
    )
    graph = Graph(model)
    infer(graph)
    (layer,) = linear_layers(graph)
    operator = LayerOperator.of(layer, size)
    x = normal(rng, 3, 6, *size)
    y = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    matrix = layer.matrix(onnx.numpy_helper.to_array(model.graph.initializer[0]))
    first = np.ascontiguousarray(x.swapaxes(0, 1))
    read = operator.unfold(first)
    made = operator.forward(matrix, read)
    np.testing.assert_allclose(made.swapaxes(0, 1), y, atol=1e-4)
    g = normal(rng, *made.shape)
    inner = float(np.vdot(made, g))
    assert float(np.vdot(first, operator.adjoint(matrix, g))) == pytest.approx(inner, abs=1e-2)
    assert float(np.vdot(matrix, operator.gradient(read, g))) == pytest.approx(inner, abs=1e-2)


def rectified(z: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(z, 0)


def run_of_two(
    rng: np.random.Generator, hidden: int, between: Function = rectified
) -> tuple[ChainFunction, list[NDArray[np.float32]]]:
    """Two matrices with a function between them."""
    operators = [LayerOperator(1, 6, (), (), (((), ()),)), LayerOperator(1, hidden, (), (), (((), ()),))]
    weights = [normal(rng, 1, hidden, 6), normal(rng, hidden), normal(rng, 1, 3, hidden), normal(rng, 3)]
    return ChainFunction(operators, [between], [True, True]), weights


def test_a_step_knows_how_the_end_moves(rng: np.random.Generator) -> None:
    """Against differences of the function itself, and the transpose against the step."""
    run, weights = run_of_two(rng, 5, np.tanh)
    rows = FeatureMaps(normal(rng, 6, 50), normal(rng, 3, 50))
    step = _Part(run, weights, rows)
    change = [1e-3 * normal(rng, *w.shape) for w in weights]
    before, after = (run(w, rows.x)[1][-1] for w in (weights, [w + c for w, c in zip(weights, change, strict=True)]))
    np.testing.assert_allclose(step.jvp(change), after - before, atol=1e-4)
    g = normal(rng, 3, 50)
    back = step.vjp(g)
    inner = sum(float(np.vdot(b, c)) for b, c in zip(back, change, strict=True))
    assert inner == pytest.approx(float(np.vdot(step.jvp(change), g)), rel=1e-3)


def test_what_two_layers_can_make_they_learn_to_make(rng: np.random.Generator) -> None:
    """From disturbed weights back to the function that made the targets."""
    run, true = run_of_two(rng, 4)
    x, more = normal(rng, 6, 2000), normal(rng, 6, 500)
    rows, held = (FeatureMaps(a, run(true, a)[1][-1]) for a in (x, more))
    found = refine(run, [w + 0.1 * normal(rng, *w.shape) for w in true], rows, held, [0])
    assert found.penalty is not None
    assert found.after < 0.1 * found.before
    made = run(found.weights, held.x)[1][-1]
    assert held.error(made) / held.variation == pytest.approx(found.after)


def in_fortieths(
    rows: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> tuple[ChainFunction, Weights, list[FeatureMaps]]:
    """A chain of two layers that reads 6 features, its weights, and samples of it in some forty parts."""
    run, true = run_of_two(rng, 4)
    x = normal(rng, 6, rows)
    monkeypatch.setattr(chain_function, "CHUNK", 6 * rows // 40)
    return run, true, run.divided(FeatureMaps(x, run(true, x)[1][-1]))


@pytest.mark.parametrize(("rows", "every"), [(100, 1), (800, 2), (20_000, SPARSEST)])
def test_the_matrix_is_that_of_a_part_of_many_samples(
    rows: int, every: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many equations for each weight as are asked for, and a step that leads most of the way."""
    run, true, parts = in_fortieths(rows, rng, monkeypatch)
    weights = [w + 0.1 * normal(rng, *w.shape) for w in true]
    step = _Step(run, weights, parts, [0])
    assert len(step._parts) == -(-len(parts) // every)
    assert every == 1 or 3 * step._n >= EQUATIONS * sum(w.size for w in weights)
    monkeypatch.setattr(gauss_newton, "SPARSEST", 1)
    whole = _Step(run, weights, parts, [0])
    changes = [[np.zeros_like(w) for w in weights], step.solved(1e-2), whole.solved(1e-2)]
    before, found, exact = (
        run.error([w + c for w, c in zip(weights, change, strict=True)], parts, parts[0].variation)
        for change in changes
    )
    assert exact < found < 0.3 * before if every > 1 else exact == found


@pytest.mark.parametrize(("rows", "counted"), [(100, 100), (800, 200), (20_000, 500)])
def test_the_preconditioner_is_that_of_few_positions(
    rows: int, counted: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of at least so many for each of 6 columns, in fortieths of the rows; of all where there are few."""
    run, true, parts = in_fortieths(rows, rng, monkeypatch)
    seen: list[_Part] = []
    factors = _Part.factors

    def noted(part: _Part, seed: Sequence[int]) -> tuple[list[Doubles], list[Doubles]]:
        seen.append(part)
        return factors(part, seed)

    monkeypatch.setattr(_Part, "factors", noted)
    _Step(run, true, parts, [0])
    assert sum(part.positions for part in seen) == counted >= min(rows, POSITIONS * 6)


def test_outputs_are_divided_by_their_gram_matrix(rng: np.random.Generator) -> None:
    moments, half = np.eye(3)[None], rng.standard_normal((1, 5, 5))
    gram = half @ half.transpose(0, 2, 1)
    values = normal(rng, 1, 5, 3)
    diagonal = gram * np.eye(5)
    damped = (1 - gauss_newton.SHRINKAGE) * gram + gauss_newton.SHRINKAGE * diagonal
    found = _Curvature.of(moments, gram).divided(values)
    np.testing.assert_allclose(damped @ found, values, atol=1e-3)
    found = _Curvature.of(moments, diagonal.sum(axis=2, keepdims=True)).divided(values)
    np.testing.assert_allclose(diagonal @ found, values, atol=1e-5)


def test_many_outputs_count_by_their_diagonal(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauss_newton, "WIDEST", 2)
    run, true = run_of_two(rng, 4)
    x = normal(rng, 6, 2000)
    rows = FeatureMaps(x, run(true, x)[1][-1])
    weights = [w + 0.1 * normal(rng, *w.shape) for w in true]
    assert [layer.outputs.shape for layer in _Step(run, weights, [rows], [0])._layers] == [(1, 4, 1), (1, 3, 1)]
    found = refine(run, weights, rows, rows, [0])
    assert found.after < 0.1 * found.before


def test_threads_and_parts_change_nothing(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes do not depend on the number of cores; the size of the parts moves roundings alone."""
    operators = [LayerOperator(1, 3, (6, 6), (6, 6), WINDOWS), LayerOperator(1, 4, (6, 6), (6, 6), WINDOWS)]
    true = [normal(rng, 1, 4, 27), normal(rng, 4), normal(rng, 1, 2, 36), normal(rng, 2)]
    run = ChainFunction(operators, [rectified], [True, True])
    x, more = normal(rng, 3, 90, 6, 6), normal(rng, 3, 20, 6, 6)
    rows, held = (FeatureMaps(a, run(true, a)[1][-1]) for a in (x, more))
    weights = [w + 0.1 * normal(rng, *w.shape) for w in true]

    def found(cores: int, chunk: int) -> Refined:
        monkeypatch.setattr(parallel, "cores", lambda: cores)
        monkeypatch.setattr(chain_function, "CHUNK", chunk)
        monkeypatch.setattr(gauss_newton, "POSITIONS", 10**6)  # all of them
        return refine(run, weights, rows, held, [0])

    one, three, whole = found(1, 8000), found(3, 8000), found(1, 2**30)
    for a, b, c in zip(one.weights, three.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, atol=2e-2)
    assert one.after < 0.2 * one.before


def test_errors_behind_a_rectifier_are_not_counted(rng: np.random.Generator) -> None:
    run, weights = run_of_two(rng, 4)
    x = normal(rng, 6, 400)
    made = run(weights, x)[1][-1]
    rows = FeatureMaps(x, np.where(made < 0, made - 5, made), low=0.0)
    assert rows.error(made) == 0.0
    assert refine(run, weights, rows, rows, [0]).penalty is None


def runs_of(rng: np.random.Generator, body: str, **constants: tuple[int, ...]) -> list[list[str]]:
    graph = Graph(text_model(rng, body, "float[N, 4, 8, 8] x", "float[N, C, H, W] y", **constants))
    infer(graph)
    returned = {id(v) for scope in graph.scopes() for v in scope.outputs}
    return [[layer.name for layer in chain.layers] for chain in chains(linear_layers(graph), returned)]


@pytest.mark.parametrize(
    ("between", "one"),
    [
        ("b = Relu(a)", True),
        ("s = Sigmoid(a) b = Mul(a, s)", True),
        ("n = BatchNormalization(a, k, k, k, k) b = LeakyRelu(n)", True),
        ("b = Mul(a, k1)", True),
        ("b = MaxPool<kernel_shape = [2, 2]>(a)", False),
        ("b = Softmax(a)", False),
        ("r = Relu(a) b = Add(r, x)", False),
        ("b = Identity(a) c = Relu(a)", False),
    ],
)
def test_runs_go_through_what_works_on_single_elements(between: str, one: bool, rng: np.random.Generator) -> None:
    found = runs_of(
        rng, f"a = Conv(x, w) {between} y = Conv(b, w2)", w=(4, 4, 1, 1), w2=(5, 4, 1, 1), k=(4,), k1=(4, 1, 1)
    )
    assert found == ([["a", "y"]] if one else [["a"], ["y"]])


def test_runs_have_an_end(rng: np.random.Generator) -> None:
    body = "a = Conv(x, w) b = Relu(a) c = Conv(b, w2) d = Relu(c) e = Conv(d, w3) f = Relu(e) y = Conv(f, w4)"
    weights = dict.fromkeys(("w", "w2", "w3", "w4"), (4, 4, 1, 1))
    assert runs_of(rng, body, **weights) == [["a", "c", "e"], ["y"]]


@pytest.mark.slow
def test_features_in_the_middle_are_chosen_anew(rng: np.random.Generator) -> None:
    """Two of six features are left between two layers: what the end makes comes nearer than by least squares there."""
    body = "a = Conv(x, w) b = Relu(a) y = Conv<pads = [1, 1, 1, 1]>(b, w2)"
    whole = text_model(rng, body, "float[N, 4, 8, 8] x", "float[N, 3, 8, 8] y", w=(6, 4, 1, 1), w2=(3, 6, 3, 3))
    small = onnx.ModelProto()
    small.CopyFrom(whole)
    for tensor in small.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        cut = array[:2] if tensor.name == "w" else array[:, :2]
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(cut), tensor.name))
    kept = KeptIndices(frozenset({"a", "y"}), {"a": {1: KeptAxis((6,), np.arange(2))}})
    feeds = [{"x": normal(rng, 8, 4, 8, 8)} for _ in range(10)]
    (done,) = repair(Model(whole), Model(small), kept, feeds)
    assert done.layer == "a + y"
    assert done.penalty is not None
    assert done.after < 0.9 * done.before
    again = onnx.ModelProto()
    again.CopyFrom(small)
    assert repair(Model(whole), Model(again), kept, feeds)[0].before == pytest.approx(done.after, rel=0.2)


def test_inputs_that_are_always_zero_keep_their_weights(rng: np.random.Generator) -> None:
    """Behind a unit that never fires, say: nothing is known of what they would do, and second moments are singular."""
    run, true = run_of_two(rng, 4)
    x = normal(rng, 6, 300)
    x[2] = 0
    rows, held = (FeatureMaps(part, run(true, part)[1][-1]) for part in (x[:, :200], x[:, 200:]))
    weights = [w + 0.1 * normal(rng, *w.shape) for w in true]
    found = refine(run, weights, rows, held, [0])
    assert found.penalty is not None and found.after < found.before
    np.testing.assert_array_equal(found.weights[0][0, :, 2], weights[0][0, :, 2])
    assert not np.array_equal(found.weights[0][0, :, 3], weights[0][0, :, 3])
