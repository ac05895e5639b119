"""Masked equivalence over many random graphs, and where it fails the smallest graph that still does.

    python tools/random_equivalence.py --count 10000 [--start 0] [--keep FOLDER] [--fits] [--repair data-free]

Every graph is drawn from a seed out of the supported operators, half of the units of every exact group are removed at
random, and the result is compared in onnxruntime with the original whose removed slices are zero. A failing graph is
drawn again with fewer steps until it no longer fails; the smallest is saved under --keep. With --fits it is also
checked that layers are fitted to what they computed (`oracle.assert_fits_agree`), with --repair that a whole run with
this repair ends with a model that onnxruntime runs. Exit status 0 when none fails.
"""

from __future__ import annotations

import argparse
import collections
import sys
from functools import partial
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnxprune
from tests.support.graph_builder import Seeded
from tests.support.oracle import assert_equivalent, assert_fits_agree
from tests.support.random_graphs import random_model
from tests.test_equivalence import feeds_of, finite

SAMPLES = 12
"""Calibration samples of a run with a repair."""


def failure(seed: int, steps: int, *, fits: bool = False, repair: str | None = None) -> tuple[str, int]:
    """What is wrong with the graph of a seed ("" if nothing), and how many channels went."""
    try:
        model = random_model(Seeded(seed), steps)
        feeds = [feeds_of(model, seed), *(feeds_of(model, 100 * seed + i) for i in range(1, SAMPLES))]
        if not all(finite(model, f) for f in feeds[: SAMPLES if fits or repair else 1]):
            return "", 0
        gone = assert_equivalent(model, feeds[0], 0.5, seed)
        if fits:
            assert_fits_agree(model, feeds[: SAMPLES // 2], seed)
        if repair is not None:
            data = {"calib": feeds} if repair == "calibrated" else {}
            report = onnxprune.prune(model, 0.5, repair=repair, **data).report
            assert report.verified, report.unverified_because
        return "", gone
    except Exception as e:
        return f"{type(e).__name__}: {str(e).splitlines()[0][:160]}", 0


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--fits", action="store_true")
    parser.add_argument("--repair", choices=["none", "data-free", "calibrated"])
    args = parser.parse_args()
    check = partial(failure, fits=args.fits, repair=args.repair)
    operators: collections.Counter[str] = collections.Counter()
    pruned = failed = 0
    for seed in range(args.start, args.start + args.count):
        why, gone = check(seed, args.steps)
        pruned += gone > 0
        operators.update({n.op_type for n in random_model(Seeded(seed), args.steps).graph.node})
        if not why:
            continue
        failed += 1
        steps = next(s for s in range(2, args.steps + 1) if check(seed, s)[0])
        print(f"seed {seed}, {steps} steps: {check(seed, steps)[0]}", flush=True)
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=True)
            onnx.save(random_model(Seeded(seed), steps), args.keep / f"seed{seed}.onnx")
    print(
        f"{args.count} graphs, {pruned} of them pruned, {failed} failed; graphs with each operator: "
        + ", ".join(f"{k} {v}" for k, v in operators.most_common())
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
