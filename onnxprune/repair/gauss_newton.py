"""Refits the layers of a chain together, so that the output of the last one is close to the original's.

Least squares in all weights at once: Gauss-Newton steps, damped as by Levenberg and Marquardt, each solved by
conjugate gradients. These are preconditioned, layer by layer, with the second moments of what a layer reads and how
much of each of its outputs reaches the end (the factors of Martens and Grosse, "Optimizing neural networks with
Kronecker-factored approximate curvature", ICML 2015). Like the fit of one layer it needs the inputs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.storable import storable
from onnxprune.repair.layer_operator import LayerOperator
from onnxprune.repair.least_squares import CONSTANT

Floats = NDArray[np.float32]
Function = Callable[[Floats], Floats]
Weights = list[Floats]
"""Matrices and then the bias of each layer, one layer after the other."""

STEPS, SOLVES = 2, 6
"""Gauss-Newton steps at most, and conjugate gradients in each."""
SHARES = (1.0, 0.5)
"""How much of a step is tried."""
PENALTY, DAMPING_DECREASE, DAMPING_INCREASE = 1e-2, 0.3, 10.0
"""The first ridge, as a share of the mean second moment; factors after a success and after a failure."""
GAIN = 3e-3
"""A step that takes less than this share off the error is the last one."""
FD_STEP = 1e-3
"""Step of the finite difference for slopes, as a share of the standard deviation."""


@dataclass(frozen=True)
class FeatureMaps:
    """Samples of a chain's input and output; the feature axis comes first.

    Attributes:
        x: Inputs of the first layer.
        y: Targets for the last layer's output plus `offset`.
        offset: What the graph adds to that output; an array of its shape, or one number.
        low: Lower clipping bound of the following activation: 0 for a Relu, -inf for none.
        high: Upper clipping bound.
    """

    x: Floats
    y: Floats
    offset: Floats | float = 0.0
    low: float = -np.inf
    high: float = np.inf

    def error(self, made: Floats) -> float:
        """Mean squared error of the clipped outputs, as a share of their variance, or else mean square."""
        target = np.clip(self.y, self.low, self.high)
        flat = target.reshape(len(target), -1)
        spread = flat.size * float(flat.var(axis=1, dtype=np.float64).mean())
        wrong = target - np.clip(made + self.offset, self.low, self.high)
        whole = float(np.square(target, dtype=np.float64).sum())
        spread = spread if spread > CONSTANT * whole else whole
        return float(np.square(wrong, dtype=np.float64).sum() / max(spread, 1e-30))

    def residual(self, made: Floats) -> tuple[Floats, Floats | None]:
        """Target less output, and a mask of the elements that count (None: all)."""
        total = made + self.offset
        missing: Floats = self.y - total
        if not (np.isfinite(self.low) or np.isfinite(self.high)):
            return missing, None
        counts = ~(((self.y <= self.low) & (total <= self.low)) | ((self.y >= self.high) & (total >= self.high)))
        return missing * counts, counts.astype(np.float32)


@dataclass(frozen=True)
class ChainFunction:
    """A chain of layers as a function of their weights.

    Attributes:
        operators: The layers.
        functions: The element-wise functions between them.
        free: Whether each layer's bias may change.
    """

    operators: Sequence[LayerOperator]
    functions: Sequence[Function]
    free: Sequence[bool]

    def __call__(self, weights: Weights, x: Floats) -> tuple[list[Floats], list[Floats]]:
        """Input and output of each layer."""
        read: list[Floats] = []
        made: list[Floats] = []
        for i, operator in enumerate(self.operators):
            read.append(x if i == 0 else self.functions[i - 1](made[-1]))
            made.append(operator.forward(weights[2 * i], read[-1]))
            made[-1] += _along(weights[2 * i + 1], x.ndim)
        return read, made


@storable
@dataclass(frozen=True)
class Refined:
    """A refitted chain.

    Attributes:
        weights: The weights.
        penalty: Ridge of the last step that was accepted, None where none was.
        before: Error on the held-out samples with the original weights.
        after: Error on them after the refit.
    """

    weights: Weights
    penalty: float | None
    before: float
    after: float


def refine(
    chain: ChainFunction, weights: Weights, rows: FeatureMaps, held: FeatureMaps, seed: Sequence[int]
) -> Refined:
    """Weights of a chain with a smaller held-out error, or the same ones.

    Args:
        chain: The chain.
        weights: Starting weights.
        rows: Samples to fit.
        held: Held-out samples, on which every step has to be better.
        seed: Seed of the random probe that estimates the output Gram matrices.
    """

    def error(trial: Weights) -> float:
        return held.error(chain(trial, held.x)[1][-1])

    before = error(weights)
    best = Refined(weights, None, before, before)
    penalty, failures = PENALTY, 0
    for step in range(STEPS):
        change = _Step(chain, best.weights, rows, [*seed, step]).solved(penalty)
        trials = [[w + np.float32(share) * c for w, c in zip(best.weights, change, strict=True)] for share in SHARES]
        errors = [error(trial) for trial in trials]
        i = int(np.argmin(errors))
        if errors[i] < best.after:
            small = errors[i] > (1 - GAIN) * best.after
            best = Refined(trials[i], penalty, before, errors[i])
            penalty *= DAMPING_DECREASE
            if small:
                break
        else:
            penalty, failures = penalty * DAMPING_INCREASE, failures + 1
            if failures > 1:
                break
    return best


class _Step:
    """The linearised least-squares problem of one step."""

    def __init__(self, chain: ChainFunction, weights: Weights, rows: FeatureMaps, seed: Sequence[int]) -> None:
        self._chain, self._weights = chain, weights
        self._read, made = chain(weights, rows.x)
        self._residual, self._counts = rows.residual(made[-1])
        self._slopes = [_slope(f, z) for f, z in zip(chain.functions, made, strict=False)]
        self._n = made[-1][0].size
        self._moments = [op.moments(x) for op, x in zip(chain.operators, self._read, strict=True)]
        self._sizes = [np.maximum(np.trace(m, axis1=1, axis2=2) / m.shape[1], 1e-12) for m in self._moments]
        self._output_gram = self._estimated_output_gram(np.random.default_rng(list(seed)))

    def solved(self, penalty: float) -> Weights:
        """The step with a ridge, by preconditioned conjugate gradients that start at zero."""
        ridges = [penalty * size for size in self._sizes]
        inverses = [
            np.linalg.inv(m + r[:, None, None] * np.eye(m.shape[1])).astype(np.float32)
            for m, r in zip(self._moments, ridges, strict=True)
        ]
        left = self._vjp(self._residual)
        x = [np.zeros_like(w) for w in left]
        z = self._precondition(left, inverses)
        p, rz = z, _dot(left, z)
        for _ in range(SOLVES):
            q = self._normal(p, ridges, penalty)
            curvature = _dot(p, q)
            if curvature <= 0 or rz <= 0:
                break
            step = np.float32(rz / curvature)
            x = [a + step * b for a, b in zip(x, p, strict=True)]
            left = [a - step * b for a, b in zip(left, q, strict=True)]
            z = self._precondition(left, inverses)
            before, rz = rz, _dot(left, z)
            p = [a + np.float32(rz / before) * b for a, b in zip(z, p, strict=True)]
        return x

    def _normal(self, change: Weights, ridges: Sequence[NDArray[np.float64]], penalty: float) -> Weights:
        """The normal matrix, with its ridge, times a change of the weights."""
        made = self._vjp(self._jvp(change))
        for i, (ridge, gram) in enumerate(zip(ridges, self._output_gram, strict=True)):
            made[2 * i] = made[2 * i] + (ridge[:, None, None].astype(np.float32) * gram) * change[2 * i]
            made[2 * i + 1] = made[2 * i + 1] + np.float32(penalty) * gram.reshape(-1) * change[2 * i + 1]
        return made

    def _precondition(self, left: Weights, inverses: Sequence[Floats]) -> Weights:
        """The block-diagonal preconditioner: layers, and the outputs of a layer, are treated as independent."""
        found = []
        for i, (inverse, gram) in enumerate(zip(inverses, self._output_gram, strict=True)):
            found += [(left[2 * i] / gram) @ inverse, left[2 * i + 1] / gram.reshape(-1)]
        return found

    def _jvp(self, change: Weights) -> Floats:
        """Jacobian-vector product: the change of the last output for a change of the weights."""
        moved: Floats | None = None
        for i, operator in enumerate(self._chain.operators):
            step = operator.forward(change[2 * i], self._read[i])
            step += _along(change[2 * i + 1], step.ndim)
            if moved is not None:
                step += operator.forward(self._weights[2 * i], moved)
            moved = step * self._slopes[i] if i < len(self._slopes) else step
        assert moved is not None
        return moved if self._counts is None else moved * self._counts

    def _vjp(self, end: Floats) -> Weights:
        """Vector-Jacobian product: the transpose of `_jvp`, averaged over positions."""
        found: Weights = []
        g = end
        for i in reversed(range(len(self._chain.operators))):
            if i < len(self._slopes):
                g = g * self._slopes[i]
            bias = g.reshape(len(g), -1).sum(axis=1) / self._n
            found = [
                self._chain.operators[i].gradient(self._read[i], g) / self._n,
                bias if self._chain.free[i] else np.zeros_like(bias),
                *found,
            ]
            if i:
                g = self._chain.operators[i].adjoint(self._weights[2 * i], g)
        return found

    def _estimated_output_gram(self, rng: np.random.Generator) -> list[Floats]:
        """Diagonal of each layer's output Gram matrix, from one random probe; shape (groups, outputs, 1)."""
        g = rng.choice(np.array([-1, 1], dtype=np.float32), self._residual.shape)
        g = g if self._counts is None else g * self._counts
        found = []
        for i in reversed(range(len(self._chain.operators))):
            if i < len(self._slopes):
                g = g * self._slopes[i]
            mean = np.square(g).reshape(len(g), -1).sum(axis=1) / self._n
            mean = np.maximum(mean, 1e-4 * mean.max() + 1e-20)
            found.append(mean.reshape(self._chain.operators[i].groups, -1, 1).astype(np.float32))
            if i:
                g = self._chain.operators[i].adjoint(self._weights[2 * i], g)
        return found[::-1]


def _slope(function: Function, z: Floats) -> Floats:
    """Derivative of an element-wise function, by central differences."""
    step = np.float32(FD_STEP * max(float(z.std()), 1e-6))
    slope: Floats = (function(z + step) - function(z - step)) / (2 * step)
    return slope


def _along(bias: Floats, rank: int) -> Floats:
    return bias.reshape(-1, *[1] * (rank - 1))


def _dot(a: Weights, b: Weights) -> float:
    return float(sum(np.vdot(x.astype(np.float64), y.astype(np.float64)) for x, y in zip(a, b, strict=True)))
