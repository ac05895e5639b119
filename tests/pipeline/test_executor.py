"""Runs make the same wherever and in whatever order their tasks are done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.common.executor import sorted_by_task, using
from onnxprune.model.stored_files import shared_files
from tests.support.classifier import classifier, samples
from tests.support.elsewhere import Elsewhere

WORKERS = (1, 2, 4)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file of the classifier."""
    onnx.save(classifier(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def calib(tmp_path: Path) -> str:
    """A file of its data."""
    np.savez(tmp_path / "data.npz", **samples())
    return str(tmp_path / "data.npz")


def test_results_in_the_order_of_their_tasks() -> None:
    """However they come, and one by one as soon as they can."""
    came = iter([(2, "c"), (0, "a"), (1, "b"), (3, "d")])
    ordered = sorted_by_task(came)
    assert [next(ordered), next(came, None)] == ["a", (1, "b")]
    assert list(sorted_by_task([(1, "b"), (0, "a")])) == ["a", "b"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [
        {"target": {"macs": 0.5}},
        {"ratio": 0.5, "global_ranking": True, "steps": 2},
        {"ratio": 0.5, "pattern": "weights", "repair": "calibrated"},
    ],
)
def test_a_calibrated_run(asked: dict[str, Any], model: Path, calib: str) -> None:
    """Statistics in shards and damage trials by group: the same bytes from none, one, two and four."""
    given = {"calib": calib, "time": False} | asked
    here = onnxprune.prune(model, **given).proto.SerializeToString(deterministic=True)
    for workers in WORKERS:
        executor = Elsewhere(workers)
        with using(executor):
            there = onnxprune.prune(model, **given).proto.SerializeToString(deterministic=True)
        assert there == here and executor.done > 2


@pytest.mark.slow
@pytest.mark.parametrize("data", [True, False])
def test_sensitivity(data: bool, model: Path, calib: str) -> None:
    """Trials of groups."""
    given: dict[str, Any] = {"calib": calib} if data else {}
    here = onnxprune.sensitivity(model, **given).to_dict()
    with using(Elsewhere(2)):
        there = onnxprune.sensitivity(model, **given).to_dict()
    assert {**here, "seconds": 0} == {**there, "seconds": 0}


@pytest.mark.slow
@pytest.mark.parametrize("workers", WORKERS)
def test_a_sweep(workers: int, model: Path, calib: str, tmp_path: Path) -> None:
    """Models of all variants."""
    given: dict[str, Any] = {"importance": ("obs", "l2"), "calib": calib, "time": False, "keep_models": "all"}
    onnxprune.sweep(model, (0.25, 0.5, 0.75), folder=tmp_path / "here", **given)
    with using(Elsewhere(workers)):
        onnxprune.sweep(model, (0.25, 0.5, 0.75), folder=tmp_path / "there", **given)
    here, there = ({p.name: p.read_bytes() for p in (tmp_path / f).glob("*.onnx")} for f in ("here", "there"))
    assert len(here) == 6 and here == there


def test_files_of_a_model_with_external_data(tmp_path: Path) -> None:
    """The model's file and its data files, by what is in them."""
    onnx.save(classifier(), tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    files = shared_files(tmp_path / "net.onnx")
    assert [name for name, _, _ in files.files] == ["net.onnx", "net.data"]
    (tmp_path / "net.data").write_bytes((tmp_path / "net.data").read_bytes()[::-1])
    assert shared_files(tmp_path / "net.onnx").key != files.key
