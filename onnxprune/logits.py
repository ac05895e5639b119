"""The outputs of a model before a final softmax or a choice, where small errors can still be seen.

A softmax that is sure of its class hides errors until they turn it over: summed over many layers, what each does alone
then says little of what they do together. A choice (the place of the largest, a comparison) hides them altogether.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto

from onnxprune.model import Model

_SOFTMAX = {"Softmax", "LogSoftmax"}
_MOVES = {"Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Dropout"}
"""What may lie between a softmax and the output: operators that only move what they get."""
_CHOICES = {"ArgMax", "ArgMin", "TopK", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Hardmax"}
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}

Centre = Callable[[NDArray[Any]], NDArray[Any]]


def scored(model: Model) -> Model:
    """A model that gives out what its outputs of integers and booleans were chosen by, in place of the choice.

    Args:
        model: The model; it stays as it is.

    Returns:
        A copy whose outputs are in the same order, or the model itself where none is a choice.
    """
    makers = {name: node for node in model.proto.graph.node for name in node.output}
    renamed = {}
    for info in model.proto.graph.output:
        name, chosen = info.name, False
        while (node := makers.get(name)) is not None and node.op_type in _MOVES | _CHOICES and not node.domain:
            name, chosen = node.input[0], chosen or node.op_type in _CHOICES
        if chosen and node is not None and info.type.tensor_type.elem_type not in FLOATS:
            renamed[info.name] = name
    taken = {o.name for o in model.proto.graph.output}
    if not renamed or taken & set(renamed.values()) or len(set(renamed.values())) < len(renamed):
        return model  # an output that is there already says it
    copy = model.copy()
    for info in copy.proto.graph.output:
        if info.name in renamed:
            info.CopyFrom(ValueInfoProto(name=renamed[info.name]))
    return copy


def unsquashed(model: Model) -> tuple[Model, list[Centre]]:
    """A model that gives out what its final softmaxes read, in place of what they make.

    Args:
        model: The model; it stays as it is.

    Returns:
        A copy whose outputs are in the same order, and for each what makes its values comparable: a softmax sees
        differences only, so the mean along its axis is taken out.
    """
    copy = scored(model).copy()
    graph = copy.proto.graph
    makers = {name: node for node in graph.node for name in node.output}
    centres: list[Centre] = []
    for info in graph.output:
        name = info.name
        while (node := makers.get(name)) is not None and node.op_type in _MOVES and not node.domain:
            name = node.input[0]
        if (node is None or node.op_type not in _SOFTMAX or node.domain
                or any(o.name == node.input[0] for o in graph.output)):
            centres.append(np.asarray)
            continue
        info.CopyFrom(ValueInfoProto(name=node.input[0]))
        opset = next((o.version for o in copy.proto.opset_import if o.domain in ("", "ai.onnx")), 13)
        axis = next((a.i for a in node.attribute if a.name == "axis"), -1 if opset >= 13 else 1)
        centres.append(_centre(axis, flat=opset < 13))
    return copy, centres


def _centre(axis: int, *, flat: bool) -> Centre:
    """Takes the mean out along an axis; before opset 13 a softmax runs over that axis and all behind it."""
    def centre(array: NDArray[Any]) -> NDArray[Any]:
        axes = tuple(range(axis % array.ndim, array.ndim)) if flat else axis
        result: NDArray[Any] = array - array.mean(axis=axes, keepdims=True)
        return result

    return centre
