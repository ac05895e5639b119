"""Values of large tensors: blocks are what the whole array is, and edits of tensors in data files wait to be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.edit.sliced import Sliced
from onnxprune.model import values as values_module
from onnxprune.model.model import STREAMED_MIN_BYTES, load
from onnxprune.model.values import Made, Values, Whole, regrouped, stretches
from onnxprune.testing import assert_equivalent
from tests.support.saved_models import external


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values_module, "BLOCK", 64)


def joined(values: Values, multiple: int = 1) -> np.ndarray:
    blocks = list(values.blocks(multiple))
    assert all(len(block) % multiple == 0 for block in blocks[:-1])
    return np.concatenate(blocks)


@pytest.mark.parametrize("shape", [(7,), (9, 5), (4, 3, 2), (1, 100), (50, 1)])
@pytest.mark.parametrize("multiple", [1, 4])
def test_blocks_are_the_array_in_order(shape: tuple[int, ...], multiple: int) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    for values in (Whole(array), Made(shape, array.dtype, lambda: array)):
        np.testing.assert_array_equal(joined(values, multiple), array)
        np.testing.assert_array_equal(values.array(), array)
        assert set(values.sample(3).tolist()) <= set(array.ravel().tolist())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8])
def test_sliced_blocks_are_what_is_left(dtype: type) -> None:
    array = np.random.default_rng(0).integers(0, 100, (40, 70)).astype(dtype)
    for removal in ({0: [0, 3, 39]}, {1: [*range(5, 60, 3)]}, {0: [*range(20)], 1: [69]}, {1: [*range(10, 50)]}):
        wanted = array
        for axis, indices in removal.items():
            wanted = np.delete(wanted, indices, axis=axis)
        found = Sliced(Whole(array), removal)
        assert found.shape == wanted.shape and found.dtype == array.dtype
        for multiple in (1, 3):
            np.testing.assert_array_equal(joined(found, multiple), wanted)
        np.testing.assert_array_equal(found.array(), wanted)
        twice = Sliced(found, {1: [0, 2]})
        np.testing.assert_array_equal(joined(twice), np.delete(wanted, [0, 2], axis=1))


def test_parts_of_any_length_are_regrouped() -> None:
    array = np.arange(23)
    parts = np.split(array, [1, 2, 9, 9, 15])
    lengths = [len(part) for part in regrouped(parts, 4)]
    assert all(n % 4 == 0 for n in lengths[:-1]) and sum(lengths) == 23


def test_stretches_are_runs_of_consecutive_indices() -> None:
    assert stretches(np.array([0, 1, 2, 5, 7, 8])) == [(0, 3), (5, 6), (7, 9)]
    assert stretches(np.array([], dtype=int)) == []


@pytest.mark.slow
def test_pruned_weights_in_data_files_are_made_when_they_are_read(tmp_path: Path) -> None:
    """The same model comes out as of one file; meanwhile no weight is held."""
    width = 512
    assert width * width * 4 >= STREAMED_MIN_BYTES
    path = external(tmp_path, width=width, layers=3)
    whole = onnx.load(path)
    found = onnxprune.prune(path, ratio=0.5, repair="none", verify=False)
    found.save(tmp_path / "out.onnx")
    assert found._model.defers  # saving made none of them
    wanted = onnxprune.prune(whole, ratio=0.5, repair="none", verify=False)
    assert found.plan.removed == wanted.plan.removed
    saved = load(tmp_path / "out.onnx")
    for mine, theirs in zip(saved.proto.graph.initializer, wanted.proto.graph.initializer, strict=True):
        assert saved.array(mine).tobytes() == theirs.raw_data
    assert [t.raw_data for t in found.proto.graph.initializer] == [t.raw_data for t in wanted.proto.graph.initializer]


@pytest.mark.slow
def test_a_streamed_model_is_equivalent_to_the_masked_original(tmp_path: Path) -> None:
    path = external(tmp_path, width=512, layers=3)
    assert_equivalent(path, onnxprune.prune(path, ratio=0.3, repair="none"))
