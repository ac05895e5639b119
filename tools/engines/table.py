"""The rows of one or several runs as tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def markdown(rows: Rows, versions: Mapping[str, Mapping[str, str]], skipped: Mapping[str, str]) -> str:
    """A line a chain, with versions, counts of models and the largest errors; a line a model; a line a failure."""
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
    lines += ["", *_by_model(rows, list(versions))]
    lines += ["", "| Model | chain | verdict | why |", "|---|---|---|---|"]
    lines += [
        f"| {row['model']} | {row['chain']} | {row['verdict']} | {_cell(row['why'] or _errors(row))} |"
        for row in rows
        if row["verdict"] != "both work"
    ]
    lines += ["", *(f"Skipped: {name}, since {why}." for name, why in skipped.items())]
    return "\n".join(lines).strip()


_MARKS = {frozenset(["both work"]): "works", frozenset(["both fail"]): "fails", frozenset(): ""}


def _by_model(rows: Rows, names: Sequence[str]) -> list[str]:
    """A line a model: whether it works in an engine, or with a tool in both orders, before and after pruning alike."""
    lines = [f"| Model | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        found = [frozenset(row["verdict"] for row in mine if name in row["chain"].split()) for name in names]
        lines.append(f"| {model} | {' | '.join(_MARKS.get(verdicts, 'differs') for verdicts in found)} |")
    return lines


def _errors(row: Mapping[str, Any]) -> str:
    return f"error {_shown(row['before'])} before, {_shown(row['after'])} after"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")[:120]
