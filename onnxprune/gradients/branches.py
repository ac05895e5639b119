"""The gradient of an If: another If, each of whose branches runs one of them again and goes back through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from onnxprune.gradients.bodies import refuse_random, refuse_shadows
from onnxprune.graph.graph import Scope, Value
from onnxprune.ops.gradients.node_gradient import NodeGradient

if TYPE_CHECKING:
    from onnxprune.gradients.backward import Backward


def through_branches(
    walk: Backward, g: NodeGradient, outputs: Sequence[str | None], captured: Sequence[Value]
) -> list[tuple[str, str]]:
    """Gradients of what the branches read.

    Args:
        walk: The walk through the graph around the If.
        g: The If.
        outputs: Gradients of its outputs.
        captured: The variables that its branches read.

    Raises:
        LookupError: A branch has an operator without gradient, or cannot be run again.
    """
    bodies = {name: _branch(walk, g, body, outputs, captured) for name, body in g.node.bodies.items()}
    return list(zip((v.name for v in captured), g.write.choose(g.x(), bodies, len(captured)), strict=True))


def _branch(
    walk: Backward, g: NodeGradient, body: Scope, outputs: Sequence[str | None], captured: Sequence[Value]
) -> onnx.GraphProto:
    """A branch of the other If: the nodes of the branch, and those that compute the gradients."""
    refuse_shadows(walk.scope, g.node, body)
    refuse_random(body.proto.node)
    with g.write.apart() as nodes:
        inner = walk.inside(body, walk.needed)
        for value, gradient in zip(body.outputs, outputs, strict=True):
            if value is not None and gradient is not None:
                inner.add(value.name, gradient)
        inner.run()
        found = []
        for value in captured:
            gradient = inner.complete(value.name)
            # an output of a branch is made in it, and one that does not depend on the value gives zeros
            found.append(g.emit("Identity", gradient) if gradient is not None else g.zeros(value))
    infos = [helper.make_tensor_value_info(name, v.elem_type, None) for name, v in zip(found, captured, strict=True)]
    made = helper.make_graph([*body.proto.node, *nodes], g.write.name("gradient/branch"), [], infos)
    made.initializer.extend(body.proto.initializer)
    made.sparse_initializer.extend(body.proto.sparse_initializer)
    return made
