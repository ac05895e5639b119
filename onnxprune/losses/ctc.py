"""Connectionist temporal classification: the loss of sequences that are not aligned with their labels.

Graves et al., "Connectionist temporal classification: labelling unsegmented sequence data with recurrent neural
networks", ICML 2006. The likelihood of a labelling is the sum over all its alignments, by a forward and a backward pass
over the labels with blanks in between; the gradient with respect to the scores is the probability of a class less the
share of the alignments that pass through it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.verification.decisions import log_softmax

Array = NDArray[Any]
Floats = NDArray[np.float64]

NEVER = -1e30
"""Logarithm of the probability of what cannot happen."""


def ctc(scores: Array, labels: Array, blank: int = 0) -> tuple[float, Floats]:
    """The negative log-likelihood of one labelling, and its gradient.

    Args:
        scores: Scores of the classes, before or after a log-softmax; shape (steps, classes).
        labels: The classes in their order, without blanks; shape (length,). Negative numbers at the end pad them.
        blank: The class of the blank.

    Returns:
        The loss and its gradient of the shape of the scores; zero for a labelling that needs more steps than there are.
    """
    given = labels[: _length(labels)].astype(np.int64)
    log_p = log_softmax(scores.astype(np.float64), 1)
    states = np.full(2 * len(given) + 1, blank)
    states[1::2] = given
    emitted = log_p[:, states]
    skips = np.zeros(len(states), dtype=bool)  # whether the blank before a state can be left out
    skips[3::2] = given[1:] != given[:-1]
    forward = _forward(emitted, skips)
    back = np.append(skips, [False, False])[2:]  # the same from the end: whether the blank after a state can be
    backward = _forward(emitted[::-1, ::-1], back[::-1])[::-1, ::-1]
    likelihood = float(np.logaddexp.reduce(forward[-1, -2:]))
    if likelihood < NEVER / 2:
        return 0.0, np.zeros(scores.shape)
    shares = np.exp(np.clip(forward + backward - emitted - likelihood, -700, 0))
    gradient: Floats = np.exp(log_p)
    np.subtract.at(gradient.T, states, shares.T)
    return -likelihood, gradient


def _length(labels: Array) -> int:
    padding = np.flatnonzero(labels < 0)
    return int(padding[0]) if len(padding) else len(labels)


def _forward(emitted: Floats, skips: NDArray[np.bool_]) -> Floats:
    """Logarithm of the probability of all ways to each state at each step; shape (steps, states)."""
    found = np.full(emitted.shape, NEVER)
    found[0, :2] = emitted[0, :2]
    for t in range(1, len(emitted)):
        before = found[t - 1]
        stepped = np.append(NEVER, before[:-1])
        skipped = np.where(skips, np.append([NEVER, NEVER], before[:-2])[: len(before)], NEVER)
        found[t] = np.maximum(np.logaddexp(np.logaddexp(before, stepped), skipped) + emitted[t], NEVER)
    return found
