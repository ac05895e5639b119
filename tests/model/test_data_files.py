"""Models with several data files: read, and written as asked or as they came."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.model.external_data import make_external
from onnxprune.model.model import Model, load
from onnxprune.model.save import save
from tests.support.saved_models import chain, external

SIZE = 64 * 64 * 4


def sharded(folder: Path, layers: int, per_file: int) -> Path:
    """A chain whose weights are in files of some each: ``in.onnx_data``, ``in.onnx_data_1``, ..."""
    proto, path = chain(64, layers), folder / "in.onnx"
    for i, tensor in enumerate(proto.graph.initializer):
        file, at = divmod(i, per_file)
        name = "in.onnx_data" + (f"_{file}" if file else "")
        with open(folder / name, "ab") as stream:
            stream.write(tensor.raw_data)
        tensor.ClearField("raw_data")
        make_external(tensor, name, at * SIZE, SIZE)
    path.write_bytes(proto.SerializeToString())
    return path


def sizes(path: Path) -> list[int]:
    return sorted(file.stat().st_size for file in load(path).data_files)


def weights(model: Model) -> list[np.ndarray]:
    return [model.array(t) for t in model.proto.graph.initializer]


def test_a_model_in_several_files_is_written_to_several(tmp_path: Path) -> None:
    path = sharded(tmp_path, layers=5, per_file=2)
    model = load(path)
    assert sizes(path) == [SIZE, 2 * SIZE, 2 * SIZE]
    written = save(model, tmp_path / "out.onnx")
    assert sizes(tmp_path / "out.onnx") == [SIZE, 2 * SIZE, 2 * SIZE]
    assert written == (tmp_path / "out.onnx").stat().st_size + 5 * SIZE
    np.testing.assert_equal(weights(load(tmp_path / "out.onnx")), weights(model))


@pytest.mark.parametrize(
    ("chunk", "wanted"), [(SIZE, [SIZE] * 4), (1, [SIZE] * 4), (3 * SIZE, [SIZE, 3 * SIZE]), (10 * SIZE, [4 * SIZE])]
)
def test_data_files_are_as_large_as_asked(tmp_path: Path, chunk: int, wanted: list[int]) -> None:
    """A tensor that is larger than a chunk has a file for itself."""
    for model in (load(external(tmp_path, width=64, layers=4)), load(chain(64, 4))):
        save(model, tmp_path / "out.onnx", data_chunk=chunk)
        assert sizes(tmp_path / "out.onnx") == wanted
        np.testing.assert_equal(weights(load(tmp_path / "out.onnx")), weights(model))
    onnx.checker.check_model(tmp_path / "out.onnx")


def test_equal_files_are_one(tmp_path: Path) -> None:
    proto = chain(64, 2)
    proto.graph.initializer[1].raw_data = proto.graph.initializer[0].raw_data
    save(load(proto), tmp_path / "out.onnx", data_chunk=SIZE)
    assert sizes(tmp_path / "out.onnx") == [SIZE]
    np.testing.assert_equal(weights(load(tmp_path / "out.onnx")), weights(load(proto)))


def test_files_of_the_model_before_are_removed(tmp_path: Path) -> None:
    save(load(chain(64, 4)), tmp_path / "out.onnx", data_chunk=SIZE)
    save(load(chain(64, 4, seed=1)), tmp_path / "out.onnx", data_chunk=2 * SIZE)
    assert {f.name for f in tmp_path.iterdir()} == {
        "out.onnx",
        *(f.name for f in load(tmp_path / "out.onnx").data_files),
    }


def test_a_pruned_model_in_several_files_is_verified(tmp_path: Path) -> None:
    result = onnxprune.prune(sharded(tmp_path, layers=4, per_file=1), ratio=0.5, repair="none")
    assert result.report.verified
    result.save(tmp_path / "out.onnx", data_chunk=SIZE // 2)
    assert max(sizes(tmp_path / "out.onnx")) <= SIZE // 2
