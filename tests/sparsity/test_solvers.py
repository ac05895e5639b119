"""Zeros given a Gram matrix: against the formulas, by brute force where that can be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.extensions.patterns import parse
from onnxprune.repair.masked import candidates
from onnxprune.sparsity import solvers
from onnxprune.sparsity.patterns import Blocks, NOfM, Unstructured
from tests.support.lanes import spread

PATTERNS = ["weights=0.5", "2:4", "1:4", "4x1=0.5", "1x4=0.5", "2x2=0.5"]


def problem(outputs: int = 12, columns: int = 16, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A weight and the Gram matrix of correlated, rectified inputs of different scales."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((25 * columns, columns)) @ (
        np.eye(columns) + rng.standard_normal((columns, columns)) / np.sqrt(columns)
    )
    x = np.maximum(x * np.exp(rng.standard_normal(columns) / 2), 0)
    return rng.standard_normal((outputs, columns)), x.T @ x / len(x)


def wrong(weight: NDArray[np.float64], target: NDArray[np.float64], gram: NDArray[np.float64]) -> float:
    return float((((weight - target) @ gram) * (weight - target)).sum())


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 7, 64, 65, 200])
def test_the_factor_is_that_of_the_inverse(columns: int) -> None:
    _, gram = problem(columns=columns)
    upper = solvers.inverse_factor(gram, damp=0.1)
    damped = gram + 0.1 * np.diagonal(gram).mean() * np.eye(columns)
    assert np.array_equal(upper, np.triu(upper))
    np.testing.assert_allclose(upper.T @ upper @ damped, np.eye(columns), atol=1e-9)


def test_sparsegpt_with_one_zero_is_optimal_brain_surgeon() -> None:
    """After one weight of the first column is zeroed, the others are the least-squares solution."""
    weight, gram = problem(outputs=1, columns=6)
    weight[0, 1:] += 10 * np.sign(weight[0, 1:])  # so that the first is the one that goes
    weight[0, 0] = 1e-3
    made = solvers.sparsegpt(weight, gram, Unstructured(1 / 6), 6, damp=0)
    rest = weight[:, 1:] + np.linalg.solve(gram[1:, 1:], gram[1:, :1]).T * weight[:, :1]
    np.testing.assert_allclose(made, np.concatenate([[[0.0]], rest], axis=1), atol=1e-9)


@pytest.mark.parametrize(("channels", "text"), spread(itertools.product([16, 8, 6], PATTERNS)))
def test_the_pattern_holds_for_every_solver(channels: int, text: str) -> None:
    pattern, columns = parse(text), 48
    weight, gram = problem(columns=columns)
    found = [
        solvers.sparsegpt(weight, gram, pattern, channels),
        solvers.alps(weight[None], gram[None], pattern, channels)[0],
        np.where(solvers.wanda(weight[None], gram[None], pattern, channels)[0], 0, weight),
    ]
    for made in found:
        split = (made == 0).reshape(12, columns // channels, channels)
        if isinstance(pattern, NOfM):
            for c in range(0, channels, pattern.m):
                size = min(pattern.m, channels - c)
                assert (split[..., c : c + size].sum(axis=2) == max(size - pattern.n, 0)).all()
        elif isinstance(pattern, Unstructured):
            assert split.mean() == pytest.approx(0.5, abs=0.02)
        else:
            assert isinstance(pattern, Blocks)
            for o, c in itertools.product(range(0, 12, pattern.rows), range(0, channels, pattern.columns)):
                block = split[o : o + pattern.rows, :, c : c + pattern.columns]
                assert (block.all(axis=(0, 2)) | ~block.any(axis=(0, 2))).all()
            assert 0.3 < split.mean() < 0.6


@pytest.mark.parametrize("text", PATTERNS)
def test_each_solver_is_better_than_the_previous_one(text: str) -> None:
    """Over several problems: magnitude, Wanda, SparseGPT, ALPS."""
    pattern, errors = parse(text), np.zeros((6, 4))
    for i in range(6):
        weight, gram = problem(seed=i)
        gone = [
            solvers.select(np.abs(weight[None]), pattern, 16)[0],
            solvers.wanda(weight[None], gram[None], pattern, 16)[0],
        ]
        made = [
            *(np.where(g, 0, weight) for g in gone),
            solvers.sparsegpt(weight, gram, pattern, 16, damp=0),
            solvers.alps(weight[None], gram[None], pattern, 16)[0],
        ]
        errors[i] = [wrong(m, weight, gram) for m in made]
    magnitude, wanda, sparsegpt, alps = errors.sum(axis=0)
    assert wanda < magnitude
    assert sparsegpt < 0.9 * wanda
    assert alps < sparsegpt


def test_alps_is_close_to_the_optimum() -> None:
    best, found = 0.0, 0.0
    for seed in range(5):
        weight, gram = problem(outputs=1, columns=8, seed=seed)
        choices = []
        for keep in itertools.combinations(range(8), 4):
            at = list(keep)
            w = np.zeros((1, 8))
            w[:, at] = np.linalg.solve(gram[np.ix_(at, at)], gram[at] @ weight.T).T
            choices.append(wrong(w, weight, gram))
        best += min(choices)
        found += wrong(solvers.alps(weight[None], gram[None], Unstructured(0.5), 8)[0], weight, gram)
    assert best * (1 - 1e-9) <= found < 1.5 * best


def test_kept_elements_are_refitted_by_least_squares() -> None:
    weight, gram = problem()
    keep = np.random.default_rng(1).random(weight.shape) < 0.5
    made = solvers.refine(np.zeros((1, *weight.shape)), weight[None], gram[None], keep[None], steps=100)[0]
    assert not made[~keep].any()
    best = np.zeros_like(weight)
    for row, w, k in zip(best, weight, keep, strict=True):
        row[k] = np.linalg.solve(gram[np.ix_(k, k)], gram[k] @ w)
    assert wrong(made, best, gram) < 1e-8 * wrong(best, weight, gram)


@pytest.mark.parametrize("method", ["l2", "wanda", "sparsegpt", "alps", "obs"])
def test_kept_elements_are_optimal_for_every_mask(method: str) -> None:
    weight, gram = problem()
    for made in candidates(method, parse("2:4"), 16, weight[None], gram[None], weight[None], gram[None]):
        best = np.zeros_like(weight)
        for row, w, keep in zip(best, weight, made[0] != 0, strict=True):
            row[keep] = np.linalg.solve(gram[np.ix_(keep, keep)], gram[keep] @ w)
        assert wrong(made[0], weight, gram) < 1.001 * wrong(best, weight, gram)


def test_groups_are_independent() -> None:
    """Under an N:M pattern the result of each group is the same as alone."""
    parts = [problem(seed=i) for i in range(3)]
    weight, gram = np.stack([p[0] for p in parts]), np.stack([p[1] for p in parts])
    together = solvers.refine(np.zeros_like(weight), weight, gram, np.ones(weight.shape, bool), steps=60)
    for made, w, g in zip(together, weight, gram, strict=True):
        assert wrong(made, w, g) < 1e-8 * wrong(np.zeros_like(w), w, g)
    gone = solvers.select(np.abs(weight), parse("2:4"), 16)
    alone = [solvers.select(np.abs(w[None]), parse("2:4"), 16)[0] for w in weight]
    assert np.array_equal(gone, np.stack(alone))
