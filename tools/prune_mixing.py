"""Prunes zoo architectures with --mixing, and says of each whether it is valid, keeps its interface, and drifts.

    python tools/prune_mixing.py ../shared/zoo [--only timm/convnext ...] [--ratio 0.5] [--attention dims]
        [--csv mixing.csv]

Mixing groups are not exact, so masked equivalence says nothing of them. What must hold: onnx's checker has no complaint
that the original does not have, onnxruntime runs the result, also at another batch size where the batch is free, its
outputs have the original's shapes and finite values, and the hidden width is cut. The columns are those of the zoo's
own runner, with the drift of the outputs beside. Exit status 0 when all of it holds for every model.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import onnxprune
from onnxprune.verification.drift import drift

FIELDS = ["model", "ok", "why", "params", "params_ratio", "macs", "macs_ratio", "drift", "mixing_groups", "seconds"]


def judge(path: str, zoo: Path, ratio: float, attention: str) -> dict[str, Any]:
    """One row: prunes a hydrated skeleton and looks at the result."""
    import equivalence
    import hydrate
    import run as runner

    original = hydrate.load(zoo / "skeletons" / path)
    row: dict[str, Any] = dict.fromkeys(FIELDS, "") | {"model": path, "ok": 0}
    start = time.perf_counter()
    try:
        result = onnxprune.prune(original, ratio, mixing=True, attention=attention, repair="none", verify=False)
    except onnxprune.OnnxPruneError as e:
        return row | {"why": str(e)}
    row["seconds"] = round(time.perf_counter() - start, 2)
    row["mixing_groups"] = sum(g["grade"] == "mixing" and bool(g["removed"]) for g in result.plan.groups)
    pruned = result.proto
    feeds = [hydrate.sample_inputs(original, seed) for seed in (0, 1)]
    free = {
        v.name
        for v in original.graph.input
        if v.type.tensor_type.shape.dim and v.type.tensor_type.shape.dim[0].dim_param
    }
    if free & set(feeds[0]):
        feeds.append({k: np.concatenate([v, v]) if k in free else v for k, v in feeds[0].items()})
    before, after = runner.parameters(original), runner.parameters(pruned)
    row |= {"params": before, "params_ratio": round(after / max(before, 1), 4)}
    why, drifts = fault(equivalence, original, pruned, feeds)
    if why:
        return row | {"why": why}
    macs = runner.macs(original, feeds[0])
    return row | {
        "ok": 1,
        "drift": round(max(drifts, default=0.0), 3),
        "macs": macs,
        "macs_ratio": round(runner.macs(pruned, feeds[0]) / max(macs, 1), 4),
    }


def fault(
    zoo: Any, original: onnx.ModelProto, pruned: onnx.ModelProto, feeds: list[dict[str, Any]]
) -> tuple[str, list[float]]:
    """What is wrong with a pruned model ("" if nothing), and how far its outputs are from the original's."""
    complaint = zoo.check(pruned)
    if complaint and not zoo.check(original):
        return f"checker: {complaint}", []
    drifts = []
    try:
        first, second = zoo.session(original), zoo.session(pruned)
    except Exception as e:
        return f"onnxruntime load: {str(e)[:160]}", []
    for i, feed in enumerate(feeds):
        try:
            expected = first.run(None, feed)
        except Exception as e:
            if i < 2:
                return f"the original does not run: {str(e)[:160]}", []
            continue  # another batch size that the original does not take
        try:
            got = second.run(None, feed)
        except Exception as e:
            return f"onnxruntime run: {str(e)[:160]}", []
        for name, a, b in zip((o.name for o in first.get_outputs()), expected, got, strict=True):
            if not isinstance(a, np.ndarray):
                continue
            if a.shape != b.shape:
                return f"output {name} of shape {a.shape} became {b.shape}", []
            if a.dtype.kind == "f" and np.isfinite(a).all() and not np.isfinite(b).all():
                return f"output {name} is not finite", []
            moved = drift(a, b).rel_rms
            if moved is not None and a.dtype.kind == "f":
                drifts.append(moved)
    return "", drifts


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--only", nargs="*", default=[""], help="paths that contain one of these")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--attention", choices=["heads", "dims"], default="heads")
    parser.add_argument("--csv", type=Path, default=Path("mixing.csv"))
    args = parser.parse_args()
    sys.path.insert(0, str(args.zoo.resolve()))
    warnings.simplefilter("ignore")
    paths = [p for p in json.loads((args.zoo / "SPLIT.json").read_text())["shared"] if any(o in p for o in args.only)]
    good = 0
    with args.csv.open("w", newline="") as file:
        out = csv.DictWriter(file, FIELDS)
        out.writeheader()
        for path in paths:
            try:
                row = judge(path, args.zoo, args.ratio, args.attention)
            except Exception as e:
                row = dict.fromkeys(FIELDS, "") | {"model": path, "ok": 0, "why": f"{type(e).__name__}: {str(e)[:160]}"}
            out.writerow(row)
            file.flush()
            good += bool(row["ok"])
            print(
                f"{path:50s} {'valid' if row['ok'] else 'WRONG: ' + row['why']}; parameters {row['params_ratio']}, "
                f"MACs {row['macs_ratio']}, drift {row['drift']}, mixing groups cut {row['mixing_groups']}",
                flush=True,
            )
    print(f"{good} of {len(paths)} valid with --mixing")
    return int(good < len(paths))


if __name__ == "__main__":
    sys.exit(main())
