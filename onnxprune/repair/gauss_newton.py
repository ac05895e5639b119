"""Refits the layers of a chain together, so that the output of the last one is close to the original's.

Least squares in all weights at once: Gauss-Newton steps, damped as by Levenberg and Marquardt, each solved by conjugate
gradients. These are preconditioned, layer by layer, with the second moments of what a layer reads and of what of its
outputs reaches the end (the factors of Martens and Grosse, "Optimizing neural networks with Kronecker-factored
approximate curvature", ICML 2015), which few samples tell. The right side of the equations is that of all samples;
their matrix is that of a part of them, where these are many for the number of weights (Byrd, Chin, Neveitt and Nocedal,
"On the use of stochastic Hessian information in optimization methods for machine learning", SIAM Journal on
Optimization 2011). Like the fit of one layer it needs the inputs alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.storable import storable
from onnxprune.repair.chain_function import ChainFunction, FeatureMaps, Floats, Function, Weights, along
from onnxprune.runtime.parallel import in_order

F = TypeVar("F", np.float32, np.float64)
Doubles = NDArray[np.float64]

STEPS, SOLVES = 2, 4
"""Gauss-Newton steps at most, and conjugate gradients in each; more of these come closer to the samples alone."""
SHARES = (1.0, 0.5)
"""How much of a step is tried."""
PENALTY, DAMPING_DECREASE, DAMPING_INCREASE = 1e-2, 0.3, 10.0
"""The first ridge, as a share of the mean second moment; factors after a success and after a failure."""
GAIN = 2e-2
"""A step that takes less than this share off the error is the last one."""
FD_STEP = 1e-3
"""Step of the finite difference for slopes, as a share of the standard deviation."""
EQUATIONS, SPARSEST = 25, 4
"""Equations for each weight that give the matrix; every so many parts do at most."""
POSITIONS = 30
"""Positions for each column that give the preconditioner, where there are more."""
SHRINKAGE, WIDEST = 0.1, 2048
"""Share of the diagonal in the output Gram matrices, which a probe only estimates; with more outputs all of it."""


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
    problem: _Step | None = None
    for step in range(STEPS):
        problem = problem or _Step(chain, best.weights, parts, [*seed, step])
        change = problem.solved(penalty)
        trials = [[w + np.float32(share) * c for w, c in zip(best.weights, change, strict=True)] for share in SHARES]
        errors = [chain.error(trial, judges, variation) for trial in trials]
        i = int(np.argmin(np.nan_to_num(errors, nan=np.inf)))
        if errors[i] < best.after:
            small = errors[i] > (1 - GAIN) * best.after
            best, problem = Refined(trials[i], penalty, before, errors[i]), None
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

    def factors(self, seed: Sequence[int]) -> tuple[list[Doubles], list[Doubles]]:
        """For each layer the sums of the second moments of its columns and of the derivatives at its outputs.

        The first has shape (groups, columns, columns); the second has (groups, outputs, outputs), or
        (groups, outputs, 1) where these are many: its diagonal.
        """
        rng = np.random.default_rng(list(seed))
        grams = self._output_grams(rng.choice(np.array([-1, 1], dtype=np.float32), self._residual.shape))
        return [x.moments() * (self.positions / x.columns.shape[2]) for x in self._read], grams

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
            step += along(change[2 * i + 1], step.ndim)
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

    def _output_grams(self, probe: Floats) -> list[Doubles]:
        """Gram matrix of the derivatives at each layer's outputs, from one random probe of signs."""
        found: list[Doubles] = []
        for i, g in self._backwards(probe if self._counts is None else probe * self._counts):
            groups = self._chain.operators[i].groups
            flat = g.reshape(groups, len(g) // groups, -1)
            wide = flat.shape[1] > WIDEST
            gram = np.square(flat).sum(axis=2, keepdims=True) if wide else np.matmul(flat, flat.transpose(0, 2, 1))
            found.append(gram.astype(np.float64))
        return found[::-1]

    def _backwards(self, end: Floats) -> Iterator[tuple[int, Floats]]:
        """The derivative at the output of each layer, from the last one to the first."""
        g = end
        for i in reversed(range(len(self._chain.operators))):
            if i < len(self._slopes):
                g = g * self._slopes[i]
            yield i, g
            if i:
                g = self._chain.operators[i].adjoint(self._weights[2 * i], g)


@dataclass(frozen=True)
class _Curvature:
    """What is known of a layer's part of the normal matrix.

    Attributes:
        moments: Mean second moments of its columns; shape (groups, columns, columns).
        size: The mean of their diagonal; shape (groups,).
        squares: Diagonal of the mean Gram matrix of the derivatives at its outputs; shape (groups, outputs, 1).
        outputs: Inverse of that matrix; shape (groups, outputs, outputs), or that of `squares`.
    """

    moments: Doubles
    size: Doubles
    squares: Floats
    outputs: Floats

    @classmethod
    def of(cls, moments: Doubles, gram: Doubles) -> _Curvature:
        """See `_Part.factors`; here means."""
        whole = gram.shape[2] == gram.shape[1]
        squares = np.diagonal(gram, axis1=1, axis2=2)[:, :, None] if whole else gram
        squares = np.maximum(squares, 1e-4 * squares.max() + 1e-20)
        if whole:
            gram = (1 - SHRINKAGE) * gram + SHRINKAGE * squares * np.eye(gram.shape[1])
        outputs = np.linalg.inv(gram) if whole else 1 / squares
        size = np.maximum(np.trace(moments, axis1=1, axis2=2) / moments.shape[1], 1e-12)
        return cls(moments, size, squares.astype(np.float32), outputs.astype(np.float32))

    def inverse(self, penalty: float) -> Floats:
        """Inverse of the moments with a ridge."""
        ridge = (penalty * self.size)[:, None, None] * np.eye(self.moments.shape[1])
        found: Floats = np.linalg.inv(self.moments + ridge).astype(np.float32)
        return found

    def divided(self, values: Floats) -> Floats:
        """Values of each output, divided by the Gram matrix; shape (groups, outputs, any)."""
        whole = self.outputs.shape[2] == self.outputs.shape[1]
        found: Floats = self.outputs @ values if whole else self.outputs * values
        return found


class _Step:
    """The linearised least-squares problem of one step: a sum over parts of the rows."""

    def __init__(
        self, chain: ChainFunction, weights: Weights, parts: Sequence[FeatureMaps], seed: Sequence[int]
    ) -> None:
        every, rough = _strides(chain, weights, parts)

        def linearised(i: int) -> tuple[_Part, Weights, tuple[list[Doubles], list[Doubles]] | None]:
            part = _Part(chain, weights, parts[i])
            return part, part.target(), None if i % rough else part.factors([*seed, i])

        self._parts: list[_Part] = []
        target: Weights = []
        moments: list[Doubles] = []
        grams: list[Doubles] = []
        count = seen = 0
        for i, (part, one, factors) in enumerate(in_order(linearised, range(len(parts)))):
            target, count = _added(target, one), count + part.positions
            if i % every == 0:
                self._parts.append(part)
            if factors is not None:
                moments, grams = _added(moments, factors[0]), _added(grams, factors[1])
                seen += part.positions
        self._target = [a / np.float32(count) for a in target]
        self._n = sum(part.positions for part in self._parts)
        self._layers = [_Curvature.of(m / seen, g / seen) for m, g in zip(moments, grams, strict=True)]

    def solved(self, penalty: float) -> Weights:
        """The step with a ridge, by preconditioned conjugate gradients that start at zero."""
        inverses = [layer.inverse(penalty) for layer in self._layers]
        left = self._target
        x = [np.zeros_like(w) for w in left]
        z = self._precondition(left, inverses)
        p, rz = z, _dot(left, z)
        for _ in range(SOLVES):
            q = self._normal(p, penalty)
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

    def _normal(self, change: Weights, penalty: float) -> Weights:
        """The normal matrix, with its ridge, times a change of the weights."""
        total: Weights = []
        for one in in_order(lambda part: part.normal(change), self._parts):
            total = _added(total, one)
        made = [a / np.float32(self._n) for a in total]
        for i, layer in enumerate(self._layers):
            ridge = (penalty * layer.size)[:, None, None].astype(np.float32) * layer.squares
            made[2 * i] = made[2 * i] + ridge * change[2 * i]
            made[2 * i + 1] = made[2 * i + 1] + np.float32(penalty) * layer.squares.reshape(-1) * change[2 * i + 1]
        return made

    def _precondition(self, left: Weights, inverses: Sequence[Floats]) -> Weights:
        """The block-diagonal preconditioner: layers are treated as independent."""
        found = []
        for i, (layer, inverse) in enumerate(zip(self._layers, inverses, strict=True)):
            bias = left[2 * i + 1].reshape(len(inverse), -1, 1)
            found += [layer.divided(left[2 * i]) @ inverse, layer.divided(bias).reshape(-1)]
        return found


def _strides(chain: ChainFunction, weights: Weights, parts: Sequence[FeatureMaps]) -> tuple[int, int]:
    """Every so many parts give the matrix, and every so many, a multiple of that, the preconditioner."""
    equations, unknowns = sum(maps.y.size for maps in parts), sum(w.size for w in weights)
    every = max(1, min(SPARSEST, equations // (EQUATIONS * unknowns)))
    positions = sum(maps.y[0].size for maps in parts[::every])
    return every, every * max(1, positions // (POSITIONS * max(op.columns for op in chain.operators)))


def _added(total: list[NDArray[F]], more: Sequence[NDArray[F]]) -> list[NDArray[F]]:
    """Arrays plus others of the same shapes; the others where there are none yet."""
    return [a + b for a, b in zip(total, more, strict=True)] if total else list(more)


def _slope(function: Function, z: Floats) -> Floats:
    """Derivative of an element-wise function, by central differences."""
    step = np.float32(FD_STEP * max(float(z.std()), 1e-6))
    slope: Floats = (function(z + step) - function(z - step)) / (2 * step)
    return slope


def _dot(a: Weights, b: Weights) -> float:
    return float(sum(np.vdot(x.astype(np.float64), y.astype(np.float64)) for x, y in zip(a, b, strict=True)))
