"""Which weights of a linear layer become zero, and what the rest becomes, given the Gram matrix of what it reads.

All of these minimise ``tr((W - W0) H (W - W0)^T)``, the squared error of what the layer makes, over matrices with
zeros in a pattern. Columns are ordered so that the inputs of one kernel position lie side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune._math import share
from onnxprune.graph.operators import WeightLayout
from onnxprune.patterns import Pattern
from onnxprune.sparsity.masks import Mask, mask

Floats = NDArray[Any]

DAMP = 0.01
"""Share of the mean of the diagonal that is added to it."""
BLOCK = 128
"""Columns that are swept before the rest hears of it."""
STEPS = 300
"""Of the alternating directions at most."""


def select(worth: Floats, pattern: Pattern, channels: int) -> Mask:
    """Mask of what a pattern takes of matrices.

    Args:
        worth: What elements are worth; shape (groups, outputs, kernel positions * channels).
        pattern: The pattern.
        channels: Inputs at one kernel position.
    """
    groups, outputs, columns = worth.shape
    split = np.ascontiguousarray(worth).reshape(groups, outputs, columns // channels, channels)
    gone: Mask = mask(split, WeightLayout(inputs=3, outputs=1), pattern).reshape(worth.shape)
    return gone


def wanda(weight: Floats, gram: Floats, pattern: Pattern, channels: int) -> Mask:
    """Mask by size of the weight times norm of what it reads; any elements are ranked among those of the same output.

    Sun et al., "A simple and effective pruning approach for large language models", ICLR 2024.

    Args:
        weight: Shape (groups, outputs, columns).
        gram: Second moments of the columns; shape (groups, columns, columns).
        pattern: The pattern.
        channels: Inputs at one kernel position.
    """
    norms = np.sqrt(np.maximum(np.diagonal(gram, axis1=1, axis2=2), 0))
    worth = np.abs(weight) * norms[:, None]
    if pattern.kind != "weights":
        return select(worth, pattern, channels)
    rows = worth.reshape(-1, worth.shape[2])
    order = np.argsort(rows, axis=1, kind="stable")
    gone = np.zeros(rows.shape, dtype=bool)
    np.put_along_axis(gone, order[:, : share(pattern.share or 0.0, rows.shape[1])], True, axis=1)
    return gone.reshape(weight.shape)


def sparsegpt(weight: Floats, gram: Floats, pattern: Pattern, channels: int, damp: float = DAMP) -> Floats:
    """Sweeps over the columns: each loses its zeros, and those behind it make up for that.

    Frantar and Alistarh, "SparseGPT: massive language models can be accurately pruned in one-shot", ICML 2023. The
    Cholesky factor of the inverse is the inverse of a Cholesky factor, of the matrix read from its end, so that no
    matrix is inverted but a triangular one.

    Args:
        weight: Shape (outputs, columns).
        gram: Shape (columns, columns); its type is that of the arithmetic.
        pattern: The pattern; shares hold for every block of columns.
        channels: Inputs at one kernel position.
        damp: Share of the mean of the diagonal that is added to it.

    Returns:
        The weight with zeros; shape (outputs, columns).
    """
    upper = inverse_factor(gram, damp)
    diagonal = np.diagonal(upper)
    turned = np.array(weight.T, dtype=gram.dtype, order="C")  # columns as rows: a step touches memory in one piece
    groups = _groups(turned.shape[0], channels, pattern)
    for begin, end, starts in _blocks(groups, turned.shape[0]):
        part, errors = turned[begin:end], np.empty((end - begin, turned.shape[1]), dtype=gram.dtype)
        gone = np.zeros(part.shape, dtype=bool)
        if pattern.kind != "n:m":
            gone[:] = _weakest(part, diagonal[begin:end], pattern, starts)
        for i in range(end - begin):
            if pattern.kind == "n:m" and (size := starts.get(i)):
                worth = np.square(part[i : i + size] / diagonal[begin + i : begin + i + size, None])
                gone[i : i + size] = mask(worth, WeightLayout(0, 1), pattern)
            np.multiply(part[i], gone[i] / diagonal[begin + i], out=errors[i])
            part[i][gone[i]] = 0
            part[i + 1 :] -= upper[begin + i, begin + i + 1 : end, None] * errors[i]
        turned[end:] -= upper[begin:end, end:].T @ errors
    return np.ascontiguousarray(turned.T)


def alps(weight: Floats, gram: Floats, pattern: Pattern, channels: int) -> Floats:
    """Alternating directions: least squares here, zeros there, pulled together ever harder until the zeros stay.

    Meng et al., "ALPS: Improved optimization for highly sparse one-shot pruning for large language models", NeurIPS
    2024: scaled to a unit diagonal, one eigendecomposition, and a penalty that grows by how much the zeros still move.

    Args:
        weight: Shape (groups, outputs, columns).
        gram: Positive definite; shape (groups, columns, columns).
        pattern: The pattern.
        channels: Inputs at one kernel position.

    Returns:
        The weight with zeros, refitted by `refine`.
    """
    scale = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
    h = gram / (scale[:, :, None] * scale[:, None, :])
    target = weight * scale[:, None]
    values, vectors = np.linalg.eigh(h)
    back = vectors.transpose(0, 2, 1)
    rho, made, dual = 0.1, target, np.zeros_like(target)
    gone = select(np.abs(target), pattern, channels)
    sparse, asked = np.where(gone, 0, target), max(int(gone.sum()), 1)
    pulled = target @ h
    for step in range(STEPS):
        made = ((pulled - dual + rho * sparse) @ vectors / (values + rho)[:, None]) @ back
        wanted = made + dual / rho
        now = select(np.abs(wanted), pattern, channels)
        sparse, moved = np.where(now, 0, wanted), int((now != gone).sum())
        dual = dual + rho * (made - sparse)
        gone = now
        if step % 3 == 2:
            if moved == 0:
                break
            rho *= 1.3 if moved > 0.1 * asked else 1.2 if moved > 0.005 * asked else 1.1
    return refine(np.where(gone, 0, made / scale[:, None]), weight, gram, ~gone)


def refine(start: Floats, target: Floats, gram: Floats, keep: Mask, steps: int = 30) -> Floats:
    """The best values where elements may be other than zero, by preconditioned conjugate gradients.

    Args:
        start: Where to begin; zero outside `keep`; shape (groups, outputs, columns).
        target: What to come near to.
        gram: Positive definite; shape (groups, columns, columns).
        keep: Which elements may be other than zero.
        steps: Steps at most.
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


