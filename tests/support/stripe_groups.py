"""The reference that the search for an order of channels is held against: pairs of stripes, exhaustively.

After Pool and Yu, "Channel permutations for N:M sparsity", NeurIPS 2021, for 2:4: every way to share out the eight
columns of two stripes is tried for every pair of stripes, the best ones that touch each stripe once are taken, and so on
until none gains; then, so many times, two columns of a random pair are exchanged to leave the place that was reached.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
SHARINGS = np.array([(0, *some, *(i for i in range(1, 8) if i not in some)) for some in combinations(range(1, 8), 3)])


def kept(values: Values, order: NDArray[np.int64], n: int = 2, m: int = 4) -> float:
    """What N:M keeps of columns in an order; a tail is a stripe too; shape of `values`: (columns, rows)."""
    ordered = values[order].astype(np.float64)
    padded = np.concatenate([ordered, np.zeros((-len(order) % m, values.shape[1]))])
    return float(np.sort(padded.reshape(-1, m, values.shape[1]), axis=1)[:, -n:].sum())


def stripe_groups(values: Values, escapes: int, seed: int = 0) -> NDArray[np.int64]:
    """The order that this search finds for 2:4; the columns must be a multiple of 4."""
    rng, count = np.random.default_rng(seed), len(values) // 4
    order = np.arange(len(values))
    gains, ways = np.zeros((count, count)), np.zeros((count, count), dtype=np.int64)
    best, most, left = order.copy(), kept(values, order), escapes
    stale = set(range(count))
    while True:
        for s, t in combinations(range(count), 2):
            if s in stale or t in stale:
                columns = np.r_[order[4 * s : 4 * s + 4], order[4 * t : 4 * t + 4]]
                shared = np.sort(values[columns][SHARINGS].reshape(35, 2, 4, -1), axis=2)[:, :, 2:].sum(axis=(1, 2, 3))
                gains[s, t], ways[s, t] = shared.max() - shared[0], shared.argmax()
        stale = set()
        for pair in np.argsort(-gains, axis=None, kind="stable"):
            s, t = divmod(int(pair), count)
            if gains[s, t] <= 1e-4:
                break
            if not stale & {s, t}:
                _share(order, s, t, SHARINGS[ways[s, t]])
                stale |= {s, t}
        if kept(values, order) > most:
            best, most = order.copy(), kept(values, order)
        if not stale:
            if not left:
                return best
            left -= 1
            s, t = sorted(rng.choice(count, 2, replace=False))
            sharing = np.arange(8)
            i, j = rng.integers(4), 4 + rng.integers(4)
            sharing[[i, j]] = j, i
            _share(order, s, t, sharing)
            stale = {s, t}


def _share(order: NDArray[np.int64], s: int, t: int, sharing: NDArray[np.int64]) -> None:
    places = np.r_[4 * s : 4 * s + 4, 4 * t : 4 * t + 4]
    order[places] = order[places[sharing]]
