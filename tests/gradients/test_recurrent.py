"""Gradients of recurrent layers in the directions that the reference evaluator does not know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.gradients.differentiate import differentiate
from onnxprune.model.model import load
from onnxprune.runtime.session import local_session
from tests.ops.case import build

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, 2, 4)).astype(np.float32)
D = RNG.standard_normal((5, 2, 2, 3)).astype(np.float32)


def weights(op: str) -> dict[str, NDArray[Any]]:
    rng, n = np.random.default_rng(1), 3 * GATES[op]
    return {
        "w": rng.standard_normal((2, n, 4)),
        "r": rng.standard_normal((2, n, 3)),
        "b": rng.standard_normal((2, 2 * n)),
    }


def gradients(op: str, direction: str, arrays: dict[str, NDArray[Any]], x: Any, d: Any) -> dict[str, NDArray[Any]]:
    n, count = 3 * GATES[op], len(arrays["w"])
    reset = ", linear_before_reset = 1" if op == "GRU" else ""
    text = f"""(float[5,2,4] x) => (float[5,{count},2,3] y) <float[{count},{n},4] w, float[{count},{n},3] r, float[{count},{2 * n}] b>
        {{ y = {op} <hidden_size = 3, direction = "{direction}"{reset}> (x, w, r, b) }}"""
    made = differentiate(load(build(text, 14, constants=arrays)), ["y"], ["x", "w", "r", "b"])
    feeds = {"x": x, made.seeds["y"]: d, **{name: array.astype(np.float32) for name, array in arrays.items()}}
    names = ["x", "w", "r", "b"]
    found = local_session(made.model).run([made.gradients[name] for name in names], feeds)
    return dict(zip(names, found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("op", GATES)
def test_directions(op: str) -> None:
    """Backwards is forwards with the time turned round; both directions are one beside the other."""
    arrays = weights(op)
    first, second = ({n: a[i : i + 1] for n, a in arrays.items()} for i in range(2))
    forward = gradients(op, "forward", first, X, D[:, :1])
    turned = gradients(op, "forward", second, X[::-1].copy(), D[::-1, 1:].copy())
    reverse = gradients(op, "reverse", second, X, D[:, 1:])
    both = gradients(op, "bidirectional", arrays, X, D)
    np.testing.assert_allclose(reverse["x"], turned["x"][::-1], atol=1e-5)
    np.testing.assert_allclose(both["x"], forward["x"] + reverse["x"], atol=1e-5)
    for name in ("w", "r", "b"):
        np.testing.assert_allclose(reverse[name], turned[name], atol=1e-5)
        np.testing.assert_allclose(both[name], np.concatenate([forward[name], reverse[name]]), atol=1e-5)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ('GRU <hidden_size = 3, activations = ["Sigmoid", "Relu"]> (x, w, r)', "other activations than Sigmoid, Tanh"),
        ("GRU <hidden_size = 3, linear_before_reset = 1, clip = 2.0> (x, w, r)", "has an attribute clip"),
    ],
)
def test_what_has_no_gradient(node: str, says: str) -> None:
    text = f"(float[5,2,4] x) => (float[5,1,2,3] y) <float[1,9,4] w, float[1,9,3] r> {{ y = {node} }}"
    made = differentiate(load(build(text, 14)), ["y"], ["w"])
    assert says in made.reasons["w"]


def test_activations_that_are_named_are_those_of_the_operator() -> None:
    """As frameworks write them, in any case of letters."""
    arrays = {"w": weights("GRU")["w"][:1], "r": weights("GRU")["r"][:1]}
    found = []
    for named in ("", ', activations = ["sigmoid", "Tanh"]'):
        text = f"""(float[5,2,4] x) => (float[5,1,2,3] y) <float[1,9,4] w, float[1,9,3] r>
            {{ y = GRU <hidden_size = 3{named}> (x, w, r) }}"""
        made = differentiate(load(build(text, 14, constants=arrays)), ["y"], ["w", "r"])
        feeds = {"x": X, made.seeds["y"]: D[:, :1], **{n: a.astype(np.float32) for n, a in arrays.items()}}
        found.append(local_session(made.model).run([made.gradients["w"]], feeds)[0])
    np.testing.assert_array_equal(*found)
