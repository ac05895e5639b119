"""A training that was killed goes on after its latest epoch, and makes the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.errors import InputError
from onnxprune.repair.training_loop import TrainingLoop
from tests.support.paths import MODELS

MODEL = MODELS / "sk_mlp.onnx"


class Killed(BaseException):
    """What no part of a run catches."""


@pytest.fixture
def data(tmp_path: Path) -> str:
    with np.load(MODELS / "digits_test_flat.npz") as digits:
        np.savez(tmp_path / "data.npz", input=digits["input"][:120], labels=digits["labels"][:120])
    return str(tmp_path / "data.npz")


@pytest.fixture
def epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs that were begun; the first entry, where there is one, is that at whose beginning the run is killed."""
    begun: list[int] = []
    real = TrainingLoop._epoch

    def epoch(loop: TrainingLoop, number: int) -> float:
        if begun and number == -begun[0]:
            raise Killed
        begun.append(number)
        return real(loop, number)

    monkeypatch.setattr(TrainingLoop, "_epoch", epoch)
    return begun


def trained(data: str, **options: Any) -> bytes:
    tuned = onnxprune.finetune(MODEL, data, epochs=4, rate=0.01, **options)
    content: bytes = tuned.model.SerializeToString(deterministic=True)
    return content


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"teacher": str(MODEL), "loss": "cross-entropy"},
        {"schedule": "cubic", "end": 0.5, "importance": "movement"},
        {"schedule": "linear", "pattern": "2:4", "importance": "movement"},
    ],
)
@pytest.mark.slow
def test_it_goes_on_after_the_latest_epoch(
    options: dict[str, Any], data: str, epochs: list[int], tmp_path: Path
) -> None:
    whole = trained(data, **options)
    assert epochs == [0, 1, 2, 3]
    epochs[:] = [-2]
    with pytest.raises(Killed):
        trained(data, work=tmp_path / "steps", **options)
    assert epochs == [-2, 0, 1]
    epochs.clear()
    assert trained(data, work=tmp_path / "steps", **options) == whole
    assert epochs == [2, 3]
    epochs.clear()
    assert trained(data, work=tmp_path / "steps", **options) == whole
    assert epochs == []


def test_a_folder_of_another_training_is_refused(data: str, tmp_path: Path) -> None:
    trained(data, work=tmp_path / "steps")
    with pytest.raises(InputError, match="steps of another run: it differs in options"):
        trained(data, work=tmp_path / "steps", seed=1)
    other = onnx.load(MODEL)
    other.doc_string = "another"
    with pytest.raises(InputError, match="steps of another run: it differs in model"):
        onnxprune.finetune(other, data, epochs=4, rate=0.01, work=tmp_path / "steps")


@pytest.mark.parametrize("options", [{"minutes": 1.0}, {"loss": lambda outputs, labels: (0.0, {})}])
def test_trainings_that_differ_each_time_keep_nothing(options: dict[str, Any], data: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="work is for runs that take the same steps each time"):
        trained(data, work=tmp_path / "steps", **options)
    assert not (tmp_path / "steps").exists()
