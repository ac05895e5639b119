"""Importance by what calibration data make of a channel, one pure function a criterion.

Each is told the layers that read the channels of a group, and sums over them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.importance.magnitude import Scores
from onnxprune.importance.obs import Consumer


def wanda(consumers: Sequence[Consumer]) -> Scores:
    """Size of the weights that read a channel, times the norm of what they read.

    ``sum over columns of |W_c|_1 sqrt(E[x_c^2])`` (Sun et al., "A simple and effective pruning approach for large
    language models", ICLR 2024, whose score of one weight is ``|w| |x|``, summed over what goes with a channel).
    """
    return _over_units(
        consumers, [np.abs(c.weight).sum(axis=0) * np.sqrt(np.diag(c.covariance) + c.mean**2) for c in consumers]
    )


def flap(consumers: Sequence[Consumer]) -> Scores:
    """How much a channel fluctuates around its mean, which a bias can make up for, times what its readers make of that.

    ``sum over columns of Var[x_c] |W_c|_2^2`` (An et al., "Fluctuation-based adaptive structured pruning for large
    language models", AAAI 2024).
    """
    return _over_units(consumers, [np.diag(c.covariance) * np.square(c.weight).sum(axis=0) for c in consumers])


def apoz(consumers: Sequence[Consumer]) -> Scores:
    """How often a channel is not zero where it is read: one less the average percentage of zeros.

    Hu et al., "Network trimming", 2016. A padded border counts, for all channels of a layer alike.
    """
    return _over_units(consumers, [(1 - c.zeros) / max(c.columns.shape[1] * len(consumers), 1) for c in consumers])


def standardised(scores: Sequence[Scores]) -> list[Scores]:
    """Scores that compare across groups: of mean zero and deviation one in each, then lifted together to zero or more.

    The standardisation is that of FLAP; what is not negative ranks the same, and may be squared.
    """
    centred = [(s - s.mean()) / max(float(s.std()), 1e-30) for s in scores]
    least = min((float(s.min()) for s in centred if len(s)), default=0.0)
    return [s - least for s in centred]


def _over_units(consumers: Sequence[Consumer], columns: Sequence[Scores]) -> Scores:
    """Sums of what each column is worth over the columns of each unit."""
    owned = [values[c.columns].sum(axis=1) for c, values in zip(consumers, columns, strict=True)]
    total: Scores = np.sum(owned, axis=0)
    return total
