"""Statistics in a file: the same plan again without the data, and nothing believed that does not fit."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.errors import InputError
from onnxprune.graph.graph import Graph
from onnxprune.layers.find import linear_layers
from onnxprune.model.model import load
from onnxprune.options import Options
from onnxprune.statistics.moments import Moments
from onnxprune.statistics.moments_file import read, write
from tests.support.commands import tiny
from tests.support.paths import MODELS

MODEL, CALIB = MODELS / "sk_mlp.onnx", str(MODELS / "digits_calib_flat.npz")


def pruned(path: Path, **more: Any) -> onnxprune.Result:
    return onnxprune.prune(MODEL, 0.5, stats=path, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("moments") / "s.npz"
    pruned(path, calib=CALIB)
    return path


@pytest.fixture
def written(made: Path, tmp_path: Path) -> Path:
    """A file of the test's own, which it may damage."""
    return Path(shutil.copy(made, tmp_path / "s.npz"))


def test_moments_are_restored(tmp_path: Path) -> None:
    model = load(MODEL)
    layers = linear_layers(Graph(model.proto))
    rng = np.random.default_rng(0)
    rows = {
        layer.name: np.maximum(rng.standard_normal((1, 50, layer.features[0])), 0).astype(np.float32)
        for layer in layers
    }
    moments = {name: Moments.of(x) for name, x in rows.items()}
    write(tmp_path / "s.npz", model, layers, moments)
    again = read(tmp_path / "s.npz", model, layers)
    assert list(again) == list(moments)
    for name, m in moments.items():
        assert again[name].count == m.count
        np.testing.assert_array_equal(again[name].total, m.total)
        np.testing.assert_array_equal(again[name].zeros, m.zeros)
        for g in range(len(m.gram)):
            np.testing.assert_allclose(again[name].covariance(g), m.covariance(g), rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("importance", ["obs", "wanda", "flap", "apoz"])
def test_a_later_run_makes_the_same_plan(tmp_path: Path, importance: str) -> None:
    path = tmp_path / "s.npz"
    first = pruned(path, calib=CALIB, importance=importance)
    content = path.read_bytes()
    again = pruned(path, calib=CALIB, importance=importance)
    assert again.plan.to_json() == first.plan.to_json()
    assert again.proto.SerializeToString() == first.proto.SerializeToString()
    assert path.read_bytes() == content
    (tmp_path / "other").mkdir()
    pruned(tmp_path / "other" / "s.npz", calib=CALIB, importance=importance)
    assert (tmp_path / "other" / "s.npz").read_bytes() == content  # the same bytes from the same data
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["s.npz"]


@pytest.mark.slow
def test_scores_need_only_the_file(written: Path) -> None:
    """Without data, scores are computed from the file and nothing is repaired."""
    report = pruned(written).report
    assert report.resolved.importance == "obs"
    assert report.repair is None
    assert pruned(written).plan.removed != onnxprune.prune(MODEL, 0.5).plan.removed


def other_weights(folder: Path) -> Path:
    model = onnx.load(MODEL)
    for t in model.graph.initializer:
        if len(t.dims) == 2:
            t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t) * 1.5, t.name))
    onnx.save(model, folder / "other.onnx")
    return folder / "other.onnx"


@pytest.mark.slow
def test_statistics_of_another_model_are_refused(written: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of another model"):
        onnxprune.prune(other_weights(tmp_path), 0.5, stats=written)


def rewritten(path: Path, **changes: np.ndarray) -> None:
    with np.load(path) as data:
        arrays = {**data, **changes}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path.write_bytes(buffer.getvalue())


@pytest.mark.slow
def test_another_version_is_refused(written: Path) -> None:
    with np.load(written) as data:
        header = json.loads(bytes(data["header"])) | {"version": 99}
    rewritten(written, header=np.frombuffer(json.dumps(header).encode(), np.uint8))
    with pytest.raises(InputError, match="version 2"):
        pruned(written)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"0.covariance": np.zeros((1, 3), np.float32)},
        {"0.count": np.array(1.5)},
        {"0.total": np.full((1, 64), np.nan)},
        {"0.zeros": np.array([["x"] * 64])},
        {"header": np.frombuffer(b"[1]", np.uint8)},
        {"header": np.zeros(4, np.uint8)},
        {"0.total": np.array([[print] * 64], dtype=object)},
    ],
    ids=str,
)
def test_damaged_files_are_refused(written: Path, change: dict[str, np.ndarray]) -> None:
    """Among them an object array, which would have to be unpickled."""
    rewritten(written, **change)
    with pytest.raises(InputError, match=r"s\.npz: "):
        pruned(written)


def test_an_indefinite_covariance_is_refused(written: Path) -> None:
    with np.load(written) as data:
        upper = data["0.covariance"]
    rewritten(written, **{"0.covariance": -upper})
    with pytest.raises(InputError, match="cannot be read as statistics"):
        pruned(written)


def test_headers_that_are_cut_off_are_refused(written: Path, tmp_path: Path) -> None:
    """numpy parses headers as Python, whose tokenizer raises its own error."""
    text = b"{'descr': '<f4',\nL(\n'fortran_order'".ljust(117) + b"\n"
    member = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    with zipfile.ZipFile(written) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in {**parts, "0.total.npy": member}.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match="cannot be read as statistics"):
        pruned(written)
    (tmp_path / "x.npy").write_bytes(member)
    with pytest.raises(InputError, match="cannot be read"):
        onnxprune.prune(MODEL, 0.5, calib=tmp_path / "x.npy")


def test_cut_off_and_foreign_files_are_refused(written: Path) -> None:
    whole = written.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PK", b"hello"):
        written.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as statistics"):
            pruned(written)


def test_too_large_an_archive_is_refused_unread(written: Path) -> None:
    rewritten(written, more=np.zeros(2**24, np.uint8))
    with pytest.raises(InputError, match="larger than statistics of this model can be"):
        pruned(written)


def test_missing_and_unused_statistics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no statistics in"):
        onnxprune.prune(tiny(), 0.5, stats=tmp_path / "none.npz")
    with pytest.raises(InputError, match="uses no statistics"):
        Options.of(ratio=0.5, stats=tmp_path / "s.npz", calib=CALIB, importance="l2")
