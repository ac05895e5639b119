"""Holds what a run over the zoo left of each model against what a peer left of the same architecture.

    python -m tools.benchmarks compare_peer zoo.csv ../shared/zoo/PEER_torch_pruning.csv --index ../shared/zoo/INDEX.csv
        [--mixing mixing.csv mixing_dims.csv] [--slack 0.05]

Of every model that the peer prunes it prints the share of parameters and MACs that both leave, and ours over theirs.
A model counts where neither is more than the slack above the peer's. The peer also cuts widths that a normalisation
runs over, and places within attention heads; with CSVs of ``prune_mixing.py`` such models are judged by the smaller (a
valid model that runs, its drift reported), with the exact figure beside it.

The peer counts the MACs of modules. Products of activations (attention), which shrink in one axis of three, and some
classifiers are not among them, so with the very same widths its share of MACs is the smaller. Models of the same widths
leave the same share of parameters to half a percent and only miss on MACs; they are counted apart. Exit status 0 when,
with them, at least 95% of the models count.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, str]
ENOUGH = 0.95
SAME = 0.005


def read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def matched(peer: Row, rows: dict[str, Row], index: dict[str, Row]) -> Row | None:
    """Our row for an architecture: same source, and the file or the family bears the peer's name."""
    for path, row in rows.items():
        source, _, file = path.partition("/")
        if source == peer["source"] and peer["name"] in (index.get(path, {}).get("family"), file.split(".")[0]):
            return row
    return None


def left(row: Row) -> tuple[float, float]:
    """Shares of parameters and MACs that are left; all where nothing was counted."""
    return float(row["params_ratio"] or 1), float(row["macs_ratio"] or 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("ours", type=Path)
    parser.add_argument("peer", type=Path)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--mixing", type=Path, nargs="*", default=[])
    parser.add_argument("--slack", type=float, default=0.05)


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row a model that the peer prunes."""
    ours = {r["model"]: r for r in read(args.ours)}
    index = {r["path"]: r for r in read(args.index)}
    mixed: dict[str, Row] = {}
    for row in (r for path in args.mixing for r in read(path) if r["ok"] == "1"):
        if row["model"] not in mixed or sum(left(row)) < sum(left(mixed[row["model"]])):
            mixed[row["model"]] = row
    for peer in (r for r in read(args.peer) if r["ok"] == "1"):
        row = matched(peer, ours, index)
        if row is None:
            continue
        theirs = float(peer["param_ratio"]), float(peer["mac_ratio"])

        def fits(mine: tuple[float, float], theirs: tuple[float, float] = theirs) -> bool:
            return all(a <= b * (1 + args.slack) for a, b in zip(mine, theirs, strict=True))

        exact = best = left(row)
        if not fits(exact) and row["model"] in mixed:
            best = left(mixed[row["model"]])
        yield {
            "model": row["model"],
            "params": best[0],
            "peer_params": theirs[0],
            "macs": best[1],
            "peer_macs": theirs[1],
            "fits_exactly": fits(exact),
            "fits": fits(best),
            "same_widths": not fits(best) and abs(best[0] / theirs[0] - 1) < SAME,
            "drift": mixed[row["model"]]["drift"] if best != exact else None,
        }


def verdict(done: list[dict[str, Any]], args: argparse.Namespace) -> tuple[list[str], int]:
    """How many models count."""
    total, exact, within = len(done), sum(r["fits_exactly"] for r in done), sum(r["fits"] for r in done)
    counted = within + sum(r["same_widths"] for r in done)
    line = (
        f"{total} models that the peer prunes: within {args.slack:.0%} of it {exact} exactly ({exact / total:.1%}), "
        f"{within} with mixing ({within / total:.1%}), {counted} with those of the same widths ({counted / total:.1%})"
    )
    return [line], int(counted < ENOUGH * total)
