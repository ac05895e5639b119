"""Calibration data in .npz and .npy files and in arrays of the caller."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from onnxprune.calibration import open_samples
from onnxprune.runtime.session import session
from tests.calibration.cases import INT64, ONE, STATEFUL, error, firsts, model, rows, sizes


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_by_name(tmp_path, save):
    save(tmp_path / "c.npz", x=rows(70), labels=np.arange(70), note=np.zeros(2))
    samples = open_samples(str(tmp_path / "c.npz"), ONE)
    assert (samples.count, samples.unused) == (70, ("note",))
    assert sizes(samples) == [32, 32, 6]
    assert np.array_equal(np.concatenate([b["x"] for b in samples]), rows(70))
    assert np.array_equal(samples.labels, np.arange(70))


def test_npz_without_a_name_and_npy(tmp_path):
    np.savez(tmp_path / "c.npz", rows(4), labels=np.arange(4))
    np.save(tmp_path / "c.npy", rows(4))
    for path in (tmp_path / "c.npz", tmp_path / "c.npy"):
        samples = open_samples(path, ONE)
        assert firsts(samples) == [0, 3, 6, 9]
        assert samples.unused == ()


def test_arrays_in_other_orders(tmp_path):
    """Samples along axis 1, and members in Fortran order, are read like any other."""
    proto, data = model(("x", ["time", "batch", 2])), np.arange(3 * 7 * 2, dtype="f").reshape(3, 7, 2)
    for array in (data, np.asfortranarray(data)):
        np.savez(tmp_path / "c.npz", x=array)
        batches = list(open_samples(tmp_path / "c.npz", proto, batch=4).batches())
        assert [b["x"].shape for b in batches] == [(3, 4, 2), (3, 3, 2)]
        assert np.array_equal(np.concatenate([b["x"] for b in batches], axis=1), data)


def test_dict_and_single_array():
    assert firsts(open_samples({"x": rows(3)}, ONE)) == firsts(open_samples(rows(3), ONE)) == [0, 3, 6]


def test_labels_that_are_an_input():
    proto = model(("x", ["N", 3]), ("labels", ["N"], INT64))
    samples = open_samples({"x": rows(3), "labels": np.arange(3)}, proto)
    assert samples.labels is None
    assert np.array_equal(next(samples.batches())["labels"], np.arange(3))


def test_an_additional_axis_counts_feeds():
    x, h = rows(6, 10).reshape(6, 1, 5, 2), rows(6, 8).reshape(6, 2, 1, 4)
    for given in ({"x": x, "h": h}, {"x": x[:, 0], "h": h}):  # x also as rows of its fixed batch of 1
        samples = open_samples(given | {"labels": np.arange(6)}, STATEFUL, limit=4)
        batches = list(samples.batches())
        assert len(batches) == samples.count == 4
        for batch, label in zip(batches, samples.labels, strict=True):
            assert np.array_equal(batch["x"], x[label]) and np.array_equal(batch["h"], h[label])


def test_an_array_may_be_shared_by_all_feeds():
    x, h, scale = rows(6, 10).reshape(6, 5, 2), rows(2, 4).reshape(2, 1, 4), np.float32(2)
    batches = list(open_samples({"x": x, "h": h}, STATEFUL).batches())
    assert len(batches) == 6 and all(np.array_equal(b["h"], h) for b in batches)
    proto = model(("x", ["N", 3]), ("scale", []))
    assert [b["scale"].shape for b in open_samples({"x": rows(2), "scale": scale}, proto)] == [(), ()]


def test_a_first_axis_that_is_not_a_batch_axis():
    proto = model(("x", ["seq_len", 3]))
    assert open_samples(rows(9), proto).count == 1
    assert open_samples(np.stack([rows(9)] * 5), proto).count == 5


def test_fixed_batch_of_one():
    samples = open_samples({"x": rows(5)}, model(("x", [1, 3])))
    assert sizes(samples) == [1] * 5 and samples.count == 5


@pytest.mark.parametrize("as_file", [False, True])
def test_scalars_are_fed_as_arrays(as_file, tmp_path):
    proto = model(("x", ["N", 3]), ("flag", [], TensorProto.BOOL))
    source = {"x": rows(4).reshape(4, 1, 3), "flag": np.array([True, False, True, True])}
    if as_file:
        np.savez(tmp_path / "s.npz", **source)
        source = tmp_path / "s.npz"
    feeds = list(open_samples(source, proto).batches())
    runs = session(proto)
    assert [bool(runs.run(["flag_out"], f)[0]) for f in feeds] == [True, False, True, True]


def test_files_that_are_not_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "whole.npz", x=rows(5000))
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npy").write_text("hello")
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    (tmp_path / "damaged.npz").write_bytes(damaged)
    np.savez(tmp_path / "objects.npz", x=np.array([[None]]))
    (tmp_path / "c.csv").write_text("1,2")
    for name in ("short.npz", "text.npy", "damaged.npz"):
        assert "cannot be read" in error(tmp_path / name)
    assert "Python objects" in error(tmp_path / "objects.npz")
    assert "neither .npz, .npy nor .txt" in error(tmp_path / "c.csv")
