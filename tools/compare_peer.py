"""Holds what a run over the zoo left of each model against what a peer left of the same architecture.

    python tools/compare_peer.py zoo.csv ../shared/zoo/PEER_torch_pruning.csv --index ../shared/zoo/INDEX.csv
        [--mixing mixing.csv mixing_dims.csv] [--slack 0.05]

Of every model that the peer prunes it prints the share of parameters and MACs that both leave, and ours over theirs.
A model counts where neither is more than the slack above the peer's. The peer also cuts widths that a normalisation
runs over, and places within attention heads; with CSVs of ``prune_mixing.py`` such models are judged by the smaller (a
valid model that runs, its drift reported), with the exact figure beside it.

The peer counts the MACs of modules. Products of activations (attention), which shrink in one axis of three, and some
classifiers are not among them, so with the very same widths its share of MACs is the smaller. Models marked ``=`` leave
the same share of parameters to half a percent and only miss on MACs; they are counted apart. Exit status 0 when, with
them, at least 95% of the models count.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

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


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", type=Path)
    parser.add_argument("peer", type=Path)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--mixing", type=Path, nargs="*", default=[])
    parser.add_argument("--slack", type=float, default=0.05)
    parser.add_argument("--all", action="store_true", help="print the models that count too")
    args = parser.parse_args()
    ours = {r["model"]: r for r in read(args.ours)}
    index = {r["path"]: r for r in read(args.index)}
    mixed: dict[str, Row] = {}
    for row in (r for path in args.mixing for r in read(path) if r["ok"] == "1"):
        if row["model"] not in mixed or sum(left(row)) < sum(left(mixed[row["model"]])):
            mixed[row["model"]] = row
    exact = within = same = total = 0
    print(f"{'model':40s} {'parameters':>24s} {'MACs':>24s}   exact parameters, MACs; drift")
    for peer in (r for r in read(args.peer) if r["ok"] == "1"):
        row = matched(peer, ours, index)
        if row is None:
            continue
        total += 1
        theirs = float(peer["param_ratio"]), float(peer["mac_ratio"])
        shown, note = left(row), ""
        fits = all(mine <= limit * (1 + args.slack) for mine, limit in zip(shown, theirs, strict=True))
        exact += fits
        if not fits and row["model"] in mixed:
            other = mixed[row["model"]]
            if left(other) != shown:
                note = f"with mixing; {shown[0]:.3f}, {shown[1]:.3f}; {other['drift']}"
            shown = left(other)
            fits = all(mine <= limit * (1 + args.slack) for mine, limit in zip(shown, theirs, strict=True))
        alike = not fits and abs(shown[0] / theirs[0] - 1) < SAME
        within += fits
        same += alike
        if not fits or args.all or note:
            columns = (
                f"{mine:6.3f} of {limit:5.3f} = {mine / limit:6.3f}" for mine, limit in zip(shown, theirs, strict=True)
            )
            print(f"{row['model']:40s} {' '.join(columns)} {'=' if alike else ' ' if fits else '!'} {note}")
    print(
        f"{total} models that the peer prunes: within {args.slack:.0%} of it {exact} exactly ({exact / total:.1%}), "
        f"{within} with mixing ({within / total:.1%}), {within + same} with those of the same widths "
        f"({(within + same) / total:.1%})"
    )
    return int(within + same < ENOUGH * total)


if __name__ == "__main__":
    sys.exit(main())
