"""The verb ``finetune``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx

from tests.support.commands import Cli
from tests.support.paths import MODELS

MODEL, DATA = str(MODELS / "sk_mlp.onnx"), str(MODELS / "digits_test_flat.npz")


def test_it_writes_what_it_says(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "trained.onnx"
    ended = cli("finetune", MODEL, "--calib", DATA, "--epochs", "1", "-o", str(out), "--json")
    assert ended.code == 0
    told = json.loads(ended.out)
    assert told["output"] == str(out) and told["training"]["loss"] == "cross-entropy"
    assert told["metric"]["name"] == "top1" and told["training"]["epochs"] == 1
    onnx.checker.check_model(onnx.load(out))


def test_it_says_how_long_steps_were(cli: Cli, tmp_path: Path) -> None:
    out, words = tmp_path / "trained.onnx", ["finetune", MODEL, "--calib", DATA, "--epochs", "1", "-o"]
    assert "1 epoch, steps of at most 0.001 of their size" in cli(*words, str(out)).out
    assert "1 epoch, steps of at most 0.02 of their size" in cli(*words, str(out), "--force", "--rate", "0.02").out


def test_exit_codes(cli: Cli, tmp_path: Path) -> None:
    """2 where nothing can be learnt, and 5 where a strict run has a warning; nothing is written then."""
    unlabelled, out = tmp_path / "x.npz", tmp_path / "trained.onnx"
    np.savez(unlabelled, input=np.load(DATA)["input"])
    ended = cli("finetune", MODEL, "--calib", str(unlabelled), "-o", str(out))
    assert ended.code == 2 and "neither labels nor a teacher" in ended.err and "--teacher" in ended.err
    words = ["finetune", MODEL, "--calib", DATA, "--epochs", "1", "--rate", "3", "-o", str(out)]
    assert cli(*words, "--strict").code == 5
    assert not out.exists()
