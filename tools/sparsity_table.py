"""What patterns of zeros leave of the accuracy of trained models, by every method, ours and a peer's.

    python tools/sparsity_table.py ../shared/real [--only NAME ...] [--patterns weights=0.8 2:4 ...] [--samples 1024]
        [--methods l2 wanda sparsegpt alps obs-even obs] [--peer PEER_PYTHON] [--csv FILE]

FOLDER is that of `accuracy_table.py`, and so are the rows. ``l2`` is magnitude, without data and without repair; the
others have calibration data: each chooses zeros and what stays is refitted. ``obs`` is the default: what zeros do to
the outputs says how many each layer gets. With all others, ``obs-even`` too, each layer gets the same share.
With ``--peer``, a Python that has onnxsim, its Wanda and SparseGPT follow, on the same samples (it knows no blocks).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from accuracy_table import Case, Row, cases, shown, timed

import onnxprune
from onnxprune import sparsity

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
    arrays = [sparsity.real(model.model, model.coupling, w.value) for w in sparsity.weights(model.coupling)]
    return sum(np.count_nonzero(a) for a in arrays) / max(sum(a.size for a in arrays), 1)


def rows(
    folder: Path,
    names: Sequence[str] | None,
    patterns: Sequence[str],
    methods: Sequence[str],
    samples: int,
    peer: str | None,
) -> Iterator[Row]:
    """One row after the other, as it is done."""
    for case in cases(folder, names, samples):
        for pattern in patterns:
            for mode in [*methods, *(PEERS if peer and "x" not in pattern else ())]:
                row = case.row(pattern, mode)
                if prune(row, case, samples, peer):
                    case.judge(row)
                yield row


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--patterns", nargs="*", default=PATTERNS)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--peer", metavar="PYTHON", help="a Python that has onnxsim")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    shown(rows(args.folder, args.only, args.patterns, args.methods, args.samples, args.peer), args.csv)


if __name__ == "__main__":
    main()
