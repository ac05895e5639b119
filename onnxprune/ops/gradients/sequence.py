"""Gradients of splits whose parts are taken out of a sequence.

The gradient of the sequence is that of its parts joined: what is taken out leaves zeros around it.
"""

from __future__ import annotations

import itertools

from onnxprune.graph.graph import Node
from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.registry import gradient


@gradient("SplitToSequence")
def split_to_sequence(g: NodeGradient) -> None:
    """The gradients of the parts, joined."""
    g.give(0, g.d())


@gradient("SequenceAt")
def sequence_at(g: NodeGradient) -> None:
    """Zeros around the part that was taken."""
    split, places = g.node.input(0).producer, g.numbers(1)
    if split is None or split.op_type != "SplitToSequence" or not places:
        raise LookupError(f"{g.node.label} takes something out of a sequence that is no split")
    x, starts = split.input(0), _starts(g, split)
    axis = g.axis(x, int(split.attribute("axis", 0)))
    at = int(places[0]) % (len(starts) - 1)
    pads = [0] * 2 * g.rank(x)
    pads[axis], pads[axis + g.rank(x)] = starts[at], starts[-1] - starts[at + 1]
    whole = split.has(1) or split.attribute("keepdims", 1)
    g.give(0, g.write.pad(g.d() if whole else g.write.unsqueeze(g.d(), [axis]), pads))


def _starts(g: NodeGradient, split: Node) -> list[int]:
    """Where each part starts, and where the last one ends."""
    length = split.input(0).axis(g.axis(split.input(0), int(split.attribute("axis", 0)))).length
    sizes = g.entries(split.input(1)) if split.has(1) else None
    if length is None or (split.has(1) and sizes is None):
        raise LookupError(f"the lengths of the parts of {split.label} are only known in the run")
    if sizes is not None and sizes.ndim:
        return [0, *itertools.accumulate(int(n) for n in sizes.flat)]
    step = 1 if sizes is None else int(sizes.item())
    return [*range(0, length, step), length]