def inverse_factor(gram: Floats, damp: float = DAMP) -> Floats:
    """The upper triangular R with ``R^T R`` the inverse of a damped Gram matrix; shape as the matrix."""
    n = len(gram)
    damped = gram[::-1, ::-1].copy()
    diagonal = np.einsum("ii->i", damped)
    diagonal += damp * max(float(diagonal.mean()), 1e-30)
    lower = _cholesky(damped)  # J H J = L L^T, so H = U U^T with U = J L J upper, and R = U^-1
    _invert_lower(lower, 0, n)
    upper: Floats = np.ascontiguousarray(lower[::-1, ::-1])
    return upper


def _cholesky(matrix: Floats) -> Floats:
    """The lower factor; a matrix that is not positive definite to rounding gets more on its diagonal, in place."""
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
    """Inverts a lower triangular part in place, by halves, so that nearly all of it is matrix products."""
    if end - begin <= 64:
        part = a[begin:end, begin:end]
        part[:] = np.tril(np.linalg.inv(part))
        return
    middle = (begin + end) // 2
    _invert_lower(a, begin, middle)
    _invert_lower(a, middle, end)
    corner = a[middle:end, begin:middle]
    corner[:] = -(a[middle:end, middle:end] @ (corner @ a[begin:middle, begin:middle]))


def _groups(columns: int, channels: int, pattern: Pattern) -> list[int]:
    """Where groups of columns begin that are judged as one: those of an N:M pattern, or of a block."""
    size = pattern.m if pattern.kind == "n:m" else pattern.columns
    return [k + c for k in range(0, columns, channels) for c in range(0, channels, size)]


def _blocks(groups: Sequence[int], columns: int) -> list[tuple[int, int, dict[int, int]]]:
    """Blocks of whole groups of at least `BLOCK` columns: begin, end, and size of each group by its place within."""
    ends = [*groups[1:], columns]
    found: list[tuple[int, int, dict[int, int]]] = []
    begin, mine = 0, dict[int, int]()
    for start, end in zip(groups, ends, strict=True):
        mine[start - begin] = end - start
        if end - begin >= BLOCK or end == columns:
            found.append((begin, end, mine))
            begin, mine = end, {}
    return found


def _weakest(part: Floats, diagonal: Floats, pattern: Pattern, starts: dict[int, int]) -> Mask:
    """Which elements of a block of columns (as rows) go, by what their removal costs."""
    worth = np.square(part / diagonal[:, None])
    if pattern.kind == "weights":
        return mask(worth, None, pattern)
    # columns of blocks may end early at the border of a kernel position: pieces of one width are judged together
    sizes = np.array([starts[i] for i in sorted(starts)])
    gone = np.zeros(worth.shape, dtype=bool)
    at = np.array(sorted(starts))
    for size in np.unique(sizes):
        rows = (at[sizes == size][:, None] + np.arange(size)).ravel()
        gone[rows] = mask(worth[rows], WeightLayout(0, 1), pattern)
    return gone
