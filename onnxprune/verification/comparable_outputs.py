"""Comparable outputs: values upstream of a final softmax, argmax/top-k, resize or concatenation.

A saturated softmax hides errors until the class changes, so that the errors of single layers would not add up to the
error of all of them. A choice (argmax, top-k, comparison) hides errors completely. A map that is interpolated to the
size of the image contains no more information, and takes a hundred times as long to compare. In a concatenation of
boxes in pixels and scores below one, the error of the boxes dominates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, ValueInfoProto

from onnxprune.graph.operators import Copies, Postprocessing, operator_of
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS

MAX_COMPONENTS = 64
"""Maximum number of values into which an output is divided."""

Centre = Callable[[NDArray[Any]], NDArray[Any]]


def with_scores(model: Model) -> Model:
    """Replaces integer and boolean outputs that are choices by the scores from which they are chosen.

    Args:
        model: The model; not modified.

    Returns:
        A copy with the outputs in the same order, or the model itself if no output is a choice.
    """
    producers = {name: node for node in model.proto.graph.node for name in node.output}
    renamed = {}
    for info in model.proto.graph.output:
        choice = _upstream(producers, info.name)
        name = _upstream(producers, choice, Postprocessing.CHOICE)
        if name != choice and name in producers and info.type.tensor_type.elem_type not in FLOATS:
            small = _before_interpolation(producers, name)
            renamed[info.name] = small if small in producers else name
    existing = {o.name for o in model.proto.graph.output}
    if not renamed or existing & set(renamed.values()) or len(set(renamed.values())) < len(renamed):
        return model  # the scores are an output already
    copy = model.copy()
    for info in copy.proto.graph.output:
        if info.name in renamed:
            info.CopyFrom(ValueInfoProto(name=renamed[info.name]))
    return copy


def class_scores(model: Model) -> set[str]:
    """Names of the outputs that the graph tells to choose classes: a softmax makes them, or an argmax chose them."""
    producers = {name: node for node in model.proto.graph.node for name in node.output}
    found = set()
    for info in model.proto.graph.output:
        node = producers.get(_upstream(producers, info.name, Postprocessing.INTERPOLATION))
        floats = info.type.tensor_type.elem_type in FLOATS
        kind = Postprocessing.SOFTMAX if floats else Postprocessing.CHOICE
        if node is not None and operator_of(node).postprocessing is kind:
            found.add(info.name)
    return found


def with_comparable_outputs(model: Model) -> tuple[Model, list[Centre]]:
    """Replaces outputs of final softmaxes, choices, interpolations and concatenations by the inputs of these nodes.

    Args:
        model: The model; not modified.

    Returns:
        A copy, and a function for each of its outputs that makes its values comparable: a softmax depends only on
        differences, so the mean along its axis is subtracted from its input.
    """
    copy = with_scores(model).copy()
    graph = copy.proto.graph
    producers = {name: node for node in graph.node for name in node.output}
    opset = next((o.version for o in copy.proto.opset_import if o.domain in ("", "ai.onnx")), 13)
    found: dict[str, Centre] = {}
    for info in graph.output:
        found |= _components(producers, info.name, opset) or {info.name: np.asarray}
    outputs = {o.name: o for o in graph.output}
    infos = [outputs.get(name, ValueInfoProto(name=name)) for name in found]
    del graph.output[:]
    graph.output.extend(infos)
    return copy, list(found.values())


def _components(producers: Mapping[str, NodeProto], name: str, opset: int) -> dict[str, Centre]:
    """Returns the values that determine an output, for example the boxes and scores of a detector.

    Empty if there are more than `MAX_COMPONENTS`, or if all of them are inputs or constants.
    """
    found: dict[str, Centre] = {}
    seen, left = {name}, [name]
    while left:
        origin, centre = _origin(producers, left.pop(), opset)
        joined = producers.get(_upstream(producers, origin))
        if centre is np.asarray and joined is not None and operator_of(joined).copies is Copies.JOINED:
            left += [one for one in reversed(joined.input) if one not in seen]
            seen |= set(joined.input)
        elif origin in producers and producers[origin].op_type != "Constant":
            found[origin] = centre
    return found if len(found) <= MAX_COMPONENTS else {}


def _origin(producers: Mapping[str, NodeProto], name: str, opset: int) -> tuple[str, Centre]:
    """Returns the value upstream of a final softmax or interpolation, else the value itself, and its function."""
    node = producers.get(_upstream(producers, name))
    if node is not None and operator_of(node).postprocessing is Postprocessing.SOFTMAX:
        axis = next((a.i for a in node.attribute if a.name == "axis"), -1 if opset >= 13 else 1)
        small = _upstream(producers, node.input[0], Postprocessing.INTERPOLATION, moves=False)
        return small, _centre(axis, flat=opset < 13)
    return _before_interpolation(producers, name), np.asarray


def _before_interpolation(producers: Mapping[str, NodeProto], name: str) -> str:
    """Returns the value upstream of an interpolation, else the value itself; value-preserving nodes are skipped."""
    resized = _upstream(producers, name)
    if _upstream(producers, resized, Postprocessing.INTERPOLATION, moves=False) == resized:
        return name
    return _upstream(producers, resized, Postprocessing.INTERPOLATION)


def _upstream(
    producers: Mapping[str, NodeProto], name: str, skipped: Postprocessing | None = None, *, moves: bool = True
) -> str:
    """Returns the first value upstream that is not computed by a skipped operator; the value itself if it is not.

    Args:
        producers: The node that computes each value.
        name: The value.
        skipped: Operators to skip, by what they do.
        moves: Whether operators that only rearrange or cast their input are skipped too.
    """
    while (node := producers.get(name)) is not None and node.input:
        operator = operator_of(node)
        skip = skipped is not None and operator.postprocessing is skipped
        if not skip and not (moves and operator.copies is Copies.ALL):
            break
        name = node.input[0]
    return name


def _centre(axis: int, *, flat: bool) -> Centre:
    """Returns a function that subtracts the mean along a softmax axis; before opset 13 also over all later axes."""

    def centre(array: NDArray[Any]) -> NDArray[Any]:
        axes = tuple(range(axis % array.ndim, array.ndim)) if flat else axis
        result: NDArray[Any] = array - array.mean(axis=axes, keepdims=True)
        return result

    return centre
