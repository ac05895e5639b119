"""Shows what exact pruning could take at most from architectures that keep most of their parameters, and that it does.

    python tools/zoo_limits.py ../shared/zoo [--above 0.75 --csv zoo.csv | --only transformers/llama ...] [--ratio 0.5]

A parameter is *open* where one of its axes may lose it exactly, *mixing* where only axes that a normalisation or a
mean runs over may, and *fixed* where every axis stays: vocabulary, output layer, interface. Columns: the shares of the
three; the least that is left where every exact group loses floor(R n) of its n units, and what a run leaves; the same
with mixing; then what holds the fixed parameters, and what makes the others mixing, by share. Exit status 0 when every
run takes all that may go.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import math
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx

import onnxprune
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Grade
from onnxprune.coupling.streams import find_streams
from onnxprune.edit.resize import KeptLengths
from onnxprune.model.tensors import WEIGHT_TYPES

SHOWN = 3


def shares(coupling: Coupling) -> tuple[np.ndarray, dict[Grade, collections.Counter[str]]]:
    """Parameters by grade (open, mixing, fixed), and the reasons for the grades that are not open, by parameters."""
    total = np.zeros(3)
    why: dict[Grade, collections.Counter[str]] = {g: collections.Counter() for g in Grade}
    reasons: dict[tuple[str, int], list[tuple[Grade, str]]] = {}
    for group in coupling.groups:
        for s in group.slices:
            reasons.setdefault((s.value.key, s.axis), []).extend((group.grade, r) for r in group.reasons)
    seen = set()
    for value in coupling.graph.constants():
        size = math.prod(d for d in value.shape or [] if isinstance(d, int))
        if value.elem_type not in WEIGHT_TYPES or size < 2 or value.key in seen or not value.consumers:
            continue
        seen.add(value.key)
        best = np.full(1, int(Grade.PINNED), dtype=np.int8)
        for axis in value.axes():
            grade = coupling.grade[coupling.classes.span(axis.id)]
            best = np.minimum.outer(best, grade).reshape(-1)
        counts = np.bincount(best, minlength=3)
        total += counts
        for grade in (Grade.MIXING, Grade.PINNED):
            given = [r for axis in value.axes() for g, r in reasons.get((value.key, axis.position), []) if g == grade]
            told = sorted({plain(r) for r in given} - {"graph input"}) or ["what no index can leave"]
            for r in told:
                why[grade][r] += int(counts[grade]) / len(told)
    return total, why


def plain(reason: str) -> str:
    """A reason without names."""
    return re.sub(r"\s*\(.*\)|\s?'[^']*'", "", reason)


def least(coupling: Coupling, ratio: float, worst: Grade) -> int:
    """Parameters left where every group of a grade up to `worst` loses floor(ratio * n) of its n units."""
    gone = np.zeros(coupling.classes.elements, dtype=bool)
    for group in coupling.groups:
        if group.grade <= worst:
            gone[group.channels[: math.floor(ratio * group.units + 1e-9)]] = True
    lengths, total, seen = KeptLengths(coupling, gone), 0, set()
    for value in coupling.graph.constants():
        if value.elem_type in WEIGHT_TYPES and value.key not in seen:
            seen.add(value.key)
            size = math.prod(d for d in lengths.shape(value) or [] if isinstance(d, int))
            total += size if size > 1 else 0
    return total


def open_streams(coupling: Coupling) -> list[str]:
    """Names of the residual streams that may be pruned exactly."""
    streams = find_streams(coupling)
    return [group.name for group in coupling.groups if group.name in streams and group.grade == Grade.EXACT]


def row(model: onnx.ModelProto, ratio: float) -> tuple[str, bool]:
    """The columns of a model, and whether the run takes all that may go."""
    analysis = onnxprune.analyze(model)
    counts, why = shares(analysis.coupling)
    whole = counts.sum()
    left = least(analysis.coupling, ratio, Grade.EXACT)
    streams = {f"^{re.escape(name)}$": 1 - ratio for name in open_streams(analysis.coupling)}  # else they stay whole
    params = onnxprune.prune(model, ratio, keep=streams, repair="none", verify=False).report.params
    mixed = least(onnxprune.analyze(model, mixing=True).coupling, ratio, Grade.MIXING)
    run = (params.after or 0) / max(params.before or 0, 1)
    text = " ".join(f"{x:6.1%}" for x in (*counts / whole, left / whole, run, mixed / whole))
    for grade, name in ((Grade.PINNED, "fixed"), (Grade.MIXING, "mixing")):
        held = [f"{r} {n / whole:.0%}" for r, n in why[grade].most_common(SHOWN) if n / whole >= 0.01]
        text += f"  {name}: {', '.join(held)};" if held else ""
    return text, run <= left / whole + 0.002


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--csv", type=Path, help="of the zoo's runner: which models are above")
    parser.add_argument("--above", type=float, default=0.75)
    parser.add_argument("--only", nargs="*", default=[], help="paths that contain one of these")
    parser.add_argument("--ratio", type=float, default=0.5)
    args = parser.parse_args()
    sys.path.insert(0, str(args.zoo.resolve()))
    import hydrate

    warnings.simplefilter("ignore")
    paths = [p for p in json.loads((args.zoo / "SPLIT.json").read_text())["shared"] if any(o in p for o in args.only)]
    if args.csv:
        with args.csv.open(newline="") as file:
            paths += [r["model"] for r in csv.DictReader(file) if float(r["params_ratio"] or 1) > args.above]
    print(f"{'model':42s}   open mixing  fixed  least    run  least with mixing")
    good = 0
    for path in dict.fromkeys(paths):
        text, takes_all = row(hydrate.load(args.zoo / "skeletons" / path), args.ratio)
        good += takes_all
        print(f"{path.removesuffix('.onnx.gz'):42s} {text}{'' if takes_all else '  ! the run leaves more'}", flush=True)
    print(f"{good} of {len(dict.fromkeys(paths))} models lose all that exact pruning may take")
    return int(good < len(dict.fromkeys(paths)))


if __name__ == "__main__":
    sys.exit(main())
