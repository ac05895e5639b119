"""Ridge least squares of a linear layer, from samples.

Minimises ``|Y - X W^T - b|^2 + penalty |W - W0|^2``: centred on the current weight, so that directions which the data
do not show stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.storable import storable
from onnxprune.runtime.parallel import in_order
from onnxprune.statistics.covariance import PART, Centred, Floats

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
"""Tried in turn, each a share of the mean variance of the inputs; the held-out samples choose. The strongest ones
leave the weights nearly as they are and move the biases alone."""
CONSTANT = 1e-12
"""Targets whose variance is below this share of their mean square are constant: the rest is the rounding of float32."""


@dataclass(frozen=True)
class LayerSamples:
    """Samples of a layer.

    Attributes:
        x: Inputs; shape (groups, n, columns).
        y: Targets for the layer's output plus `offset`; shape (groups, n, outputs).
        offset: What the graph adds to the layer's output; the same shape, or one number.
        low: Lower clipping bound of the following activation: 0 for a Relu, -inf for none.
        high: Upper clipping bound.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    offset: NDArray[np.float32] | float = 0.0
    low: float = -np.inf
    high: float = np.inf

    @property
    def count(self) -> int:
        """Number of samples."""
        return int(self.x.shape[1])

    @property
    def is_clipped(self) -> bool:
        """Whether an activation that clips follows."""
        return bool(np.isfinite(self.low) or np.isfinite(self.high))

    def predict(self, weight: Floats, bias: Floats) -> NDArray[np.float32]:
        """Output of the layer on the inputs, plus the offset."""
        made: NDArray[np.float32] = self.x @ weight.transpose(0, 2, 1).astype(np.float32)
        made += bias[:, None].astype(np.float32)
        made += self.offset
        return made

    def seen(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values clipped as the following activation does."""
        return np.clip(values, self.low, self.high)

    def error(self, weight: Floats, bias: Floats) -> float:
        """Mean squared error of the clipped outputs, as a share of their variance, or else mean square."""
        target, variation = self._seen_targets
        wrong = np.square(target - self.seen(self.predict(weight, bias)), dtype=np.float64).sum()
        return float(wrong / variation)

    @cached_property
    def _seen_targets(self) -> tuple[NDArray[np.float32], float]:
        """The clipped targets, and the sum of their squares about their means; about zero where they are constant."""
        target = self.seen(self.y)
        spread = float(np.square(target - target.mean(axis=1, keepdims=True), dtype=np.float64).sum())
        whole = float(np.square(target, dtype=np.float64).sum())
        return target, max(spread if spread > CONSTANT * whole else whole, 1e-30)

    def reachable(self, weight: Floats, bias: Floats) -> NDArray[np.float32]:
        """Targets for the layer, equal to its prediction where target and prediction are beyond the same bound."""
        wanted = np.empty_like(self.y)

        def fill(start: int) -> None:
            some = self.cut(start, start + PART)
            made = some.predict(weight, bias)
            beyond = ((some.y <= self.low) & (made <= self.low)) | ((some.y >= self.high) & (made >= self.high))
            wanted[:, start : start + PART] = np.where(beyond, made, some.y) - some.offset

        for _ in in_order(fill, range(0, self.count, PART)):
            pass
        return wanted

    def cut(self, start: int, stop: int) -> LayerSamples:
        """The samples of a range, without a copy."""
        offset = self.offset if isinstance(self.offset, float) else self.offset[:, start:stop]
        return replace(self, x=self.x[:, start:stop], y=self.y[:, start:stop], offset=offset)

    def joined(self, other: LayerSamples) -> LayerSamples:
        """These samples followed by others of the same layer; without a copy where both are cut out of the same."""
        offset = self.offset if isinstance(self.offset, float) else _followed_by(self.offset, np.asarray(other.offset))
        return replace(self, x=_followed_by(self.x, other.x), y=_followed_by(self.y, other.y), offset=offset)

    @property
    def wanted(self) -> NDArray[np.float32]:
        """Targets for the layer alone, without the offset."""
        return self.y if isinstance(self.offset, float) and self.offset == 0 else self.y - self.offset


def _followed_by(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Two arrays joined along axis 1; the array that they are the two parts of, if they are."""
    base = first.base
    if isinstance(base, np.ndarray) and base is second.base and first.shape[1] + second.shape[1] == base.shape[1]:
        split = first.shape[1]
        parts = base[:, :split], base[:, split:]
        if all(_same_memory(a, b) for a, b in zip((first, second), parts, strict=True)):
            return base
    return np.concatenate([first, second], axis=1)


def _same_memory(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return bool(
        a.__array_interface__["data"] == b.__array_interface__["data"] and (a.shape, a.strides) == (b.shape, b.strides)
    )


@storable
@dataclass(frozen=True)
class Fit:
    """A refitted layer.

    Attributes:
        weight: Shape (groups, outputs, columns).
        bias: Shape (groups, outputs).
        penalty: The chosen ridge, None where no refit was better than the original layer.
        before: Held-out error of the original layer, as a share of the targets' variance.
        after: Held-out error of the refitted layer.
    """

    weight: Floats
    bias: Floats
    penalty: float | None
    before: float
    after: float


ROUNDS = 6
"""Maximum number of fits where an activation hides a part of the error; each starts from the previous one."""
PATIENCE = 2
"""So many ridges in a row that are no better than the best end the search."""
AHEAD = 2
"""Ridges that are tried at a time."""
GAIN = 2e-3
"""A round that takes less than this share off the error is the last one."""


def fit(
    rows: LayerSamples,
    held: LayerSamples,
    weight: Floats,
    bias: Floats,
    *,
    intercept: bool = True,
    penalties: Sequence[float] = PENALTIES,
) -> Fit:
    """The refit with the smallest held-out error, or the original layer if none is better.

    Where a rectifier follows, an error below zero on both sides is none: the fit is repeated with targets that ask
    for nothing there (a majorisation of the error after the activation; compare Zhang et al., "Accelerating very
    deep convolutional networks", PAMI 2016). The error that is minimised has more than one dip, so it is gone down
    from two starting points: the plain fit, and the layer as it is.

    Once the held-out samples have chosen the ridge, they join the others for the weights.

    Args:
        rows: Samples to fit.
        held: Held-out samples.
        weight: Weight to centre on; shape (groups, outputs, columns).
        bias: The current bias; shape (groups, outputs).
        intercept: Whether the bias may change.
        penalties: Ridges to try.
    """
    error = held.error(weight, bias)
    before = Fit(weight, bias, None, error, error)
    problem = Problem(rows, weight, bias, intercept)
    starts = [rows.wanted, *([rows.reachable(weight, bias)] if rows.is_clipped else [])]
    best = before
    for plain in _plain(problem, starts, before, held, penalties):
        found = _bent(problem, plain, held) if rows.is_clipped else plain
        best = found if found.after < best.after else best
    if best.penalty is None or rows is held:
        return best
    full = rows.joined(held)
    target = full.reachable(best.weight, best.bias) if rows.is_clipped else full.wanted
    new, shift = problem.joined(held, full).solution(target, best.penalty)
    return replace(best, weight=new, bias=shift)


def _plain(
    problem: Problem,
    targets: Sequence[NDArray[np.float32]],
    before: Fit,
    held: LayerSamples,
    penalties: Sequence[float],
) -> list[Fit]:
    """The ridge with the smallest held-out error, for each target.

    Ridges are tried from the strongest to the weakest, `AHEAD` at a time so that several cores have work; what counts
    is the same as if they were tried one by one.
    """
    products = [problem.products(target) for target in targets]
    best, worse = [before] * len(targets), [0] * len(targets)

    def tried(task: tuple[int, float]) -> Fit:
        new, shift = problem.solved(products[task[0]], task[1])
        return Fit(new, shift, task[1], before.before, held.error(new, shift))

    ordered = sorted(penalties, reverse=True)
    for start in range(0, len(ordered), AHEAD):
        problem.invert(ordered[start : start + AHEAD])
        going = [i for i in range(len(targets)) if worse[i] < PATIENCE]
        tasks = [(i, penalty) for penalty in ordered[start : start + AHEAD] for i in going]
        for (i, _), found in zip(tasks, in_order(tried, tasks), strict=True):
            if worse[i] < PATIENCE:
                worse[i] = 0 if found.after < best[i].after else worse[i] + 1
                best[i] = found if not worse[i] else best[i]
        problem.forget({one.penalty for one in best})
    return best


def _bent(problem: Problem, start: Fit, held: LayerSamples) -> Fit:
    """Repeated fits from a starting point, with targets that ask for nothing where an activation hides the error."""
    best = start
    for _ in range(ROUNDS if start.penalty is not None else 0):
        assert best.penalty is not None
        new, shift = problem.solution(problem.rows.reachable(best.weight, best.bias), best.penalty)
        after = held.error(new, shift)
        gained = after < (1 - GAIN) * best.after
        if after < best.after:
            best = replace(best, weight=new, bias=shift, after=after)
        if not gained:
            break
    return best


class Problem:
    """Least-squares problem of a layer, centred on its current weight; the moments of the samples are computed once.

    Attributes:
        rows: The samples.
        mean: Mean of the inputs; shape (groups, columns).
        gram: Gram matrix of the inputs, centred where the bias is free; shape (groups, columns, columns).
    """

    def __init__(
        self, rows: LayerSamples, weight: Floats, bias: Floats, intercept: bool, seen: Centred | None = None
    ) -> None:
        """Keeps the samples and their moments.

        Args:
            rows: The samples.
            weight: The current weight; shape (groups, outputs, columns).
            bias: The current bias; shape (groups, outputs).
            intercept: Whether the bias may change.
            seen: Moments of the inputs, where they are known.
        """
        self.rows = rows
        self._weight, self._bias, self._intercept = weight, bias, intercept
        self._seen = seen or Centred.of(rows.x)
        self.mean = self._seen.mean
        self.gram = self._seen.covariance if intercept else self.second
        self._inverses: dict[float, Floats] = {}

    @property
    def second(self) -> Floats:
        """Second moments of the inputs; shape (groups, columns, columns)."""
        return self._seen.covariance + self.mean[:, :, None] * self.mean[:, None]

    def joined(self, held: LayerSamples, full: LayerSamples) -> Problem:
        """The problem of these samples followed by others.

        Args:
            held: The others.
            full: All of them.
        """
        seen = self._seen.joined(Centred.of(held.x), full.x)
        return Problem(full, self._weight, self._bias, self._intercept, seen)

    def ridge(self, penalty: float) -> Floats:
        """The Gram matrix with a ridge."""
        return self.gram + ridge(self.gram, penalty)

    def invert(self, penalties: Sequence[float]) -> None:
        """Computes what `solved` needs for some ridges, on all cores."""
        missing = [penalty for penalty in penalties if penalty not in self._inverses]
        inverses: Iterator[Any] = in_order(lambda penalty: np.linalg.inv(self.ridge(penalty)), missing)
        for penalty, inverse in zip(missing, inverses, strict=True):
            self._inverses[penalty] = inverse

    def forget(self, but: Collection[float | None]) -> None:
        """Releases what `invert` computed, but for some ridges."""
        self._inverses = {penalty: inverse for penalty, inverse in self._inverses.items() if penalty in but}

    def products(self, target: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """Cross moments of a target with the inputs, less those of the current weight, and the bias at no inputs."""
        xy, mean = self._seen.cross(target)
        if not self._intercept:
            xy += self.mean[:, :, None] * (mean - self._bias)[:, None]
            mean = self._bias
        return xy - self.gram @ self._weight.transpose(0, 2, 1), mean

    def solved(self, products: tuple[Floats, Floats], penalty: float) -> tuple[Floats, Floats]:
        """Weight and bias for some `products`."""
        self.invert([penalty])
        left, mean = products
        new = self._weight + (self._inverses[penalty] @ left).transpose(0, 2, 1)
        return new, self.bias(new, mean) if self._intercept else self._bias

    def solution(self, target: NDArray[np.float32], penalty: float) -> tuple[Floats, Floats]:
        """Weight and bias for a target."""
        return self.solved(self.products(target), penalty)

    def bias(self, weight: Floats, mean: Floats) -> Floats:
        """The bias with which the mean of the layer's output is `mean`; shape (groups, outputs)."""
        found: Floats = mean - np.einsum("goi,gi->go", weight, self.mean)
        return found


def ridge(gram: Floats, penalty: float) -> Floats:
    """A multiple of the identity: a share of the mean variance of the inputs.

    Args:
        gram: Gram matrix of the inputs; shape (groups, columns, columns).
        penalty: The share.
    """
    scale = np.maximum(np.trace(gram, axis1=1, axis2=2) / gram.shape[1], 1e-12)
    found: Floats = (penalty * scale)[:, None, None] * np.eye(gram.shape[1])
    return found
