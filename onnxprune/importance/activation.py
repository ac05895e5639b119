"""Importance criteria from activations, one pure function per criterion.

Each takes the layers that read the channels of a group (the consumers) and sums the score over them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.importance.magnitude import Scores
from onnxprune.importance.obs import Consumer


def wanda(consumers: Sequence[Consumer]) -> Scores:
    """Magnitude of the consumers' weights times the norm of their inputs.

    ``sum over columns of |W_c|_1 sqrt(E[x_c^2])`` (Sun et al., "A simple and effective pruning approach for large
    language models", ICLR 2024): the score ``|w| |x|`` of a single weight, summed over the weights of a unit.

    Args:
        consumers: The layers that read the group.

    Returns:
        Score of each unit; shape (units,).
    """
    return _sum_over_units(
        consumers, [np.abs(c.weight).sum(axis=0) * np.sqrt(np.diag(c.covariance) + c.mean**2) for c in consumers]
    )


def flap(consumers: Sequence[Consumer]) -> Scores:
    """Variance of a channel times the squared norm of the consumers' weights; a bias compensates the mean.

    ``sum over columns of Var[x_c] |W_c|_2^2`` (An et al., "Fluctuation-based adaptive structured pruning for large
    language models", AAAI 2024).

    Args:
        consumers: The layers that read the group.

    Returns:
        Score of each unit; shape (units,).
    """
    return _sum_over_units(consumers, [np.diag(c.covariance) * np.square(c.weight).sum(axis=0) for c in consumers])


def apoz(consumers: Sequence[Consumer]) -> Scores:
    """Share of nonzero activations: one minus the average percentage of zeros (APoZ).

    Hu et al., "Network trimming", 2016. Zeros of padding are counted too, for all channels of a layer alike.

    Args:
        consumers: The layers that read the group.

    Returns:
        Score of each unit, from 0 to 1; shape (units,).
    """
    return _sum_over_units(consumers, [(1 - c.zeros) / max(c.columns.shape[1] * len(consumers), 1) for c in consumers])


def standardised(scores: Sequence[Scores]) -> list[Scores]:
    """Standardizes scores per group (mean 0, standard deviation 1, as in FLAP) to compare them across groups.

    All scores are then shifted by the same constant so that none is negative and their squares rank alike. Infinite
    scores stay infinite and do not change those of the other units.
    """
    centred = [_standardised(s, s[np.isfinite(s)]) for s in scores]
    least = min((float(s[np.isfinite(s)].min(initial=np.inf)) for s in centred), default=np.inf)
    return [s - least if np.isfinite(least) else s for s in centred]


def _standardised(scores: Scores, finite: Scores) -> Scores:
    return (scores - finite.mean()) / max(float(finite.std()), 1e-30) if len(finite) else scores


def _sum_over_units(consumers: Sequence[Consumer], columns: Sequence[Scores]) -> Scores:
    """Sums the scores of the columns of each consumer over each unit's columns, and over the consumers."""
    sums = [values[c.columns].sum(axis=1) for c, values in zip(consumers, columns, strict=True)]
    total: Scores = np.sum(sums, axis=0)
    return total
