"""Structured optimal brain surgeon (OBS): loss of the consumers of a unit after removal and compensation.

Removing the columns Q of a linear layer with weight W and input covariance H costs ``tr(W_Q [H^-1]_QQ^-1 W_Q^T)`` if
the other columns are refitted (Hassibi and Stork, "Second order derivatives for network pruning", NIPS 1992; for blocks
of columns: Kurtic et al., "ZipLM", NeurIPS 2023). W and H^-1 are updated after every removal (Schur complement), so
that after the removal of one of two redundant channels the other one becomes expensive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.storable import storable

Matrix = NDArray[np.float64]
Index = NDArray[np.int64]

DAMPING = 1e-2
"""Ridge on the covariance, relative to its mean diagonal."""
STEPS = 48
"""Approximate number of steps in which the units of a group are removed; scores are updated after each step."""


@dataclass
class Consumer:
    """A linear layer that reads the channels of a group.

    Attributes:
        weight: Weight as a matrix; shape (outputs, columns).
        covariance: Covariance of its inputs; shape (columns, columns).
        columns: Indices of the columns of each unit; shape (units, columns per unit).
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
        """Total variance of the output, summed over its features."""
        return float(np.einsum("oi,ij,oj->", self.weight, self.covariance, self.weight, optimize=True))


@storable
@dataclass(frozen=True)
class Curve:
    """The damage curve of a group.

    Attributes:
        order: Units in the order of their removal; shape (removed,).
        loss: Damage after 0, 1, ... removals, relative to the consumers' output variance; shape (removed + 1,).
        probes: Pairs of a number of removals and the consumers' compensated weights after them.
    """

    order: Index
    loss: NDArray[np.float64]
    probes: Sequence[tuple[int, list[Matrix]]] = ()


class _ConsumerState:
    """Weight and inverse covariance of one consumer during the removal of its columns."""

    def __init__(self, consumer: Consumer) -> None:
        damped = consumer.covariance + DAMPING * max(float(np.diag(consumer.covariance).mean()), 1e-12) * np.eye(
            len(consumer.covariance)
        )
        self.weight = consumer.weight.copy()
        self.inverse = np.linalg.inv(damped)
        self.columns = consumer.columns
        self.energy = max(consumer.energy, 1e-12)

    def losses(self, units: Index) -> NDArray[np.float64]:
        """Returns the loss of the removal of each of some units, relative to the output variance; shape (units,)."""
        columns = self.columns[units]
        if columns.shape[1] == 1:
            q = columns[:, 0]
            single: NDArray[np.float64] = (self.weight[:, q] ** 2).sum(axis=0) / self.inverse[q, q]
            return single / self.energy
        parts = self.weight[:, columns].transpose(1, 2, 0)  # (units, columns per unit, outputs)
        squares = parts @ parts.transpose(0, 2, 1)
        blocks = self.inverse[columns[:, :, None], columns[:, None, :]]
        cost: NDArray[np.float64] = np.trace(np.linalg.solve(blocks, squares), axis1=1, axis2=2)
        return cost / self.energy

    def remove(self, units: Index) -> None:
        """Removes units and compensates for them with the remaining columns."""
        q = self.columns[units].ravel()
        pivot = self.inverse[np.ix_(q, q)]
        rows = self.inverse[q]
        solved = np.linalg.solve(pivot, rows)
        self.weight -= self.weight[:, q] @ solved
        self.inverse -= rows.T @ solved
        self.weight[:, q] = 0
        self.inverse[q, q] = 1  # keeps the matrix regular
        self.inverse[np.ix_(q, q)] = np.eye(len(q))


def removal_curve(consumers: Sequence[Consumer], units: int, most: int, probes: Sequence[float] = ()) -> Curve:
    """Removes the units of a group greedily and records the loss.

    Args:
        consumers: The layers that read the group.
        units: Number of units of the group.
        most: Maximum number of removed units.
        probes: Shares of the units after whose removal the consumers' weights are recorded, ascending.
    """
    states = [_ConsumerState(c) for c in consumers]
    remaining = np.arange(units)
    order: list[int] = []
    loss = [0.0]
    chunk = max(1, most // STEPS)
    pending = sorted({min(round(p * units), most) for p in probes} - {0})
    recorded: list[tuple[int, list[Matrix]]] = []
    while len(order) < most:
        scores = np.sum([s.losses(remaining) for s in states], axis=0)
        ranked = np.argsort(scores, kind="stable")[: min(chunk, most - len(order))]
        removed = remaining[ranked]
        for state in states:
            state.remove(removed)
        for i in ranked:
            order.append(int(remaining[i]))
            loss.append(loss[-1] + float(max(scores[i], 0.0)))
        remaining = np.delete(remaining, ranked)
        if pending and len(order) >= pending[0]:
            recorded.append((len(order), [s.weight.copy() for s in states]))
            pending = [p for p in pending if p > len(order)]
    return Curve(np.array(order, dtype=np.int64), np.array(loss), recorded)
