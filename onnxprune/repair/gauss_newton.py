"""Refits the layers of a chain together, so that the output of the last one is close to the original's.

Least squares in all weights at once: Gauss-Newton steps, damped as by Levenberg and Marquardt, each solved by
conjugate gradients. These are preconditioned, layer by layer, with the second moments of what a layer reads and how
much of each of its outputs reaches the end (the factors of Martens and Grosse, "Optimizing neural networks with
Kronecker-factored approximate curvature", ICML 2015). Like the fit of one layer it needs the inputs alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.storable import storable
from onnxprune.repair.layer_operator import LayerOperator, Unfolded
from onnxprune.repair.layer_samples import CONSTANT
from onnxprune.runtime.parallel import in_order

Floats = NDArray[np.float32]
Function = Callable[[Floats], Floats]
Weights = list[Floats]
"""Matrices and then the bias of each layer, one layer after the other."""

STEPS, SOLVES = 2, 3
"""Gauss-Newton steps at most, and conjugate gradients in each; more of these come closer to the samples alone."""
SHARES = (1.0, 0.5)
"""How much of a step is tried."""
PENALTY, DAMPING_DECREASE, DAMPING_INCREASE = 1e-2, 0.3, 10.0
"""The first ridge, as a share of the mean second moment; factors after a success and after a failure."""
GAIN = 3e-3
"""A step that takes less than this share off the error is the last one."""
FD_STEP = 1e-3
"""Step of the finite difference for slopes, as a share of the standard deviation."""
CHUNK = 2**19
"""Numbers in the columns of a part of the rows."""
SAMPLED = 4
"""Every so many parts give the preconditioner, which need not be exact."""


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

    @property
    def variation(self) -> float:
        """Sum of squares of the clipped targets about their means, or else of the targets; errors are shares of it."""
        target = np.clip(self.y, self.low, self.high)
        flat = target.reshape(len(target), -1)
        spread = flat.size * float(flat.var(axis=1, dtype=np.float64).mean())
        whole = float(np.square(target, dtype=np.float64).sum())
        return max(spread if spread > CONSTANT * whole else whole, 1e-30)

    def error(self, made: Floats) -> float:
        """Sum of the squared errors of the clipped outputs."""
        wrong = np.clip(self.y, self.low, self.high) - np.clip(made + self.offset, self.low, self.high)
        return float(np.square(wrong, dtype=np.float64).sum())

    def divided(self, rows: int) -> list[FeatureMaps]:
        """The same samples in parts of so many rows."""
        shared = np.ndim(self.offset) == 0
        return [
            replace(
                self,
                x=np.ascontiguousarray(self.x[:, i : i + rows]),
                y=np.ascontiguousarray(self.y[:, i : i + rows]),
                offset=self.offset if shared else np.ascontiguousarray(self.offset[:, i : i + rows]),  # type: ignore[index]
            )
            for i in range(0, self.x.shape[1], rows)
        ]

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

    def __call__(self, weights: Weights, x: Floats) -> tuple[list[Unfolded], list[Floats]]:
        """Input and output of each layer."""
        read: list[Unfolded] = []
        made: list[Floats] = []
        for i, operator in enumerate(self.operators):
            read.append(operator.unfold(x if i == 0 else self.functions[i - 1](made[-1])))
            made.append(operator.forward(weights[2 * i], read[-1]))
            made[-1] += _along(weights[2 * i + 1], x.ndim)
        return read, made

    def divided(self, maps: FeatureMaps) -> list[FeatureMaps]:
        """Samples in parts whose columns stay near the processor."""
        x = maps.x
        most = max(op.features * len(op.windows) * math.prod(op.out) for op in self.operators)
        inner = math.prod(x.shape[2 : x.ndim - len(self.operators[0].out)])
        return maps.divided(max(1, CHUNK // max(1, most * inner)))

    def error(self, weights: Weights, parts: Sequence[FeatureMaps], variation: float) -> float:
        """Squared error of the outputs over all parts, as a share of the variation of their targets."""
        return sum(in_order(lambda maps: maps.error(self(weights, maps.x)[1][-1]), parts)) / variation


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
    parts, judges, variation = chain.divided(rows), chain.divided(held), held.variation
    before = chain.error(weights, judges, variation)
    best = Refined(weights, None, before, before)
    penalty, failures = PENALTY, 0
    for step in range(STEPS):
        change = _Step(chain, best.weights, parts, [*seed, step]).solved(penalty)
        trials = [[w + np.float32(share) * c for w, c in zip(best.weights, change, strict=True)] for share in SHARES]
        errors = [chain.error(trial, judges, variation) for trial in trials]
        i = int(np.argmin(np.nan_to_num(errors, nan=np.inf)))
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


class _Part:
    """Some rows of the linearised problem of a step."""

    def __init__(self, chain: ChainFunction, weights: Weights, maps: FeatureMaps) -> None:
        self._chain, self._weights = chain, weights
        self._read, made = chain(weights, maps.x)
        self._residual, self._counts = maps.residual(made[-1])
        self._slopes = [_slope(f, z) for f, z in zip(chain.functions, made, strict=False)]
        self.positions = made[-1][0].size

    def factors(self, seed: Sequence[int]) -> list[tuple[NDArray[np.float64], Floats]]:
        """For each layer the mean second moments of its columns, and the squares of how each of its outputs counts."""
        squares = self._output_squares(np.random.default_rng(list(seed)))
        return [
            (x.moments() / x.columns.shape[2], s / self.positions) for x, s in zip(self._read, squares, strict=True)
        ]

    def normal(self, change: Weights) -> Weights:
        """The normal matrix, without its ridge, times a change of the weights."""
        return self.vjp(self.jvp(change))

    def target(self) -> Weights:
        """The right side of the normal equations."""
        return self.vjp(self._residual)

    def jvp(self, change: Weights) -> Floats:
        """Jacobian-vector product: the change of the last output for a change of the weights."""
        moved: Floats | None = None
        for i, operator in enumerate(self._chain.operators):
            step = operator.forward(change[2 * i], self._read[i])
            step += _along(change[2 * i + 1], step.ndim)
            if moved is not None:
                step += operator.forward(self._weights[2 * i], operator.unfold(moved))
            moved = step * self._slopes[i] if i < len(self._slopes) else step
        assert moved is not None
        return moved if self._counts is None else moved * self._counts

    def vjp(self, end: Floats) -> Weights:
        """Vector-Jacobian product: the transpose of `jvp`."""
        found: Weights = []
        for i, g in self._backwards(end):
            bias = g.reshape(len(g), -1).sum(axis=1)
            found = [
                self._chain.operators[i].gradient(self._read[i], g),
                bias if self._chain.free[i] else np.zeros_like(bias),
                *found,
            ]
        return found

    def _output_squares(self, rng: np.random.Generator) -> list[Floats]:
        """Diagonal of each layer's output Gram matrix, from one random probe; a number for each output."""
        g = rng.choice(np.array([-1, 1], dtype=np.float32), self._residual.shape)
        g = g if self._counts is None else g * self._counts
        return [np.square(g).reshape(len(g), -1).sum(axis=1) for _, g in self._backwards(g)][::-1]

    def _backwards(self, end: Floats) -> Iterator[tuple[int, Floats]]:
        """The derivative at the output of each layer, from the last one to the first."""
        g = end
        for i in reversed(range(len(self._chain.operators))):
            if i < len(self._slopes):
                g = g * self._slopes[i]
            yield i, g
            if i:
                g = self._chain.operators[i].adjoint(self._weights[2 * i], g)


