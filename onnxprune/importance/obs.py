"""Structured optimal brain surgeon: what the consumers of a channel lose when it goes and the rest makes up for it.

Removing the columns Q of a linear layer with weight W and input covariance H costs ``tr(W_Q [H^-1]_QQ^-1 W_Q^T)`` once
the other columns are refitted (Hassibi and Stork, "Second order derivatives for network pruning", NIPS 1992; with
whole blocks of columns: Kurtic et al., "ZipLM", NeurIPS 2023). After every removal W and H^-1 are brought up to date
(a Schur downdate), so that of two channels that say the same only one is cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Index = NDArray[np.int64]

DAMPING = 1e-2
"""Ridge on the covariance, as a share of its mean diagonal."""
STEPS = 48
"""A group is worked off in about so many steps; within a step the scores are not re-evaluated."""


@dataclass
class Consumer:
    """A linear layer that reads the channels of a group.

    Attributes:
        weight: Weight as a matrix; shape (outputs, columns).
        covariance: Covariance of its inputs; shape (columns, columns).
        columns: The columns that each unit owns; shape (units, columns a unit).
        mean: Mean of its inputs; shape (columns,).
        zeros: Share of zeros among its inputs; shape (columns,).
    """

    weight: Matrix
    covariance: Matrix
    columns: Index
    mean: Matrix = field(default_factory=lambda: np.zeros(0))
    zeros: Matrix = field(default_factory=lambda: np.zeros(0))

    @property
    def energy(self) -> float:
        """Variance of the output, summed over its features."""
        return float(np.einsum("oi,ij,oj->", self.weight, self.covariance, self.weight, optimize=True))


@dataclass(frozen=True)
class Curve:
    """What removing units of a group costs.

    Attributes:
        order: Units in the order in which they go; shape (removed,).
        loss: Damage after each removal, as a share of the consumers' output variance; shape (removed + 1,), from 0.
        probes: Numbers of removals, each with what the consumers' weights have become by then.
    """

    order: Index
    loss: NDArray[np.float64]
    probes: Sequence[tuple[int, list[Matrix]]] = ()


class _State:
    """One consumer while its columns go."""

    def __init__(self, consumer: Consumer) -> None:
        damped = consumer.covariance + DAMPING * max(float(np.diag(consumer.covariance).mean()), 1e-12) * np.eye(
            len(consumer.covariance)
        )
        self.weight = consumer.weight.copy()
        self.inverse = np.linalg.inv(damped)
        self.columns = consumer.columns
        self.energy = max(consumer.energy, 1e-12)

    def losses(self, units: Index) -> NDArray[np.float64]:
        """Cost of each of some units; shape (units,)."""
        columns = self.columns[units]
        if columns.shape[1] == 1:
            q = columns[:, 0]
            single: NDArray[np.float64] = (self.weight[:, q] ** 2).sum(axis=0) / self.inverse[q, q]
            return single / self.energy
        parts = self.weight[:, columns].transpose(1, 2, 0)  # units, columns a unit, outputs
        squares = parts @ parts.transpose(0, 2, 1)
        blocks = self.inverse[columns[:, :, None], columns[:, None, :]]
        cost: NDArray[np.float64] = np.trace(np.linalg.solve(blocks, squares), axis1=1, axis2=2)
        return cost / self.energy

    def remove(self, units: Index) -> None:
        """Takes units out and lets the rest make up for them."""
        q = self.columns[units].ravel()
        pivot = self.inverse[np.ix_(q, q)]
        rows = self.inverse[q]
        solved = np.linalg.solve(pivot, rows)
        self.weight -= self.weight[:, q] @ solved
        self.inverse -= rows.T @ solved
        self.weight[:, q] = 0
        self.inverse[q, q] = 1  # gone: never singular again
        self.inverse[np.ix_(q, q)] = np.eye(len(q))


def removal_curve(consumers: Sequence[Consumer], units: int, most: int, probes: Sequence[float] = ()) -> Curve:
    """In which order units of a group go, and what that costs.

    Args:
        consumers: The layers that read the group.
        units: How many units the group has.
        most: How many may go.
        probes: Shares of the units after whose removal the consumers' weights are noted, ascending.
    """
    states = [_State(c) for c in consumers]
    left = np.arange(units)
    order: list[int] = []
    loss = [0.0]
    chunk = max(1, most // STEPS)
    waiting = [round(p * units) for p in probes if 0 < round(p * units) <= most]
    noted: list[tuple[int, list[Matrix]]] = []
    while len(order) < most:
        scores = np.sum([s.losses(left) for s in states], axis=0)
        ranked = np.argsort(scores, kind="stable")[: min(chunk, most - len(order))]
        gone = left[ranked]
        for state in states:
            state.remove(gone)
        for i in ranked:
            order.append(int(left[i]))
            loss.append(loss[-1] + float(max(scores[i], 0.0)))
        left = np.delete(left, ranked)
        if waiting and len(order) >= waiting[0]:
            noted.append((len(order), [s.weight.copy() for s in states]))
            waiting = [w for w in waiting if w > len(order)]
    return Curve(np.array(order, dtype=np.int64), np.array(loss), noted)
