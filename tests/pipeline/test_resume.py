"""A run that was killed goes on where it was, and makes the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.common.checkpoint import MISSING, Checkpoints
from onnxprune.common.executor import using
from onnxprune.common.storable import from_bytes, storable, to_bytes
from onnxprune.errors import InputError
from onnxprune.importance import damage_curves
from onnxprune.repair import gauss_newton, joint, layerwise
from onnxprune.statistics import moments
from onnxprune.statistics.moments import Moments
from tests.support.classifier import classifier, samples
from tests.support.elsewhere import Elsewhere

ASKED: dict[str, Any] = {"target": {"macs": 0.5}, "time": False}


class Killed(BaseException):
    """What no part of a run catches."""


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """A model with its data in files, and what is asked of it."""
    onnx.save(classifier(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", **samples())
    return {"model": tmp_path / "net.onnx", "calib": str(tmp_path / "data.npz"), **ASKED}


def made(given: dict[str, Any], **others: Any) -> bytes:
    content: bytes = onnxprune.prune(**given, **others).proto.SerializeToString(deterministic=True)
    return content


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each kind of step was done."""
    done: Counter[str] = Counter()

    def counting(module: Any, name: str, kind: str) -> None:
        real = getattr(module, name)

        def count(*args: Any, **kwargs: Any) -> Any:
            done[kind] += 1
            if done["fatal " + kind] == done[kind]:
                raise Killed
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, count)

    counting(moments._Gathering, "__call__", "shard")
    counting(damage_curves, "removal_curve", "curve")
    counting(layerwise, "layer_samples", "fit")
    counting(joint, "refine", "joint fit")
    return done


@pytest.mark.slow
@pytest.mark.parametrize("at", [("shard", 1), ("curve", 1), ("fit", 1), ("fit", 2), ("joint fit", 1), ("none", 0)])
def test_a_run_goes_on_where_it_was_killed(
    at: tuple[str, int], given: dict[str, Any], counted: Counter[str], tmp_path: Path
) -> None:
    """Nothing that was finished is done again, all else is, and the bytes are those of a run in one go."""
    whole = made(given)
    steps = {kind: n for kind, n in counted.items() if not kind.startswith("fatal")}
    assert set(steps) == {"shard", "curve", "fit", "joint fit"}
    counted.clear()
    kind, number = at
    counted["fatal " + kind] = number
    if number:
        with pytest.raises(Killed):
            made(given, work=tmp_path / "work")
    else:
        assert made(given, work=tmp_path / "work") == whole
    before = {kind: n for kind, n in counted.items() if not kind.startswith("fatal")}
    counted.clear()
    assert made(given, work=tmp_path / "work") == whole
    order = list(steps)
    for other, count in steps.items():
        if not number or order.index(other) < order.index(kind):
            assert before[other] == count and counted[other] == 0
        elif other == kind and kind != "shard":  # shards are kept as the sum that they make
            assert counted[other] == count - number + 1


