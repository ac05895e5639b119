"""Fits linear layers that keep only some of their weights, within the layer-wise repair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnxprune.extensions.patterns import Pattern
from onnxprune.extensions.points import Criterion, criteria
from onnxprune.importance.element_scores import element_scores
from onnxprune.layers.linear import LinearLayer
from onnxprune.repair.layer_samples import LayerSamples
from onnxprune.repair.layerwise import Ridge
from onnxprune.repair.least_squares import Fit, fit
from onnxprune.repair.normal_equations import Problem, ridge
from onnxprune.runtime.parallel import in_order
from onnxprune.sparsity.solvers import alps, refine, select, sparsegpt, wanda
from onnxprune.statistics.covariance import Floats, mean
from onnxprune.statistics.moments import Moments

LEAST = 1e-3
"""The weakest ridge that zeros are chosen with, as a share of the mean variance of the inputs."""
STRONGER = (1e-2, 1e-1, 1.0, 10.0)
"""Ridges for where a weak one does worse than zeros of the smallest alone, on the held-out samples."""
WIDEST = 2048
"""Columns up to which a Gram matrix is decomposed."""
ROUNDS = 2
"""Refits that count only the part of the error that passes the activation."""


@dataclass(frozen=True)
class Zeros:
    """Which weights of which layers become zero.

    Attributes:
        method: ``l1`` or ``l2`` (magnitude), ``wanda``, ``sparsegpt``, ``alps``; ``obs`` is the best of the last two;
            or the name of another criterion of elements.
        layers: The pattern of each product layer that is to have zeros, by name, and of each constant of a recurrent
            layer, by key; the others are refitted whole.
        bias_only: The zeros are in place already: change nothing but biases.
        masks: Zeros of product layers that are chosen already, by name; each of the shape of the stored weight.
    """

    method: str
    layers: Mapping[str, Pattern]
    bias_only: bool = False
    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    def product(
        self, layer: LinearLayer, rows: LayerSamples, held: LayerSamples, weight: Floats, bias: Floats, free: bool
    ) -> Fit:
        """See `layerwise.Fitter`."""
        if self.bias_only or layer.name not in self.layers:
            return self.matrix(layer.name, rows, held, weight, bias, free)
        channels, turn = channels_first(layer)
        gone = layer.matrix(self.masks[layer.name])[:, :, turn] != 0 if layer.name in self.masks else None
        samples = _turned(rows, turn), _turned(held, turn)
        pattern, turned = self.layers[layer.name], weight[:, :, turn]
        best = _Matrices(self.method, pattern, *samples, turned, bias, free, channels, gone).fitted()
        return replace(best, weight=best.weight[:, :, np.argsort(turn)])

    def matrix(self, key: str, rows: LayerSamples, held: LayerSamples, weight: Floats, bias: Floats, free: bool) -> Fit:
        """See `layerwise.Fitter`."""
        if self.bias_only:
            if not (rows.count and held.count):
                return Fit(weight, bias, None, 0.0, 0.0)
            before, shift = held.error(weight, bias), _bias(rows, weight) if free else bias
            after = held.error(weight, shift)
            return Fit(weight, shift, 0.0, before, after) if after < before else Fit(weight, bias, None, before, before)
        if key not in self.layers:
            return Ridge().matrix(key, rows, held, weight, bias, free)
        pattern, channels = self.layers[key], weight.shape[2]
        return _Matrices(self.method, pattern, rows, held, weight, bias, free, channels).fitted()


@dataclass(frozen=True)
class _Matrices:
    """The matrices of one layer that are to have zeros, and the samples that they are chosen by.

    Attributes:
        method: See `Zeros`.
        pattern: The pattern.
        rows: Samples to fit.
        held: Held-out samples.
        weight: The matrices; shape (groups, outputs, columns).
        bias: The bias; shape (groups, outputs).
        free: Whether the bias may change.
        channels: Inputs at one kernel position.
        gone: The zeros, where they are chosen already.
    """

    method: str
    pattern: Pattern
    rows: LayerSamples
    held: LayerSamples
    weight: Floats
    bias: Floats
    free: bool
    channels: int
    gone: NDArray[np.bool_] | None = None

    def fitted(self) -> Fit:
        """The candidate with the smallest held-out error; where there are no samples, by the weights alone."""
        criterion = criteria.get(self.method)
        by_weights = criterion.needs == "weights"
        plain = self._with_zeros(element_scores(criterion, self.weight) if by_weights else np.abs(self.weight))
        if not (self.rows.count and self.held.count):
            return Fit(plain, self.bias, 0.0, 0.0, 0.0)
        before = self.held.error(plain, self.bias)
        problem = Problem(self.rows, self.weight, self.bias, self.free)
        dense = fit(self.rows, self.held, self.weight, self.bias, intercept=self.free, problem=problem)
        reached = self.rows.wanted if dense.penalty is None else self.rows.reachable(dense.weight, dense.bias)
        tried = partial(self._tried, problem, reached, before)
        weak = sorted({LEAST, max(dense.penalty or LEAST, LEAST)})
        best = min(in_order(tried, weak), key=lambda one: one.after)
        for penalty in (p for p in STRONGER if p > weak[-1]):
            if best.after <= before:
                break
            best = min(best, tried(penalty), key=lambda one: one.after)
        if best.after > before:  # plain zeros are better on samples that no fit has seen
            return Fit(plain, self.bias, 0.0, before, before)
        return best

    def _with_zeros(self, scores: Floats) -> Floats:
        """The matrices with the zeros that are chosen already, else where the scores are lowest."""
        gone = select(scores, self.pattern, self.channels) if self.gone is None else self.gone
        return np.where(gone, 0, self.weight)

    def _tried(self, problem: Problem, reached: NDArray[np.float32], before: float, penalty: float) -> Fit:
        """The best candidate with a ridge."""
        best: Fit | None = None
        wanted = mean(self.rows.wanted)
        gram = problem.ridge(penalty)
        target = self._dense(problem, reached, gram)
        chosen = self.method, self.pattern, self.channels, target, gram, self.weight, problem.second, self.gone
        for made in candidates(*chosen):
            keep, now = made != 0, made
            for left in range(ROUNDS if self.rows.is_clipped else 0, -1, -1):
                shift = problem.bias(now, wanted) if self.free else self.bias
                after = self.held.error(now, shift)
                if best is None or after < best.after:
                    best = Fit(now, shift, penalty, before, after)
                if left:
                    now = refine(now, self._dense(problem, self.rows.reachable(now, shift), gram), gram, keep)
        assert best is not None
        return best

    def _dense(self, problem: Problem, target: NDArray[np.float32], gram: Floats) -> Floats:
        """The dense least-squares weight for a target, centred on the current weight."""
        step = np.linalg.solve(gram, problem.products(target)[0])
        found: Floats = self.weight + step.transpose(0, 2, 1)
        return found


def candidates(
    method: str,
    pattern: Pattern,
    channels: int,
    target: Floats,
    gram: Floats,
    weight: Floats,
    second: Floats,
    gone: NDArray[np.bool_] | None = None,
) -> Iterator[Floats]:
    """Candidate weights with zeros.

    Args:
        method: See `Zeros`.
        pattern: The pattern.
        channels: Inputs at one kernel position.
        target: Weight to approximate; shape (groups, outputs, columns).
        gram: Gram matrix of the inputs, which weights the errors; shape (groups, columns, columns).
        weight: The current weight.
        second: Second moments of the columns, for Wanda.
        gone: The zeros, where they are chosen already.
    """
    if gone is not None:
        yield refine(np.where(gone, 0, target), target, gram, ~gone)
        return
    groups, _, columns = weight.shape
    criterion = criteria.get(method)
    if method == "wanda" or criterion.needs == "weights" or criterion.elements is not None:
        if method == "wanda":
            gone = wanda(weight, second, pattern, channels)
        else:
            gone = select(_scores(criterion, weight, second), pattern, channels)
        yield refine(np.where(gone, 0, target), target, gram, ~gone)
        return
    small = columns <= WIDEST
    if method == "sparsegpt" or not small or (method == "obs" and groups == 1):
        swept = np.stack([sparsegpt(w, g, pattern, channels, damp=0) for w, g in zip(target, gram, strict=True)])
        # what a sweep leaves is not yet the best: columns make up for others that go later themselves
        yield swept if method == "sparsegpt" and not small else refine(swept, target, gram, swept != 0)
    if method != "sparsegpt" and small:
        yield alps(target, gram, pattern, channels)


def _scores(criterion: Criterion, weight: Floats, second: Floats) -> Floats:
    """Scores of the elements of matrices; shape of the weight."""
    if criterion.needs == "weights":
        return element_scores(criterion, weight)
    mean_square = np.diagonal(second, axis1=1, axis2=2)[:, None]
    return element_scores(criterion, weight, np.sqrt(np.maximum(mean_square, 0)))


def zeroed(layer: LinearLayer, method: str, pattern: Pattern, weight: Floats, seen: Moments) -> Floats:
    """Matrices of a layer with zeros, the others refitted to its original output; shape (groups, outputs, columns).

    Args:
        layer: The layer.
        method: See `Zeros`.
        pattern: The pattern.
        weight: Its matrices.
        seen: Moments of its inputs.
    """
    channels, turn = channels_first(layer)
    n = max(seen.count, 1)
    second = seen.gram[:, turn][:, :, turn] / n
    gram = np.stack([seen.covariance(g) for g in range(layer.groups)])[:, turn][:, :, turn]
    gram = gram + ridge(gram, LEAST)
    turned = weight[:, :, turn]
    made = list(candidates(method, pattern, channels, turned, gram, turned, second))
    wrong = [float((((m - turned) @ gram) * (m - turned)).sum()) for m in made]
    best: Floats = made[int(np.argmin(wrong))][:, :, np.argsort(turn)]
    return best


def channels_first(layer: LinearLayer) -> tuple[int, NDArray[np.int64]]:
    """Inputs at one kernel position, and the order of columns in which those of each position are adjacent."""
    positions = int(np.prod(layer.kernel))
    channels = layer.features[0] // layer.groups
    return channels, np.arange(channels * positions).reshape(channels, positions).T.ravel()


def _bias(rows: LayerSamples, weight: Floats) -> Floats:
    """The bias with which the output's mean is that of the targets."""
    found: Floats = mean(rows.wanted) - np.einsum("goi,gi->go", weight, mean(rows.x))
    return found


def _turned(rows: LayerSamples, turn: NDArray[np.int64]) -> LayerSamples:
    """The samples with their columns permuted."""
    return LayerSamples(np.ascontiguousarray(rows.x[:, :, turn]), rows.y, rows.offset, rows.low, rows.high)
