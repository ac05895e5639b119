"""Along which axes product operators read stored weights: what a row, a column and a group of a pattern are.

Every product sums over one axis of its weight, the *reduction* axis: input channels of a convolution (at each kernel
position by itself), rows or columns of a matrix. What N:M patterns and blocks mean is counted along it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnxprune.graph.graph import Node, Value
from onnxprune.graph.operators import Origins, WeightLayout, operator_of
from onnxprune.model.tensors import FLOATS


@dataclass(frozen=True)
class Weight:
    """A constant that products read.

    Attributes:
        value: The constant.
        layout: How they read it; None where they disagree or it is unknown, with the reason.
        recurrent: Whether it belongs to a recurrent layer.
        node: A product that reads it.
        why: Why there is no layout.
    """

    value: Value
    layout: WeightLayout | None
    recurrent: bool
    node: Node
    why: str = ""


def readings(value: Value) -> Iterator[Weight]:
    """How each product reads a constant, straight or through layout and type changes."""
    axes = tuple(range(len(value.shape or [])))
    todo: list[tuple[Value, tuple[int | None, ...]]] = [(value, axes)]
    while todo:
        at, origin = todo.pop()
        shape = [d for d in at.shape or [] if isinstance(d, int)]
        if len(shape) != len(origin):
            continue
        for node, i in at.consumers:
            operator = operator_of(node)
            seen = operator.weights(node, i, shape) if operator.weights is not None else None
            if seen is not None:
                recurrent = operator.gates > 0
                if isinstance(seen, str):
                    yield Weight(value, None, recurrent, node, seen)
                    continue
                back = _back(seen, origin)
                yield Weight(value, back, recurrent, node, "" if back else "its axes are merged on the way")
            elif node.outputs and node.outputs[0] is not None and (carried := _carried(value, node, i, shape, origin)):
                todo.append((node.outputs[0], carried))


def _carried(value: Value, node: Node, i: int, shape: Sequence[int], origin: Origins) -> Origins:
    """Axes of a node's output in terms of a constant's, where it is that constant moved or scaled; else none.

    What it is scaled by is smaller than it: of a weight and a mask of the same shape either could be the weight.
    """
    operator = operator_of(node)
    if i == 0 and operator.origins is not None:
        return operator.origins(node, shape, origin)
    others = [v.tensor for k, v in enumerate(node.inputs) if v is not None and k != i]
    less_zero_point = i == 0 and operator.subtracts and value.elem_type not in FLOATS
    whole = node.outputs[0] is not None and node.outputs[0].shape == list(shape)
    smaller = all(t is not None and math.prod(t.dims) < math.prod(shape) for t in others)
    return origin if (i in operator.proportional or less_zero_point) and whole and smaller else ()


def _back(seen: WeightLayout, origin: Sequence[int | None]) -> WeightLayout | None:
    """The layout in terms of the stored axes; None where the axis of inputs is none of them by itself."""
    inputs = origin[seen.inputs]
    outputs = origin[seen.outputs] if seen.outputs is not None else None
    if inputs is None:
        return None
    return WeightLayout(inputs, outputs, seen.input_blocks, seen.output_blocks if outputs is not None else 1)


def channel_axes(value: Value) -> dict[int, int]:
    """Axes of a constant along which products have their input or output channels.

    Returns:
        Axis -> how many blocks of channels it stands for: the axis of inputs of a convolution has those of one group,
        and one index of packed numbers may be a block of inputs.
    """
    found: dict[int, int] = {}
    for reading in readings(value):
        if reading.layout is not None:
            found[reading.layout.inputs] = reading.layout.output_blocks
            if reading.layout.outputs is not None:
                found[reading.layout.outputs] = reading.layout.input_blocks
    for node, i in value.consumers:
        packs = operator_of(node).packs
        found.update(packs(node, i) if packs is not None else {})
    return found