@pytest.mark.slow
def test_together_with_workers(given: dict[str, Any], counted: Counter[str], tmp_path: Path) -> None:
    """Results that came from elsewhere are kept as well, whatever their order."""
    whole = made(given)
    with using(Elsewhere(2)):
        assert made(given, work=tmp_path / "work") == whole
    counted.clear()
    with using(Elsewhere(3)):
        assert made(given, work=tmp_path / "work") == whole
    assert not counted


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="there is no such signal elsewhere")
def test_kill_9(given: dict[str, Any], tmp_path: Path) -> None:
    """The command, killed as soon as it has finished a few steps, and started again with more time."""
    words = [str(given["model"]), "--target", "macs=0.5", "--calib", given["calib"], "--no-time", "--work", "steps"]
    command = [sys.executable, "-m", "onnxprune", *words]
    subprocess.run([*command[:-2], "-o", "whole.onnx"], cwd=tmp_path, check=True, capture_output=True)
    running = subprocess.Popen([*command, "-o", "small.onnx"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while len(list(tmp_path.glob("steps/*.npz"))) < 3 and time.monotonic() < end:
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL and not (tmp_path / "small.onnx").exists()
    again = [*command, "-o", "small.onnx", "--time-limit", "300"]
    subprocess.run(again, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "small.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()


@pytest.mark.slow
def test_a_folder_of_another_run(given: dict[str, Any], tmp_path: Path) -> None:
    """It says what differs, and leaves the folder as it is."""
    given["repair"] = "none"
    work = tmp_path / "work"
    made(given, work=work)
    before = {path: path.read_bytes() for path in work.iterdir()}
    for changed, what in (({"seed": 1}, "options"), ({"ratio": 0.5, "target": None}, "options")):
        with pytest.raises(InputError, match=f"another run: it differs in {what}"):
            onnxprune.prune(**{**given, **changed}, work=work)
    np.savez(tmp_path / "data.npz", **{name: array[::-1] for name, array in samples().items()})
    with pytest.raises(InputError, match="another run: it differs in calibration data"):
        made(given, work=work)
    onnx.save(classifier(5), tmp_path / "net.onnx")
    with pytest.raises(InputError, match="another run: it differs in model and calibration data"):
        made(given, work=work)
    assert {path: path.read_bytes() for path in work.iterdir()} == before


def test_a_damaged_step_is_done_again(tmp_path: Path) -> None:
    """Half a file, and one of another step."""
    kept = Checkpoints(tmp_path / "work", {"model": "a"})
    kept.write(1, "fit", [1.5, np.arange(3)])
    found = kept.read(1, "fit")
    assert found[0] == 1.5 and found[1].tolist() == [0, 1, 2]
    assert kept.read(1, "other") is MISSING and kept.read(2, "fit") is MISSING
    path = next((tmp_path / "work").glob("*.npz"))
    path.write_bytes(path.read_bytes()[:-40])
    assert kept.read(1, "fit") is MISSING


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"calib": samples()}, "arrays or functions of the caller"),
        ({"target": {"latency": 0.5}}, "measured times differ"),
        ({"repair": "distilled", "minutes": 1.0}, "ends the training at another epoch"),
        ({"stats": "stats.npz"}, "names statistics"),
    ],
)
def test_runs_that_take_other_steps_each_time(
    changed: dict[str, Any], says: str, given: dict[str, Any], tmp_path: Path
) -> None:
    """They are refused before any work, and no folder is made."""
    with pytest.raises(InputError, match=says):
        made(given | changed, work=tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_folders_that_are_none(given: dict[str, Any], tmp_path: Path) -> None:
    """A file, a folder in none, and one with other files."""
    for work, says in (
        (given["model"], "is a file"),
        (tmp_path / "a" / "b", "does not exist"),
        (tmp_path, "other files"),
    ):
        with pytest.raises(InputError, match=says):
            made(given, work=work)


def test_what_can_be_stored() -> None:
    """Values come back as they were, to the last bit; anything else is refused, in both directions."""
    matrix = np.random.default_rng(0).standard_normal((2, 3, 3))
    seen = Moments(7, matrix[0, :2], matrix, np.arange(4).reshape(2, 2))
    value = {"a": [None, True, 1, 0.1, float("inf"), "é"], "b": (np.float32(0.1), seen), 3: {}}
    again = from_bytes(to_bytes(value))
    assert again["a"] == value["a"] and again[3] == {} and type(again["b"]) is tuple
    assert again["b"][0].dtype == np.float32 and again["b"][0] == np.float32(0.1)
    assert all(np.array_equal(x, y) for x, y in zip(vars(again["b"][1]).values(), vars(seen).values(), strict=True))
    with pytest.raises(TypeError, match="not storable"):
        to_bytes(Killed())
    with pytest.raises(ValueError, match="not what was stored"):
        from_bytes(b"PK")
    assert storable(gauss_newton.Refined) is gauss_newton.Refined
