"""The outputs of a model before a final softmax, a choice or an enlargement, where small errors can still be seen.

A softmax that is sure of its class hides errors until they turn it over: summed over many layers, what each does alone
then says little of what they do together. A choice (the place of the largest, a comparison) hides them altogether. A
map that is interpolated to the size of a picture shows no more than before, and takes a hundred times as long to look
at. Where boxes in pixels and scores below one are concatenated, an error of the whole is that of the boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, ValueInfoProto

from onnxprune.graph.operators import Copies, operator_of
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS

_SOFTMAX = {"Softmax", "LogSoftmax"}
_INTERPOLATIONS = {"Resize", "Upsample"}
_CHOICES = {"ArgMax", "ArgMin", "TopK", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Hardmax"}

PIECES = 64
"""What an output is made of at most, to be looked at piece by piece."""

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
        chosen = _before(makers, info.name)
        name = _before(makers, chosen, _CHOICES)
        if name != chosen and name in makers and info.type.tensor_type.elem_type not in FLOATS:
            small = _small(makers, name)
            renamed[info.name] = small if small in makers else name
    taken = {o.name for o in model.proto.graph.output}
    if not renamed or taken & set(renamed.values()) or len(set(renamed.values())) < len(renamed):
        return model  # an output that is there already says it
    copy = model.copy()
    for info in copy.proto.graph.output:
        if info.name in renamed:
            info.CopyFrom(ValueInfoProto(name=renamed[info.name]))
    return copy


def unsquashed(model: Model) -> tuple[Model, list[Centre]]:
    """A model that gives out what its final softmaxes, interpolations and concatenations read, in place of their own.

    Args:
        model: The model; it stays as it is.

    Returns:
        A copy, and for each of its outputs what makes its values comparable: a softmax sees differences only, so the
        mean along its axis is taken out.
    """
    copy = scored(model).copy()
    graph = copy.proto.graph
    makers = {name: node for node in graph.node for name in node.output}
    opset = next((o.version for o in copy.proto.opset_import if o.domain in ("", "ai.onnx")), 13)
    found: dict[str, Centre] = {}
    for info in graph.output:
        found |= _pieces(makers, info.name, opset) or {info.name: np.asarray}
    outputs = {o.name: o for o in graph.output}
    infos = [outputs.get(name, ValueInfoProto(name=name)) for name in found]
    del graph.output[:]
    graph.output.extend(infos)
    return copy, list(found.values())


def _pieces(makers: Mapping[str, NodeProto], name: str, opset: int) -> dict[str, Centre]:
    """The values that say all that an output says; boxes and scores of a detector, say, each by itself.

    None where they are too many, or nothing is computed.
    """
    found: dict[str, Centre] = {}
    seen, left = {name}, [name]
    while left:
        origin, centre = _origin(makers, left.pop(), opset)
        joined = makers.get(_before(makers, origin))
        if centre is np.asarray and joined is not None and joined.op_type == "Concat" and not joined.domain:
            left += [one for one in reversed(joined.input) if one not in seen]
            seen |= set(joined.input)
        elif origin in makers and makers[origin].op_type != "Constant":
            found[origin] = centre
    return found if len(found) <= PIECES else {}


def _origin(makers: Mapping[str, NodeProto], name: str, opset: int) -> tuple[str, Centre]:
    """The value that an output was squashed or enlarged from, and what makes it comparable; itself where it was not."""
    node = makers.get(_before(makers, name))
    if node is not None and node.op_type in _SOFTMAX and not node.domain:
        axis = next((a.i for a in node.attribute if a.name == "axis"), -1 if opset >= 13 else 1)
        return _before(makers, node.input[0], _INTERPOLATIONS, moves=False), _centre(axis, flat=opset < 13)
    return _small(makers, name), np.asarray


def _small(makers: Mapping[str, NodeProto], name: str) -> str:
    """What a value was interpolated from, and perhaps moved after and before that; itself where it was not."""
    enlarged = _before(makers, name)
    if _before(makers, enlarged, _INTERPOLATIONS, moves=False) == enlarged:
        return name
    return _before(makers, enlarged, _INTERPOLATIONS)


def _before(makers: Mapping[str, NodeProto], name: str, passed: Collection[str] = (), *, moves: bool = True) -> str:
    """The value from which some kinds of operators, one after the other, made another one; itself if they did not.

    Args:
        makers: The node that makes each value.
        name: The value.
        passed: Operators to pass.
        moves: Whether operators that only rearrange or cast their input are passed too.
    """
    while (node := makers.get(name)) is not None and not node.domain and node.input:
        if node.op_type not in passed and not (moves and operator_of(node).copies is Copies.ALL):
            break
        name = node.input[0]
    return name


def _centre(axis: int, *, flat: bool) -> Centre:
    """Takes the mean out along an axis; before opset 13 a softmax runs over that axis and all behind it."""

    def centre(array: NDArray[Any]) -> NDArray[Any]:
        axes = tuple(range(axis % array.ndim, array.ndim)) if flat else axis
        result: NDArray[Any] = array - array.mean(axis=axes, keepdims=True)
        return result

    return centre
