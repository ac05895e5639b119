"""Random models of the supported operators, for the property that removal equals masking.

A `Chooser` makes the decisions: one of hypothesis, which shrinks examples, or a seeded generator, which is fast.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from tests.support.graph_builder import Builder, Chooser
from tests.support.random_nodes import STEPS, Step, _conv
from tests.support.random_row_nodes import ROW_STEPS

ALL_STEPS = STEPS | ROW_STEPS


def random_model(
    choose: Chooser, steps: int = 12, more: Mapping[str, Step] | None = None, *, rows: bool = True
) -> onnx.ModelProto:
    """A runnable model of random operators with one or two outputs that end in a product.

    Args:
        choose: Where decisions come from.
        steps: How many operators (or small blocks) to draw at most.
        more: Nodes to draw beside the usual ones.
        rows: Whether to draw layers that sum over another axis than the channels, and fixed batches that fold.
    """
    b = Builder(choose)
    b.input((1, choose.integer(2, 4), 4, 4))
    known = {**(ALL_STEPS if rows else STEPS), **(more or {})}
    names = list(known)
    _conv(b)
    for _ in range(choose.integer(2, steps)):
        known[choose.pick(names)](b)
    outputs = []
    for _ in range(choose.integer(1, 2)):
        x = choose.pick([*b.images(), *b.rows()][-6:])
        if len(x.shape) == 4:
            n, c, h, w = x.shape
            flat = b.node("Flatten", [x.name], (n, c * h * w))
            outputs.append(b.node("Gemm", [flat.name, b.weight(3, c * h * w, fan_in=c * h * w)], (n, 3), transB=1))
        else:
            n, s, d = x.shape
            outputs.append(b.node("MatMul", [x.name, b.weight(d, 3, fan_in=d)], (n, s, 3)))
    return b.model(outputs, fixed=rows and bool(choose.integer(0, 1)))
