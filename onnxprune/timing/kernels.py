"""Which node of a model a kernel of onnxruntime computes: kernels are named after nodes, or after what they write."""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx

_NAME = "onnxprune_node_{}_"
_PATTERN = re.compile(r"onnxprune_node_(\d+)_")
_BLOCKED = "_nchwc"
"""What onnxruntime adds to the name of a value for the node that computes it in the blocked layout."""


def name_nodes(proto: onnx.ModelProto) -> None:
    """Gives every node of the main graph a name by which `nodes_of_kernels` knows it, in place."""
    for i, node in enumerate(proto.graph.node):
        node.name = _NAME.format(i)


def nodes_of_kernels(proto: onnx.ModelProto, kernels: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Adds up the times of kernels by node.

    Kernels that compute no node, which change the layout of a tensor, count to the one that follows them.

    Args:
        proto: The model whose nodes were named, before anything was removed.
        kernels: Name and time of each kernel of the model or a sliced copy of it, in order of execution.

    Returns:
        First output of a node -> time, in the unit of the kernels.
    """
    by_output = {name: i for i, node in enumerate(proto.graph.node) for name in node.output if name}
    found: dict[str, float] = {}
    waiting, last = 0.0, None
    for name, time in kernels:
        match = _PATTERN.match(name)
        index = int(match[1]) if match else by_output.get(name.removesuffix(_BLOCKED))
        if index is None:
            waiting += time
            continue
        last = next((output for output in proto.graph.node[index].output if output), None)
        if last is not None:
            found[last] = found.get(last, 0.0) + time + waiting
            waiting = 0.0
    if last is not None and waiting:
        found[last] += waiting
    return found
