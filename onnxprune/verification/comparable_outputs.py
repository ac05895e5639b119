"""Comparable outputs: values upstream of a final softmax, argmax/top-k, resize or concatenation.

A saturated softmax hides errors until the class changes, so that the errors of single layers would not add up to the
error of all of them. A choice (argmax, top-k, comparison) hides errors completely. A map that is interpolated to the
size of the image contains no more information, and takes a hundred times as long to compare. In a concatenation of
boxes in pixels and scores below one, the error of the boxes dominates.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from onnx import GraphProto, NodeProto, ValueInfoProto

from onnxprune.graph.operators import Copies, Postprocessing, operator_of
from onnxprune.model.model import Model
from onnxprune.model.opset import opset_of
from onnxprune.model.tensors import FLOATS

MAX_COMPONENTS = 64
"""Maximum number of values into which an output is divided."""


@dataclass(frozen=True)
class Component:
    """A value that is compared of two models.

    Attributes:
        name: Name of the value.
        scores: Whether it holds scores, and of which kind: ``SOFTMAX`` for the inputs of one, ``SIGMOID`` for the
            probabilities that it gives; None for anything else.
        axis: Axis of the softmax.
        flat: Whether the softmax runs over all later axes as well, as before opset 13.
        output: The first output of the model that is made of it.
    """

    name: str
    scores: Postprocessing | None = None
    axis: int = -1
    flat: bool = False
    output: str = ""


def with_scores(model: Model) -> Model:
    """Replaces integer and boolean outputs that are choices by the scores from which they are chosen.

    Args:
        model: The model; not modified.

    Returns:
        A copy with the outputs in the same order, or the model itself if no output is a choice.
    """
    renamed = {output: scores for output, (scores, _) in _choices(model).items()}
    existing = {o.name for o in model.proto.graph.output}
    if not renamed or existing & set(renamed.values()) or len(set(renamed.values())) < len(renamed):
        return model  # the scores are an output already
    copy = model.copy()
    for info in copy.proto.graph.output:
        if info.name in renamed:
            info.CopyFrom(ValueInfoProto(name=renamed[info.name]))
    return copy


def class_scores(model: Model) -> dict[str, int | None]:
    """Outputs that the graph tells to choose classes, and the axis of the classes in `with_scores`, where it is known.

    A softmax makes them, or a choice.
    """
    producers = {name: node for node in model.proto.graph.node for name in node.output}
    opset = opset_of(model.proto)
    found: dict[str, int | None] = {output: axis for output, (_, axis) in _choices(model).items()}
    for info in model.proto.graph.output:
        node = producers.get(_upstream(producers, info.name, (Postprocessing.INTERPOLATION,)))
        soft = node is not None and operator_of(node).postprocessing is Postprocessing.SOFTMAX
        if node is not None and soft and info.type.tensor_type.elem_type in FLOATS:
            # nothing between may move the axis, and before opset 13 it is the first of several
            still = _upstream(producers, info.name, (Postprocessing.INTERPOLATION,), moves=False) in node.output
            found[info.name] = _axis_of(node, -1) if still and opset >= 13 else None
    return found


def outputs_without_scores(model: Model) -> list[str]:
    """Names of the outputs that no softmax or sigmoid makes, nor a choice."""
    scored = {c.output for c in with_comparable_outputs(model)[1] if c.scores is not None} | set(_choices(model))
    return [o.name for o in model.proto.graph.output if o.name not in scored]


def _choices(model: Model) -> dict[str, tuple[str, int | None]]:
    """The scores that outputs were chosen by, and along which axis of these; None where that is not known."""
    producers = {name: node for node in model.proto.graph.node for name in node.output}
    found: dict[str, tuple[str, int | None]] = {}
    for info in model.proto.graph.output:
        choice = _upstream(producers, info.name)
        node = producers.get(choice)
        if node is None or info.type.tensor_type.elem_type in FLOATS:
            continue
        axis: int | None = None
        if operator_of(node).postprocessing is Postprocessing.CLASS:
            name, axis = _along(producers, node.input[0], _axis_of(node, 0))
        else:
            name = _upstream(producers, choice, (Postprocessing.CHOICE, Postprocessing.CLASS))
            small = _before_interpolation(producers, name)
            name = small if small in producers else name
        if name != choice and name in producers:
            found[info.name] = name, axis
    return found


def _axis_of(node: NodeProto, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == "axis"), default)


def outputs_at_many_positions(model: Model) -> list[str]:
    """Names of the outputs of a detector, a segmentation or a sequence: they hold values of many positions of a sample.

    These have two axes or more besides that of the samples, or their shape depends on what is found; they are floats,
    or classes that were chosen by floats. Samples lie along the axis that is named as the first one of an input (the
    state of a recurrent layer has them second), else along the first.
    """
    graph, chosen = model.proto.graph, _choices(model)
    batch = {dim.dim_param for v in graph.input for dim in v.type.tensor_type.shape.dim[:1]} - {""}
    by_values = any(operator_of(node).shape_from_values for node in graph.node)
    found = []
    for info in graph.output:
        dims = list(info.type.tensor_type.shape.dim)
        samples = next((axis for axis, dim in enumerate(dims) if dim.dim_param in batch), 0)
        long = sum(dim.dim_value != 1 for axis, dim in enumerate(dims) if axis != samples)
        floats = info.type.tensor_type.elem_type in FLOATS
        if (floats or info.name in chosen) and (long > 1 or by_values):
            found.append(info.name)
    return found


def with_comparable_outputs(model: Model) -> tuple[Model, list[Component]]:
    """Replaces outputs of final softmaxes, choices, interpolations and concatenations by the inputs of these nodes.

    Args:
        model: The model; not modified.

    Returns:
        A copy, and what each of its outputs is.
    """
    copy = with_scores(model).copy()
    graph = copy.proto.graph
    tail = _Tail(graph, opset_of(copy.proto))
    found: dict[str, Component] = {}
    chosen = dict(_choices(model).values())
    for original, info in zip(model.proto.graph.output, graph.output, strict=True):
        axis = chosen.get(info.name)
        for component in tail.components(info.name, axis) or [Component(info.name)]:
            found.setdefault(component.name, replace(component, output=original.name))
    outputs = {o.name: o for o in graph.output}
    infos = [outputs.get(name, ValueInfoProto(name=name)) for name in found]
    del graph.output[:]
    graph.output.extend(infos)
    return copy, list(found.values())


class _Tail:
    """The end of a graph, read from its outputs on."""

    def __init__(self, graph: GraphProto, opset: int) -> None:
        self._producers = {name: node for node in graph.node for name in node.output}
        self._opset = opset

    def components(self, name: str, axis: int | None = None) -> list[Component]:
        """The values that determine an output, for example the boxes and scores of a detector.

        Empty if there are more than `MAX_COMPONENTS`, or if all of them are inputs or constants.

        Args:
            name: The output.
            axis: The axis along which its largest value is a class; None where it is none, or not known.
        """
        if axis is not None and self._scored_by(name) is None:  # the choice is that of a softmax as well
            return [Component(name, Postprocessing.SOFTMAX, axis)]
        found: dict[str, Component] = {}
        seen, left = {name}, [name]
        while left:
            at = left.pop()
            parts = self._parts(at)
            if parts:
                left += [one for one in reversed(parts) if one not in seen]
                seen |= set(parts)
                continue
            component = self._end(at)
            node = self._producers.get(component.name)
            if node is not None and node.input:
                found.setdefault(component.name, component)
        return list(found.values()) if len(found) <= MAX_COMPONENTS else []

    def _end(self, name: str) -> Component:
        """What a value is that is not divided further."""
        node = self._scored_by(name)
        if node is None:
            return Component(_before_interpolation(self._producers, name))
        kind = operator_of(node).postprocessing
        if kind is Postprocessing.SIGMOID:
            return Component(name, kind)
        axis = _axis_of(node, -1 if self._opset >= 13 else 1)
        small = _upstream(self._producers, node.input[0], (Postprocessing.INTERPOLATION,), moves=False)
        return Component(small, kind, axis, flat=self._opset < 13)

    def _parts(self, name: str) -> list[str]:
        """The values that are concatenated to a value, or probabilities whose product it is; else nothing."""
        node = self._producers.get(_upstream(self._producers, name))
        if node is None or self._scored_by(name) is not None:
            return []
        operator = operator_of(node)
        product = bool(operator.proportional) and all(self._scored_by(one) is not None for one in node.input)
        return list(node.input) if product or operator.copies is Copies.JOINED else []

    def _scored_by(self, name: str) -> NodeProto | None:
        """The softmax or sigmoid that a value, or what it is a part of, comes from."""
        node = self._producers.get(_upstream(self._producers, name, parts=True))
        scores = (Postprocessing.SOFTMAX, Postprocessing.SIGMOID)
        return node if node is not None and operator_of(node).postprocessing in scores else None


def _before_interpolation(producers: Mapping[str, NodeProto], name: str) -> str:
    """Returns the value upstream of an interpolation, else the value itself; value-preserving nodes are skipped."""
    resized = _upstream(producers, name)
    if _upstream(producers, resized, (Postprocessing.INTERPOLATION,), moves=False) == resized:
        return name
    return _upstream(producers, resized, (Postprocessing.INTERPOLATION,))


def _along(producers: Mapping[str, NodeProto], name: str, axis: int) -> tuple[str, int]:
    """The value upstream of interpolations and of moves that keep an axis whole, and which axis of it that is."""
    while (node := producers.get(name)) is not None and node.input and node.input[0] in producers:
        operator = operator_of(node)
        order = next((a.ints for a in node.attribute if a.name == "perm"), None)
        elementwise = operator.casts or operator.activation
        if operator.postprocessing is not Postprocessing.INTERPOLATION:
            if operator.copies is not Copies.ALL or (order is None and not elementwise):
                break
            axis = axis if order is None else order[axis]
        name = node.input[0]
    return name, axis


def _upstream(
    producers: Mapping[str, NodeProto],
    name: str,
    skipped: Collection[Postprocessing] = (),
    *,
    moves: bool = True,
    parts: bool = False,
) -> str:
    """Returns the first value upstream that is not computed by a skipped operator; the value itself if it is not.

    Args:
        producers: The node that computes each value.
        name: The value.
        skipped: Operators to skip, by what they do.
        moves: Whether operators that only rearrange or cast their input are skipped too.
        parts: Whether operators that take a part of their input are skipped too.
    """
    while (node := producers.get(name)) is not None and node.input:
        operator = operator_of(node)
        skip = operator.postprocessing in skipped
        taken = parts and operator.copies is Copies.SOME and operator.reads_parts
        if not skip and not taken and not (moves and operator.copies is Copies.ALL):
            break
        name = node.input[0]
    return name
