"""Models and batches of the tests of staged runs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from onnxprune.model.model import Model
from onnxprune.runtime.staged_run import BatchValues, StagedRun
from tests.support.oracle import session


def made(rng: np.random.Generator, text: str, opset: int = 18, **constants: NDArray[Any] | tuple[int, ...]) -> Model:
    """A model from the text of its graph; constants are arrays, or shapes of random ones."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    for name, c in constants.items():
        array = rng.standard_normal(c).astype(np.float32) if isinstance(c, tuple) else c
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return Model(model)


def batches_of(rng: np.random.Generator, *shape: int, count: int = 3, name: str = "x") -> list[dict[str, NDArray[Any]]]:
    """Batches of different sizes."""
    return [{name: rng.standard_normal((i + 1, *shape)).astype(np.float32)} for i in range(count)]


def whole(model: Model, batches: list[dict[str, NDArray[Any]]], names: list[str]) -> dict[str, list[NDArray[Any]]]:
    """These values from one run of the whole model a batch."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    there = {o.name for o in proto.graph.output} | {i.name for i in proto.graph.input}
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in dict.fromkeys(names) if n not in there)
    one = session(proto)
    runs = [one.run(names, feeds) for feeds in batches]
    return {name: [run[i] for run in runs] for i, name in enumerate(names)}


def assert_same(stored: BatchValues, expected: list[NDArray[Any]], exact: bool = True) -> None:
    assert len(stored) == len(expected)
    for a, b in zip(stored, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if exact or b.dtype == object:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-3)


def assert_walk(
    model: Model, batches: list[dict[str, NDArray[Any]]], stages: list[list[str]], **options: Any
) -> StagedRun:
    """The walk gives at each stage what the whole gives, and no node runs twice."""
    expected = whole(model, batches, [n for stage in stages for n in stage if n not in batches[0]])
    expected |= {n: [b[n] for b in batches] for n in batches[0]}
    options = {"optimize": False} | options
    with StagedRun(model, batches, stages, **options) as walk:
        for stage in stages:
            values = walk.step()
            assert list(values) == stage
            for name in stage:
                assert_same(values[name], expected[name], exact=not options["optimize"])
        assert not walk._stored
        with pytest.raises(RuntimeError, match="no stage"):
            walk.step()
    assert all(n == 1 for n in Counter(name for piece in walk.pieces for name in piece.nodes).values())
    return walk


RESIDUAL = """g (float[n,4] x) => (float[n,3] y)
{ a = MatMul (x, u) b = Relu (a) c = MatMul (b, v) d = Add (c, x) e = Tanh (d) f = Concat <axis=1> (e, b)
  k = Mul (two, two) h = Mul (f, k) y = MatMul (h, w) unused = Exp (y) }"""


def residual(rng: np.random.Generator) -> Model:
    return made(rng, RESIDUAL, u=(4, 5), v=(5, 4), w=(9, 3), two=np.float32([2]))


CAPTURING = """g (float[n,4] x, bool p) => (float[n,4] y)
{ a = MatMul (x, w) b = Relu (a)
  c = If (p) <then_branch = t () => (float[n,4] s) { i = MatMul (b, w) s = Add (i, a) },
              else_branch = e () => (float[n,4] r) { j = Neg (b) r = Mul (j, scale) }>
  y = Tanh (c) }"""


SEQUENCES = """g (float[n,4] x) => (float[n,4] y)
{ a = MatMul (x, w) s = SplitToSequence <axis=1> (a) t = SequenceInsert (s, a) l = SequenceLength (s)
  b = SequenceAt (t, zero) c = MatMul (b, v) d = SequenceAt (t, last) y = Add (c, d) }"""
