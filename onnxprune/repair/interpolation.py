"""Models on the line between the weights of two versions of one model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto, TensorProto

from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS


def interpolate(first: Model, second: Model, share: float) -> Model:
    """The model with weights ``first + share * (second - first)``.

    Constants that are no floats are those of the second model.

    Args:
        first: A version of a model.
        second: Another one with the same nodes; it may have initializers (biases) that the first one lacks: there the
            first one counts as zero.
        share: 0 <= share <= 1.
    """
    made = second.copy()
    before = dict(_constants(first))
    for key, tensor in _constants(made):
        other = before.get(key)
        if tensor.data_type not in FLOATS or tensor == other:
            continue
        end = made.array(tensor)
        wide = end.astype(np.float64)
        begin = np.zeros_like(wide) if other is None else first.array(other).astype(np.float64)
        made.set_array(tensor, (begin + share * (wide - begin)).astype(end.dtype))
    return made


def _constants(model: Model) -> Iterator[tuple[str, TensorProto]]:
    """Initializers and the tensors of Constant nodes of the main graph, by the names of their values."""
    for tensor in model.proto.graph.initializer:
        yield tensor.name, tensor
    for node in model.proto.graph.node:
        if node.op_type == "Constant":
            yield from ((node.output[0], tensor) for tensor in _values(node))


def _values(node: NodeProto) -> Iterator[TensorProto]:
    return (a.t for a in node.attribute if a.name == "value")
