"""The trained language model in `models/language/` is what its README says, and the defaults suit it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune import testing
from tests.support.oracle import OLD_RUNTIME
from tests.support.paths import MODELS
from tools.benchmarks.language import INNER, WIDTH, perplexity
from tools.language_text import LENGTH, WORDS, samples

FOLDER = MODELS / "language"
MODEL, TEST = FOLDER / "decoder.onnx", np.load(FOLDER / "test.npz")["input_ids"]
MIXTURE, EXPERTS = FOLDER / "experts.onnx", r"\.router\.weight:1$"

runs_mixtures = pytest.mark.skipif(OLD_RUNTIME, reason="this onnxruntime knows no activation_alpha of MoE")


@pytest.mark.slow
def test_files() -> None:
    """Valid and small; the data are what their generator makes."""
    assert MODEL.stat().st_size < 1_000_000 and MIXTURE.stat().st_size < 1_000_000
    onnx.checker.check_model(onnx.load(MODEL), full_check=True)
    assert TEST.shape == (256, LENGTH) and TEST.max() < len(WORDS)
    np.testing.assert_array_equal(TEST, samples(256, seed=3))
    np.testing.assert_array_equal(np.load(FOLDER / "calib.npz")["input_ids"], samples(384, seed=2))


@pytest.mark.slow
def test_perplexity() -> None:
    assert perplexity(onnx.load(MODEL), TEST) == pytest.approx(1.962, abs=1e-3)


@pytest.mark.slow
@runs_mixtures
def test_perplexity_of_a_mixture() -> None:
    assert perplexity(onnx.load(MIXTURE), TEST) == pytest.approx(2.151, abs=1e-3)


@pytest.mark.slow
@runs_mixtures
def test_texts_tell_which_experts_to_keep() -> None:
    """With a quarter of them, the model is better than with those of the largest weights."""
    options: dict[str, Any] = {"only": [EXPERTS], "mixing": True, "repair": "none", "time": False, "verify": False}
    by_weights = onnxprune.prune(MIXTURE, 0.75, **options)
    by_texts = onnxprune.prune(MIXTURE, 0.75, calib=FOLDER / "calib.npz", **options)
    assert perplexity(by_texts.proto, TEST) < 0.8 * perplexity(by_weights.proto, TEST)


@pytest.mark.slow
def test_the_plain_command_is_near_the_best_mix() -> None:
    """With three quarters of the parameters it is better than either width alone, without data."""

    def pruned(**options: object) -> tuple[float, float]:
        result = onnxprune.prune(MODEL, repair="none", time=False, **options)  # type: ignore[arg-type]
        testing.assert_equivalent(MODEL, result)
        params = result.report.params
        return (params.after or 0) / (params.before or 1), perplexity(result.proto, TEST)

    left, plain = pruned(target={"params": 0.75})
    width, narrow = pruned(ratio=0.25, only=[WIDTH])
    inner, thin = pruned(ratio=0.45, only=[INNER])
    assert left <= 0.75 < width and inner == pytest.approx(left, abs=0.01)
    assert plain < thin < narrow
