"""Folders of .npy and .npz files."""

from __future__ import annotations

import numpy as np

from onnxprune.calibration import open_samples
from tests.calibration.cases import ONE, TWO, firsts, rows, sizes


def test_folder_of_npy(tmp_path):
    """Sorted by name; a file is one sample without a batch axis, or a batch."""
    np.save(tmp_path / "b.npy", rows(3)[2])
    np.save(tmp_path / "a.npy", rows(3)[:2])
    (tmp_path / ".hidden.npy").write_bytes(b"")
    samples = open_samples(tmp_path, ONE)
    assert (samples.count, firsts(samples), sizes(samples)) == (3, [0, 3, 6], [3])


def test_folder_of_npz_with_several_inputs_and_labels(tmp_path):
    for i in range(4):
        ids = np.full((2, 3 + i // 2), i)
        np.savez(tmp_path / f"{i}.npz", ids=ids, mask=np.ones_like(ids), labels=[i, 10 + i])
    samples = open_samples(tmp_path, TWO)
    assert [b["ids"].shape for b in samples.batches()] == [(4, 3), (4, 4)]  # joined while lengths agree
    fit, held = samples.split(0.25)
    for part in (fit, held):
        ids = np.concatenate([b["ids"][:, 0] for b in part.batches()])
        assert np.array_equal(part.labels % 10, ids)
    assert fit.count + held.count == samples.count == 8
