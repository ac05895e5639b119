"""Fourier transforms and windows: they pin what they touch."""

from __future__ import annotations

from onnxprune.ops.op import Op
from onnxprune.ops.registry import rule


@rule("STFT MelWeightMatrix HannWindow HammingWindow BlackmanWindow", any_rank=True)
def signal(op: Op) -> None:
    """Signal frames, windows and filter banks: pinned."""
    op.pin_all(f"{op.node.label} works on signals")


@rule("DFT")
def fourier(op: Op) -> None:
    """Transforms one axis, which is pinned; the others pass."""
    x, out = op.input(0), op.output()
    rank = len(x.shape or [])
    along = op.numbers(2) if op.opset >= 20 and op.has(2) else [op.attr("axis", 1 if op.opset < 20 else -2)]
    if along is None:
        op.pin_all(f"{op.node.label} takes its axis from the run")
        return
    op.carry(x, out, {int(along[0]) % rank, rank - 1}, f"{op.node.label} transforms it")
