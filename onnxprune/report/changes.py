"""Lines on what a run changed besides channels: blocks, the order of channels, how weights are stored."""

from __future__ import annotations

from onnxprune.common.text import count, first_of, percent, plural, printable
from onnxprune.report.report import Report
from onnxprune.report.tables import Part

BLOCKS, ENDS = 6, 8
"""Blocks that are named, and inputs and outputs that went with them."""


def blocks(report: Report) -> list[Part]:
    """The blocks that went as a whole."""
    if not report.blocks:
        return []
    sums = [block.sum for block in report.blocks]
    ends = [name for block in report.blocks for name in block.ends]
    went = f"{plural(len(sums), 'block')} left out as a whole, before the sums {first_of(sums, BLOCKS, printable)}"
    return [went, *([f"Inputs and outputs that went with them: {first_of(ends, ENDS, printable)}"] if ends else [])]


def reordered(report: Report) -> list[Part]:
    """Effect of the permutation."""
    moved = report.permuted
    if moved is None:
        return []
    if not moved.groups:
        return [f"No channels moved: {printable(moved.whole_because or 'no order that was found keeps more')}"]
    return [
        f"{plural(len(moved.groups), 'group')} of channels in another order: the pattern keeps "
        f"{percent(moved.after or 0, 1)} of the magnitude, not {percent(moved.before or 0, 1)}"
    ]


def stored(report: Report) -> list[Part]:
    """Size saved by sparse tensors, and size after gzip."""
    storage = report.storage
    if storage is None:
        return []
    sizes, lines = list(storage.sparse.values()), []
    if sizes:
        before, after = (sum(n or 0 for n in each) for each in zip(*((s.before, s.after) for s in sizes), strict=True))
        lines.append(
            f"{plural(len(sizes), 'weight')} stored as sparse tensors: {count(after, 'B')} in place of "
            f"{count(before, 'B')}"
        )
    if storage.dense_because is not None:
        lines.append(f"{'The rest is' if sizes else 'All is'} stored dense: {printable(storage.dense_because)}")
    return ["\n".join([*lines, f"gzip makes {count(storage.gzip or 0, 'B')} of the file"])]
