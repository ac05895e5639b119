"""Solvers for sparse linear layers: zeros and compensated weights, given the Gram matrix of the layer's input.

All of them minimize the squared error of the layer's output, ``tr((W - W0) H (W - W0)^T)``, over matrices W with zeros
in a pattern. Columns are ordered by kernel position, then by input channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.math import share
from onnxprune.extensions.patterns import Pattern
from onnxprune.graph.operators import WeightLayout
from onnxprune.sparsity.masks import Mask

Floats = NDArray[Any]

DAMPING = 0.01
"""Damping that is added to the diagonal of the Gram matrix, relative to its mean."""
BLOCK = 128
"""Number of columns after which the remaining ones are updated (lazy batch updates of SparseGPT)."""
STEPS = 300
"""Maximum number of ADMM steps."""


def select(scores: Floats, pattern: Pattern, channels: int) -> Mask:
    """Returns the mask of the elements of matrices that a pattern sets to zero; shape of the scores.

    Args:
        scores: Scores of the elements; shape (groups, outputs, kernel positions * channels).
        pattern: The pattern.
        channels: Number of input channels per kernel position.
    """
    groups, outputs, columns = scores.shape
    split = np.ascontiguousarray(scores).reshape(groups, outputs, columns // channels, channels)
    zeroed: Mask = pattern.mask(split, WeightLayout(inputs=3, outputs=1)).reshape(scores.shape)
    return zeroed


def wanda(weight: Floats, gram: Floats, pattern: Pattern, channels: int) -> Mask:
    """Returns the Wanda mask: scores are ``|w| |x|``, and the pattern ``weights`` is applied to each output separately.

    Sun et al., "A simple and effective pruning approach for large language models", ICLR 2024.

    Args:
        weight: Shape (groups, outputs, columns).
        gram: Second moments of the columns; shape (groups, columns, columns).
        pattern: The pattern.
        channels: Number of input channels per kernel position.
    """
    norms = np.sqrt(np.maximum(np.diagonal(gram, axis1=1, axis2=2), 0))
    scores = np.abs(weight) * norms[:, None]
    if not pattern.elementwise:
        return select(scores, pattern, channels)
    rows = scores.reshape(-1, scores.shape[2])
    order = np.argsort(rows, axis=1, kind="stable")
    zeroed = np.zeros(rows.shape, dtype=bool)
    each = share(pattern.share or 0.0, rows.shape[1])
    np.put_along_axis(zeroed, order[:, :each], True, axis=1)
    left = share(pattern.share or 0.0, rows.size) - each * len(rows)
    if left:  # what no whole number of columns gives: one more in the outputs that lose least by it
        further = order[:, each]
        cheapest = np.argsort(np.take_along_axis(rows, further[:, None], axis=1)[:, 0], kind="stable")[:left]
        zeroed[cheapest, further[cheapest]] = True
    return zeroed.reshape(weight.shape)


def sparsegpt(weight: Floats, gram: Floats, pattern: Pattern, channels: int, damp: float = DAMPING) -> Floats:
    """SparseGPT: sets elements to zero column by column, and compensates with the later columns.

    Frantar and Alistarh, "SparseGPT: massive language models can be accurately pruned in one-shot", ICML 2023. The
    Cholesky factor of the inverse is computed as the inverse of a Cholesky factor of the matrix in reverse order, so
    that only a triangular matrix is inverted.

    Args:
        weight: Shape (outputs, columns).
        gram: Shape (columns, columns); its type is that of the arithmetic.
        pattern: The pattern; a share of zeros holds in every block of columns.
        channels: Number of input channels per kernel position.
        damp: Damping that is added to the diagonal, relative to its mean.

    Returns:
        The weight with zeros; shape (outputs, columns).
    """
    upper = inverse_factor(gram, damp)
    diagonal = np.diagonal(upper)
    transposed = np.array(weight.T, dtype=gram.dtype, order="C")  # contiguous columns
    groups = _group_starts(transposed.shape[0], channels, pattern)
    chosen = None  # the mask of all columns, for patterns that cannot be applied to a block of columns alone
    if not pattern.by_columns:
        chosen = select(np.square(weight / diagonal)[None], pattern, channels)[0].T
    for begin, end, starts in _blocks(groups, transposed.shape[0]):
        part, errors = transposed[begin:end], np.empty((end - begin, transposed.shape[1]), dtype=gram.dtype)
        zeroed = np.zeros(part.shape, dtype=bool)
        if chosen is not None:
            zeroed[:] = chosen[begin:end]
        elif not pattern.local:
            zeroed[:] = _cheapest(part, diagonal[begin:end], pattern, starts)
        for i in range(end - begin):
            if chosen is None and pattern.local and (size := starts.get(i)):
                scores = np.square(part[i : i + size] / diagonal[begin + i : begin + i + size, None])
                zeroed[i : i + size] = pattern.mask(scores, WeightLayout(0, 1))
            np.multiply(part[i], zeroed[i] / diagonal[begin + i], out=errors[i])
            part[i][zeroed[i]] = 0
            part[i + 1 :] -= upper[begin + i, begin + i + 1 : end, None] * errors[i]
        transposed[end:] -= upper[begin:end, end:].T @ errors
    return np.ascontiguousarray(transposed.T)


def alps(weight: Floats, gram: Floats, pattern: Pattern, channels: int) -> Floats:
    """ALPS: alternating direction method of multipliers (ADMM) between least squares and the pattern.

    Meng et al., "ALPS: Improved optimization for highly sparse one-shot pruning for large language models", NeurIPS
    2024: the Gram matrix is scaled to a unit diagonal and decomposed once; the penalty grows, the faster the more the
    mask still changes, until the mask is constant.

    Args:
        weight: Shape (groups, outputs, columns).
        gram: Positive definite; shape (groups, columns, columns).
        pattern: The pattern.
        channels: Number of input channels per kernel position.

    Returns:
        The weight with zeros, refitted by `refine`.
    """
    scale = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
    h = gram / (scale[:, :, None] * scale[:, None, :])
    target = weight * scale[:, None]
    values, vectors = np.linalg.eigh(h)
    inverse_vectors = vectors.transpose(0, 2, 1)
    rho, dense, dual = 0.1, target, np.zeros_like(target)
    zeroed = select(np.abs(target), pattern, channels)
    sparse, count = np.where(zeroed, 0, target), max(int(zeroed.sum()), 1)
    right = target @ h
    for step in range(STEPS):
        dense = ((right - dual + rho * sparse) @ vectors / (values + rho)[:, None]) @ inverse_vectors
        projected = dense + dual / rho
        new_mask = select(np.abs(projected), pattern, channels)
        sparse, changed = np.where(new_mask, 0, projected), int((new_mask != zeroed).sum())
        dual = dual + rho * (dense - sparse)
        zeroed = new_mask
        if step % 3 == 2:
            if changed == 0:
                break
            rho *= 1.3 if changed > 0.1 * count else 1.2 if changed > 0.005 * count else 1.1
    return refine(np.where(zeroed, 0, dense / scale[:, None]), weight, gram, ~zeroed)


def refine(start: Floats, target: Floats, gram: Floats, keep: Mask, steps: int = 30) -> Floats:
    """Minimizes the error over the nonzero elements by preconditioned conjugate gradients (Jacobi preconditioner).

    Args:
        start: Initial matrices, zero outside `keep`; shape (groups, outputs, columns).
        target: The original matrices; shape (groups, outputs, columns).
        gram: Positive definite; shape (groups, columns, columns).
        keep: Mask of the elements that may be nonzero; shape (groups, outputs, columns).
        steps: Maximum number of steps.

    Returns:
        Shape (groups, outputs, columns).
    """
    x = start.copy()
    inverse = 1 / np.diagonal(gram, axis1=1, axis2=2)[:, None]
    residual = ((target - x) @ gram) * keep
    z = residual * inverse
    p, rz = z, (residual * z).sum(axis=2, keepdims=True)
    least = 1e-10 * np.maximum(rz, 1e-300)
    for _ in range(steps):
        gp = (p @ gram) * keep
        curvature = (p * gp).sum(axis=2, keepdims=True)
        step = np.where(curvature > 0, rz / np.where(curvature > 0, curvature, 1), 0)
        x += step * p
        residual = residual - step * gp
        z = residual * inverse
        before, rz = rz, (residual * z).sum(axis=2, keepdims=True)
        if (rz <= least).all():
            break
        p = z + np.where(before > 0, rz / np.where(before > 0, before, 1), 0) * p
    found: Floats = x
    return found


def inverse_factor(gram: Floats, damp: float = DAMPING) -> Floats:
    """Returns the upper triangular R for which ``R^T R`` is the inverse of the damped Gram matrix; shape of `gram`."""
    n = len(gram)
    damped = gram[::-1, ::-1].copy()
    diagonal = np.einsum("ii->i", damped)
    diagonal += damp * max(float(diagonal.mean()), 1e-30)
    lower = _cholesky(damped)  # J H J = L L^T, so H = U U^T with U = J L J upper, and R = U^-1
    _invert_lower(lower, 0, n)
    upper: Floats = np.ascontiguousarray(lower[::-1, ::-1])
    return upper


def _cholesky(matrix: Floats) -> Floats:
    """Returns the lower Cholesky factor; damping is added, in place, until the matrix is positive definite."""
    diagonal = np.einsum("ii->i", matrix)
    more = 1e-7 * float(np.abs(diagonal).mean())
    while np.isfinite(more):
        try:
            found: Floats = np.linalg.cholesky(matrix)
            return found
        except np.linalg.LinAlgError:
            diagonal += more
            more *= 10
    raise ValueError("a Gram matrix is not finite")


def _invert_lower(a: Floats, begin: int, end: int) -> None:
    """Inverts a lower triangular block in place, recursively by halves, so that most work is matrix products."""
    if end - begin <= 64:
        part = a[begin:end, begin:end]
        part[:] = np.tril(np.linalg.inv(part))
        return
    middle = (begin + end) // 2
    _invert_lower(a, begin, middle)
    _invert_lower(a, middle, end)
    corner = a[middle:end, begin:middle]
    corner[:] = -(a[middle:end, middle:end] @ (corner @ a[begin:middle, begin:middle]))


def _group_starts(columns: int, channels: int, pattern: Pattern) -> list[int]:
    """Returns the first column of each group: M columns of an N:M pattern, or the columns of a block."""
    return [k + c for k in range(0, columns, channels) for c in range(0, channels, pattern.width)]


def _blocks(groups: Sequence[int], columns: int) -> list[tuple[int, int, dict[int, int]]]:
    """Splits columns into blocks of whole groups with at least `BLOCK` columns.

    Returns:
        Begin and end of each block, and the size of each group by its position in the block.
    """
    ends = [*groups[1:], columns]
    found: list[tuple[int, int, dict[int, int]]] = []
    begin, mine = 0, dict[int, int]()
    for start, end in zip(groups, ends, strict=True):
        mine[start - begin] = end - start
        if end - begin >= BLOCK or end == columns:
            found.append((begin, end, mine))
            begin, mine = end, {}
    return found


def _cheapest(part: Floats, diagonal: Floats, pattern: Pattern, starts: dict[int, int]) -> Mask:
    """Returns the mask of the elements of a block (columns as rows) whose removal costs least."""
    scores = np.square(part / diagonal[:, None])
    if pattern.elementwise:
        return pattern.mask(scores, None)
    # Groups at the border of a kernel position may be narrower: groups of one width are ranked together.
    sizes = np.array([starts[i] for i in sorted(starts)])
    zeroed = np.zeros(scores.shape, dtype=bool)
    at = np.array(sorted(starts))
    for size in np.unique(sizes):
        rows = (at[sizes == size][:, None] + np.arange(size)).ravel()
        zeroed[rows] = pattern.mask(scores[rows], WeightLayout(0, 1))
    return zeroed
