"""Adam whose steps are shares of the size of each output channel's weights.

A step of fixed size, which plain Adam takes (Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015),
wrecks models whose normalisations are folded into their weights: these differ in size by orders of magnitude from
channel to channel. Steps relative to the weights are taken by LARS (You et al., "Large batch training of convolutional
networks", 2017) as well, layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

DECAY, SQUARE_DECAY = 0.9, 0.99
"""What is kept of the running means of gradients and of their squares, step by step."""
TENSOR_SHARE = 0.1
"""Share of the size of the whole tensor that is added to that of each channel: one of zeros moves too."""
WARM_UP = 0.05
"""Share of the steps in which the rate rises."""
MOSTLY_ZERO = 0.1
"""Zeros of a weight with a larger share of them than this are kept."""


def rate_at(step: int, steps: int, highest: float) -> float:
    """The rate of a step: it rises in a straight line, then falls along a cosine to zero (Loshchilov and Hutter, 2017).

    Args:
        step: Number of the step, from 0.
        steps: Number of all steps.
        highest: The highest rate.
    """
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return highest * (step + 1) / warm
    return highest * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def channel_sizes(weight: Floats, axis: int | None) -> Floats:
    """Root mean square of each output channel, and a share of that of the tensor; broadcastable to the weight.

    Zeros do not count: what is left of a sparse weight moves as fast as a dense one.

    Args:
        weight: The weight.
        axis: Axis of the output channels; None where all elements are one channel.
    """
    squares, count = np.square(weight, dtype=np.float64), weight != 0
    whole = float(np.sqrt(squares.sum() / max(count.sum(), 1)))
    if not whole and weight.ndim > 1:  # as large as weights that are drawn at random: He et al., 2015
        whole = float(np.sqrt(max(weight.shape) / max(weight.size, 1)))
    if axis is None:
        return np.full([1] * weight.ndim, whole, np.float32)
    others = tuple(i for i in range(weight.ndim) if i != axis)
    own = np.sqrt(squares.sum(axis=others, keepdims=True) / np.maximum(count.sum(axis=others, keepdims=True), 1))
    found: Floats = (own + TENSOR_SHARE * whole).astype(np.float32)
    return found


@dataclass
class _State:
    mean: Floats
    square: Floats
    size: Floats
    mask: NDArray[np.bool_] | None
    steps: int = 0


class RelativeAdam:
    """Changes weights in place.

    Attributes:
        weights: The weights by name; arrays of their own.
        lost: Steps that left a weight as it was, because its gradient was not finite.
    """

    def __init__(self, weights: Mapping[str, Floats], sizes: Mapping[str, Floats]) -> None:
        """Begins with running means of zero.

        Args:
            weights: The weights by name; copied.
            sizes: What steps are relative to, by name; broadcastable to the weights.
        """
        self.weights = {name: np.array(w, np.float32) for name, w in weights.items()}
        self._states = {name: _state(w, sizes[name]) for name, w in self.weights.items()}
        self.lost = 0

    def state(self) -> dict[str, Any]:
        """All that the next steps depend on, for `restore`."""
        means = {name: (s.mean, s.square, s.steps) for name, s in self._states.items()}
        return {"weights": self.weights, "means": means, "lost": self.lost}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from the state of an optimizer with the same weights at the beginning."""
        self.weights, self.lost = dict(state["weights"]), state["lost"]
        for name, (mean, square, steps) in state["means"].items():
            own = self._states[name]
            own.mean, own.square, own.steps = mean, square, steps

    def step(self, gradients: Mapping[str, Floats], rate: float) -> None:
        """Makes one step; weights whose gradients are not finite stay as they are.

        Others need not: a gradient that is not finite spoils those of what comes before it in the graph alone.

        Args:
            gradients: Gradients by the names of the weights.
            rate: Length of the step, as a share of the size of the weights.
        """
        finite = {name: g for name, g in gradients.items() if np.isfinite(g).all()}
        self.lost += len(finite) < len(gradients)
        for name, gradient in finite.items():
            state = self._states[name]
            state.steps += 1
            first, second = 1 - DECAY**state.steps, 1 - SQUARE_DECAY**state.steps
            state.mean += (1 - DECAY) * (gradient - state.mean)
            state.square += (1 - SQUARE_DECAY) * (np.square(gradient) - state.square)
            change = (rate / first) * state.size * state.mean / (np.sqrt(state.square / second) + 1e-12)
            self.weights[name] -= change if state.mask is None else change * state.mask


def _state(weight: Floats, size: Floats) -> _State:
    zero = weight == 0
    keeps = weight.ndim > 1 and bool(zero.mean() > MOSTLY_ZERO) and not _whole_slices(zero)
    return _State(np.zeros_like(weight), np.zeros_like(weight), size, ~zero if keeps else None)


def _whole_slices(zero: NDArray[np.bool_]) -> bool:
    """Whether all zeros are those of whole slices: of channels that grow again, or of a layer that begins at zero."""
    explained = np.zeros_like(zero)
    for axis in (i for i, length in enumerate(zero.shape) if zero.size > length):  # else of one
        explained |= zero.all(axis=tuple(i for i in range(zero.ndim) if i != axis), keepdims=True)
    return bool((explained == zero).all())
