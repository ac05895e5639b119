"""The rows of one or several runs as tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def markdown(rows: Rows, versions: Mapping[str, Mapping[str, str]], skipped: Mapping[str, str]) -> str:
    """One line a chain: versions, on how many models both forms work or fail, and the largest errors."""
    lines = [
        "| Engine or tool | versions | models | both work | both fail | one works | largest error before | after |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for chain in dict.fromkeys(row["chain"] for row in rows):
        mine = [row for row in rows if row["chain"] == chain]
        name = next(n for n in versions if n in chain.split())
        used = ", ".join(f"{package} {version}" for package, version in versions[name].items())
        work = [row for row in mine if row["verdict"] == "both work"]
        fail = sum(row["verdict"] == "both fail" for row in mine)
        worst = [max((row[side] for row in work), default=None) for side in ("before", "after")]
        cells = [chain, used, len(mine), len(work), fail, len(mine) - len(work) - fail, *map(_shown, worst)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "| Model | chain | verdict | why |", "|---|---|---|---|"]
    lines += [
        f"| {row['model']} | {row['chain']} | {row['verdict']} | {_cell(row['why'])} |"
        for row in rows
        if row["verdict"] != "both work"
    ]
    lines += ["", *(f"Skipped: {name}, since {why}." for name, why in skipped.items())]
    return "\n".join(lines).strip()


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")[:120]
