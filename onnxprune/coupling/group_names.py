"""Names of groups that a person recognises, and the nodes that a group touches.

A group is named ``CONSTANT:AXIS`` after the first weight that it slices. Exporters number the weights that they change
(``onnx::Conv_81``), so such a group is named after something nearby that kept its name: the bias of the same layer, or
the node that reads the weight.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from onnxprune.graph.graph import Node, Value

NUMBERED = re.compile(
    r"onnx::\w*"  # TorchScript exporter of PyTorch: transposed or folded weights
    r"|(node_|/)?(val|tensor|const|constant|initializer|param|parameter|input|output|arg)?_?\d+"  # other exporters
    r"|.*(const_fold_opt|new_shape|ortshared|fused?_?const)\w*"  # tf2onnx, and the optimizer of onnxruntime
    r"|/?(.*/)?(Constant|Identity|Cast|Transpose|Reshape|Unsqueeze|Squeeze)(_\d+)?(_output_\d+)?",  # computed weights
    re.IGNORECASE,
)
"""Names that say nothing of the layer they belong to."""
NEARBY = 2
"""Nodes behind the first reader of a weight whose vectors (a bias, say) belong to the same layer."""


def says_something(name: str) -> bool:
    """Whether a name was given by a person, as far as it can be told.

    >>> [says_something(n) for n in ("layers.0.weight", "w", "onnx::Conv_81", "val_71", "123", "Constant_4_output_0")]
    [True, True, False, False, False, False]
    """
    return bool(name) and NUMBERED.fullmatch(name) is None


def name_of(slices: Sequence[tuple[Value, int]]) -> str:
    """The name of a group.

    Args:
        slices: The constants that it slices and the axis of each; the first layer's first.
    """
    (value, axis), *others = slices
    if says_something(value.key) or not value.consumers:
        return f"{value.key}:{axis}"
    node = value.consumers[0][0]
    for other, position in others:
        near = other.consumers and 0 <= other.consumers[0][0].index - node.index <= NEARBY
        if near and len(other.shape or []) == 1 and says_something(other.key):
            return f"{other.key}:{position}"
    return node.proto.name if node.proto.name else f"{value.key}:{axis}"


def first_reader(value: Value) -> int:
    """Position of the first node that reads a constant."""
    return value.consumers[0][0].index if value.consumers else 0


def nodes_of(values: Sequence[Value]) -> list[Node]:
    """The nodes that read some constants, in their order, each once."""
    found = {node.index: node for value in values for node, _ in value.consumers}
    return [found[index] for index in sorted(found)]


def label(node: Node) -> str:
    """The name of a node; its operator and output where it has none."""
    return node.proto.name or f"{node.op_type} of {next(iter(node.proto.output), '')}"
