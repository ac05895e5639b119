"""Ridge least squares of a linear layer, from samples.

Minimises ``|Y - X W^T - b|^2 + penalty |W - W0|^2``: centred on the current weight, so that directions which the data
do not show stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.storable import storable
from onnxprune.repair.layer_samples import LayerSamples
from onnxprune.repair.normal_equations import Problem
from onnxprune.runtime.parallel import in_order
from onnxprune.statistics.covariance import Floats

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
"""Tried in turn, each a share of the mean variance of the inputs; the held-out samples choose. The strongest ones
leave the weights nearly as they are and move the biases alone."""


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
    problem: Problem | None = None,
    rounds: int = ROUNDS,
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
        problem: The problem of these samples, weights and bias, where its moments are computed already.
        rounds: How often a fit is repeated at most where an activation hides a part of the error.
    """
    error = held.error(weight, bias)
    before = Fit(weight, bias, None, error, error)
    problem = problem or Problem(rows, weight, bias, intercept)
    starts = [rows.wanted, *([rows.reachable(weight, bias)] if rows.is_clipped else [])]
    best = before
    for plain in _plain(problem, starts, before, held, penalties):
        found = _bent(problem, plain, held, rounds) if rows.is_clipped else plain
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
    best, worse, least = [before] * len(targets), [0] * len(targets), [np.inf] * len(targets)

    def tried(task: tuple[int, float]) -> Fit:
        new, shift = problem.solved(products[task[0]], task[1])
        return Fit(new, shift, task[1], before.before, held.error(new, shift))

    ordered = sorted(penalties, reverse=True)
    for start in range(0, len(ordered), AHEAD):
        problem.invert(ordered[start : start + AHEAD])
        going = [i for i in range(len(targets)) if worse[i] < PATIENCE]
        tasks = [(i, penalty) for penalty in ordered[start : start + AHEAD] for i in going]
        for (i, _), found in zip(tasks, in_order(tried, tasks), strict=True):
            if worse[i] < PATIENCE:  # the strongest ridges may only shift the mean, and be no better than nothing
                worse[i] = 0 if found.after < least[i] else worse[i] + 1
                least[i] = min(least[i], found.after)
                best[i] = found if found.after < best[i].after else best[i]
        problem.forget({one.penalty for one in best})
    return best


def _bent(problem: Problem, start: Fit, held: LayerSamples, rounds: int) -> Fit:
    """Repeated fits from a starting point, with targets that ask for nothing where an activation hides the error."""
    best = start
    for _ in range(rounds if start.penalty is not None else 0):
        assert best.penalty is not None
        new, shift = problem.solution(problem.rows.reachable(best.weight, best.bias), best.penalty)
        after = held.error(new, shift)
        gained = after < (1 - GAIN) * best.after
        if after < best.after:
            best = replace(best, weight=new, bias=shift, after=after)
        if not gained:
            break
    return best
