"""The runner; see the package."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tools.engines import registry
from tools.engines.chains import Row, rows
from tools.engines.table import markdown


def main() -> int:
    """Prints a row a comparison; 1 where something works on one side of pruning only."""
    parser = argparse.ArgumentParser(prog="python -m tools.engines", description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, help="ONNX models, or with --markdown the JSON files of runs")
    parser.add_argument("--only", action="append", choices=registry.NAMES, help="an engine or a tool; repeatable")
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every row, after each")
    parser.add_argument("--markdown", action="store_true", help="print tables of the rows in JSON files")
    args = parser.parse_args()
    if args.markdown:
        print(_table(args.models))
        return 0
    versions, skipped = _installed(args.only or registry.NAMES)
    for name, why in skipped.items():
        print(f"skipped: {name}, since {why}", file=sys.stderr)
    done: list[dict[str, Any]] = []
    for row in rows(args.models, list(versions), args.ratio):
        done.append(row.as_dict())
        print(
            "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in done[-1].items()), flush=True
        )
        if args.json:
            args.json.write_text(json.dumps({"versions": versions, "skipped": skipped, "rows": done}, indent=1))
    return int(any(row["verdict"] in ("only before", "only after") for row in done))


def _installed(names: list[str] | tuple[str, ...]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Versions of what the engines and tools need, and why some are skipped."""
    versions, skipped = {}, {}
    for name in names:
        try:
            versions[name] = registry.versions(name)
        except LookupError as error:
            skipped[name] = str(error)
    return versions, skipped


def _table(files: list[Path]) -> str:
    runs = [json.loads(path.read_text()) for path in files]
    versions = {name: found for run in runs for name, found in run["versions"].items()}
    skipped = {name: why for run in runs for name, why in run["skipped"].items() if name not in versions}
    fields = ("model", "chain", "before", "after", "why")
    every = [Row(*(row[key] for key in fields)) for run in runs for row in run["rows"]]
    last = {(row.model, row.chain): row for row in every}  # of a repeated comparison
    return markdown([row.as_dict() for row in last.values()], versions, skipped)


if __name__ == "__main__":
    sys.exit(main())
