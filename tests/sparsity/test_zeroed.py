"""Zeros that are set when a weight is read: block by block the same as all at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.extensions.patterns import parse
from onnxprune.graph.operators import WeightLayout
from onnxprune.model import values as values_module
from onnxprune.model.model import load
from onnxprune.model.values import Whole
from onnxprune.sparsity.unstructured import order_statistic
from onnxprune.sparsity.zeroed import Zeroed, block_masks
from tests.support.saved_models import external


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values_module, "BLOCK", 256)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("text", ["2:4", "1:3", "weights=0.3", "weights=0"])
@pytest.mark.parametrize("layout", [WeightLayout(0, 1), WeightLayout(1, 0)])
def test_masks_of_blocks_are_those_of_the_weight(dtype: type, text: str, layout: WeightLayout) -> None:
    """Few different values, so that equal ones compete; lengths that groups do not divide."""
    array = np.random.default_rng(0).integers(-5, 6, (37, 30)).astype(dtype)
    pattern = parse(text)
    wanted = pattern.mask(np.abs(array), layout)
    masks = block_masks(Whole(array), pattern, layout)
    assert masks is not None and masks.count == np.count_nonzero(wanted)
    for _ in range(2):  # they can be made again
        np.testing.assert_array_equal(masks.whole(), wanted)
    blocks = list(Zeroed(masks).blocks())
    assert len(blocks) > 1
    np.testing.assert_array_equal(np.concatenate(blocks), np.where(wanted, 0, array))


@pytest.mark.parametrize("many", [10, 5000, 100_000])
def test_the_order_statistic_of_parts(many: int) -> None:
    numbers = np.random.default_rng(1).integers(0, 2**16, many).astype(np.uint16)
    parts = np.array_split(numbers, 7)
    for position in (0, many // 3, many - 1):
        found, smaller = order_statistic(lambda: iter(parts), numbers[::3], many, position)
        assert found == np.sort(numbers)[position] and smaller == np.count_nonzero(numbers < found)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["2:4", "weights=0.4", "4x1=0.5"])
def test_zeros_of_weights_in_data_files(tmp_path: Path, pattern: str) -> None:
    """Model and plan are those of the same model in one file, and the plan makes the same of it again."""
    path = external(tmp_path, width=512, layers=2)
    wanted = onnxprune.prune(onnx.load(path), pattern=pattern, verify=False)
    found = onnxprune.prune(path, pattern=pattern, verify=False)
    assert found.report.zeroed == wanted.report.zeroed
    assert found.plan.to_json() == wanted.plan.to_json()
    for result in (found, onnxprune.apply(found.plan, path, verify=False)):
        result.save(tmp_path / "out.onnx")
        saved = load(tmp_path / "out.onnx")
        for mine, theirs in zip(saved.proto.graph.initializer, wanted.proto.graph.initializer, strict=True):
            assert saved.array(mine).tobytes() == theirs.raw_data
