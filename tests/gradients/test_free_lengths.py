"""Gradients where only the run tells the lengths: those of the same model with fixed lengths, in onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.gradients.differentiate import differentiate
from onnxprune.model.model import Model
from tests.gradients.differences import session
from tests.ops.case import build


def gradient(
    text: str, name: str, feeds: dict[str, NDArray[np.float32]], numbers: dict[str, object]
) -> NDArray[np.float32]:
    """The gradient of a value, given inputs and the gradient of the output ``y``."""
    made = differentiate(Model(build(text, constants=numbers)), ["y"], [name])
    assert not made.reasons
    runner = session(made.model.proto)
    given = {**feeds, made.seeds["y"]: feeds["y"]}
    found: NDArray[np.float32] = runner.run(
        [made.gradients[name]], {i.name: given[i.name] for i in runner.get_inputs()}
    )[0]
    return found


def random(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("operand", ['"", kf', '"", "", ks'])
def test_interpolation(operand: str) -> None:
    """By factors, or to lengths."""
    name = operand[-2:]
    kind, numbers = {"kf": ("float", [1, 1, 1, 1.5]), "ks": ("int64", [2, 3, 4, 6])}[name]
    feeds, found = {"x": random(2, 3, 4, 4), "y": random(2, 3, 4, 6)}, []
    for x, y in (("N,3,H,W", "N,3,H,P"), ("2,3,4,4", "2,3,4,6")):
        text = f'(float[{x}] x) => (float[{y}] y) <{kind}[4] {name}> {{ y = Resize <mode = "linear"> (x, {operand}) }}'
        found.append(gradient(text, "x", feeds, {name: numbers}))
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("attributes", "kernel", "made"),
    [
        ("strides = [2,2], pads = [1,1,1,1], output_padding = [1,0]", (4, 3, 3, 3), (2, 3, 6, 7)),
        ("strides = [2,2], group = 2", (4, 2, 2, 2), (2, 4, 6, 8)),
        ("dilations = [2,1], pads = [1,0,0,1]", (4, 2, 2, 2), (2, 2, 4, 4)),
    ],
)
def test_kernel_of_a_transposed_convolution(attributes: str, kernel: tuple[int, ...], made: tuple[int, ...]) -> None:
    feeds, found = {"x": random(2, 4, 3, 4), "w": random(*kernel), "y": random(*made)}, []
    lengths, shape = (",".join(map(str, one)) for one in (made, kernel))
    for x, y in (("N,4,H,W", f"N,{made[1]},P,Q"), ("2,4,3,4", lengths)):
        text = f"(float[{x}] x) => (float[{y}] y) <float[{shape}] w> {{ y = ConvTranspose <{attributes}> (x, w) }}"
        found.append(gradient(text, "w", feeds, {}))
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)