class _Step:
    """The linearised least-squares problem of one step: a sum over parts of the rows."""

    def __init__(
        self, chain: ChainFunction, weights: Weights, parts: Sequence[FeatureMaps], seed: Sequence[int]
    ) -> None:
        self._parts = list(in_order(lambda maps: _Part(chain, weights, maps), parts))
        self._n = sum(part.positions for part in self._parts)
        sampled = self._parts[::SAMPLED]
        found = list(in_order(lambda i: sampled[i].factors([*seed, i]), range(len(sampled))))
        shares = [part.positions / sum(other.positions for other in sampled) for part in sampled]
        self._moments = []
        self._output_gram = []
        for i, operator in enumerate(chain.operators):
            self._moments.append(sum(share * factors[i][0] for share, factors in zip(shares, found, strict=True)))
            squares = sum(share * factors[i][1] for share, factors in zip(shares, found, strict=True))
            squares = np.maximum(squares, 1e-4 * squares.max() + 1e-20)
            self._output_gram.append(squares.reshape(operator.groups, -1, 1).astype(np.float32))
        self._sizes = [np.maximum(np.trace(m, axis1=1, axis2=2) / m.shape[1], 1e-12) for m in self._moments]

    def solved(self, penalty: float) -> Weights:
        """The step with a ridge, by preconditioned conjugate gradients that start at zero."""
        ridges = [penalty * size for size in self._sizes]
        inverses = [
            np.linalg.inv(m + r[:, None, None] * np.eye(m.shape[1])).astype(np.float32)
            for m, r in zip(self._moments, ridges, strict=True)
        ]
        left = self._mean(_Part.target)
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
        made = self._mean(lambda part: part.normal(change))
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

    def _mean(self, of: Callable[[_Part], Weights]) -> Weights:
        """A sum over all rows, as a mean over positions."""
        total: Weights = []
        for made in in_order(of, self._parts):
            total = [a + b for a, b in zip(total, made, strict=True)] if total else made
        return [a / np.float32(self._n) for a in total]


def _slope(function: Function, z: Floats) -> Floats:
    """Derivative of an element-wise function, by central differences."""
    step = np.float32(FD_STEP * max(float(z.std()), 1e-6))
    slope: Floats = (function(z + step) - function(z - step)) / (2 * step)
    return slope


def _along(bias: Floats, rank: int) -> Floats:
    return bias.reshape(-1, *[1] * (rank - 1))


def _dot(a: Weights, b: Weights) -> float:
    return float(sum(np.vdot(x.astype(np.float64), y.astype(np.float64)) for x, y in zip(a, b, strict=True)))
