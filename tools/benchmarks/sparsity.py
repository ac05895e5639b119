"""What patterns of zeros leave of the accuracy of trained models, by every method, ours and a peer's.

    python -m tools.benchmarks sparsity ../shared/real [--only NAME ...] [--patterns weights=0.8 2:4 ...]
        [--samples 1024] [--methods l2 wanda sparsegpt alps obs-even obs] [--peer PEER_PYTHON]

FOLDER is that of `accuracy.py`, and so are the rows. ``l2`` is magnitude, without data and without repair; the
others have calibration data: each chooses zeros and what stays is refitted. ``obs`` is the default: what zeros do to
the outputs says how many each layer gets. With all others, ``obs-even`` too, each layer gets the same share.
With ``--peer``, a Python that has onnxsim, its Wanda and SparseGPT follow, on the same samples (it knows no blocks).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import onnxprune
from onnxprune import sparsity
from tools.benchmarks.accuracy import Case, Row, cases, timed, verdict

__all__ = ["add_arguments", "rows", "verdict"]

PATTERNS = ("weights=0.5", "weights=0.7", "weights=0.8", "weights=0.9", "2:4", "4x1=0.5")
METHODS = ("l2", "wanda", "sparsegpt", "alps", "obs-even", "obs")
PEERS = ("onnxsim-wanda", "onnxsim-sparsegpt")


def prune(row: Row, case: Case, samples: int, peer: str | None) -> bool:
    """Sets weights to zero by our command or by the peer; whether there is a model to judge."""
    if peer and row.mode in PEERS:
        kind, _, share = row.target.partition("=")
        much = ["--sparsity", share] if kind == "weights" else ["--keep", *kind.split(":")]
        words = [
            peer,
            str(Path(__file__).with_name("peer_onnxsim.py")),
            str(case.model),
            str(case.out),
            "--zeros",
            row.mode.removeprefix("onnxsim-"),
            *much,
            "--calib",
            str(case.data),
            "--samples",
            str(samples),
        ]
    else:
        words = [
            sys.executable,
            "-m",
            "onnxprune",
            str(case.model),
            "-o",
            str(case.out),
            "--pattern",
            row.target,
            "--importance",
            row.mode.removesuffix("-even"),
            "--quiet",
            "--no-verify",
            "--force",
        ]
        words += [] if row.mode == "obs" else ["--no-global"]
        words += ["--repair", "none"] if row.mode == "l2" else ["--calib", str(case.data)]
    code, _, row.why, seconds, peak = timed(words)
    row.seconds, row.peak_mb = round(seconds, 1), round(peak)
    if code:
        return False
    row.why, row.left = "", round(dense(case.out), 4)
    return True


def dense(path: Path) -> float:
    """Share of the weights of products that are not zero."""
    model = onnxprune.analyze(path)
    arrays = [sparsity.real_values(model.model, model.coupling, w.value) for w in sparsity.weights(model.coupling)]
    return sum(np.count_nonzero(a) for a in arrays) / max(sum(a.size for a in arrays), 1)


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row a run, as it is done."""
    for case in cases(args.folder, args.only, args.samples):
        for pattern in args.patterns:
            for mode in [*args.methods, *(PEERS if args.peer and "x" not in pattern else ())]:
                row = case.row(pattern, mode)
                if prune(row, case, args.samples, args.peer):
                    case.judge(row)
                yield asdict(row)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--patterns", nargs="*", default=PATTERNS)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--peer", metavar="PYTHON", help="a Python that has onnxsim")
