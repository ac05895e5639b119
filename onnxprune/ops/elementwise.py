"""Operators that work on every element alone, with numpy-style broadcasting."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune.graph.contents import constant_data
from onnxprune.graph.graph import Axis, Node, Value
from onnxprune.graph.node_shapes import broadcast_all
from onnxprune.graph.operators import Bounds, Copies, Origins, Postprocessing, operator_of
from onnxprune.model.tensors import FLOATS, WEIGHT_TYPES
from onnxprune.ops.op import Op, arange
from onnxprune.ops.registry import clips, facts_of, origins, output_shape, rule
from onnxprune.ops.ties import NewShape


@origins("Identity Cast DequantizeLinear")
def same_origins(node: Node, shape: Sequence[int], origin: Origins) -> Origins:
    """The axes are unchanged."""
    return origin


def broadcast(op: Op, inputs: list[Value], out: Value) -> list[list[Axis]]:
    """Ties inputs to the output as numpy broadcasting aligns them.

    Returns:
        For each output axis, the input axes tied to it.
    """
    rank = len(out.shape or [])
    if op.opset < 7 and op.domain == "" and op.attr("broadcast", 0):
        op.pin_all(f"{op.node.label} broadcasts as operators did before opset 7")
        return [[] for _ in range(rank)]
    joined: list[list[Axis]] = [[] for _ in range(rank)]
    for value in inputs:
        shift = rank - len(value.shape or [])
        for axis in value.axes():
            target = out.axis(axis.position + shift)
            dim = (value.shape or [])[axis.position]
            if dim == 1 and (out.shape or [])[target.position] != 1:
                continue  # stretched: owns no index of the output
            if axis.length is None and target.length is not None:
                op.pin(target, f"whether {value.key} is stretched here is not known ({op.node.label})")
                continue
            op.tie(axis, target)
            joined[target.position].append(axis)
    return joined


def _zero_where(op: Op, out: Value, joined: list[list[Axis]], sources: list[Value], any_of: bool) -> None:
    """The output is zero where all (or any) of `sources` are zero along the axis; a broadcast one never is."""
    for position, axes in enumerate(joined):
        mine = [a for a in axes if a.value in sources]
        if mine and (any_of or len(mine) == len(sources)):
            op.keep_zero(out.axis(position), *mine, any_of=any_of)


@rule("Sign Floor Ceil Round Sin Tan Asin Atan Sinh Asinh Atanh IsNaN IsInf BitwiseNot Shrink")
@rule("Cast", copies=Copies.ALL, casts=True)
@rule("Identity", copies=Copies.ALL, activation=True)
@rule("Relu LeakyRelu ThresholdedRelu Elu Selu Celu Gelu Mish HardSwish Swish Softsign Tanh", activation=True)
@rule("Erf Abs Neg Sqrt", activation=True)
def zero_keeping(op: Op) -> None:
    """Element by element, f(0) = 0; but for the complement, and a Shrink whose threshold zero is beyond."""
    zero = op.type != "BitwiseNot" and not (op.type == "Shrink" and op.attr("lambd", 0.5) < 0)
    for axis in op.input(0).axes():
        op.tie(axis, op.output().axis(axis.position), zero=zero)


@rule("Log Cos Cosh Acos Acosh Not")
@rule("HardSigmoid Softplus Exp Reciprocal", activation=True)
@rule("Sigmoid", activation=True, postprocessing=Postprocessing.SIGMOID)
def zero_losing(op: Op) -> None:
    """Element by element, f(0) is not 0."""
    for axis in op.input(0).axes():
        op.tie(axis, op.output().axis(axis.position))
        if op.type == "Reciprocal":
            op.divide_by(axis)


@rule("Dropout", copies=Copies.ALL, random=True)  # it may be in training
def dropout(op: Op) -> None:
    """Identity at inference; the mask output has the same shape."""
    for out in op.outputs:
        for axis in op.input(0).axes():
            op.tie(axis, out.axis(axis.position), zero=out is op.outputs[0])


@rule("Clip")
def clip(op: Op) -> None:
    """Element by element; zero is kept where the bounds enclose it."""
    if op.opset < 11:
        low, high = op.attr("min", float("-inf")), op.attr("max", float("inf"))
    else:
        low = (op.numbers(1) or [1.0])[0] if op.has(1) else float("-inf")
        high = (op.numbers(2) or [-1.0])[0] if op.has(2) else float("inf")
    for axis in op.input(0).axes():
        op.tie(axis, op.output().axis(axis.position), zero=low <= 0 <= high)


@clips("Clip")
def clip_bounds(node: Node) -> Bounds:
    """The bounds that are known before the run."""
    if node.opset < 11:
        return node.attribute("min", -math.inf), node.attribute("max", math.inf)
    low, high = (constant_data(node.input(i)) if node.has(i) else None for i in (1, 2))
    return (
        -math.inf if low is None else float(low.reshape(-1)[0]),
        math.inf if high is None else float(high.reshape(-1)[0]),
    )


@clips("Relu")
def relu_bounds(node: Node) -> Bounds:
    """What is negative becomes zero."""
    return 0.0, math.inf


@rule("CastLike")
def cast_like(op: Op) -> None:
    """Identity; the second input gives only a type."""
    op.leave(op.input(1))
    for axis in op.input(0).axes():
        op.tie(axis, op.output().axis(axis.position), zero=True)


@rule("Add Sub Sum Max Min Mean BitwiseOr BitwiseXor BitShift")
def sum_like(op: Op) -> None:
    """Broadcast; zero where every operand is."""
    out = op.output()
    _zero_where(op, out, broadcast(op, op.inputs, out), op.inputs, any_of=False)


@rule("And BitwiseAnd SwiGLU")
@rule("Mul", proportional=(0, 1))
def product_like(op: Op) -> None:
    """Broadcast; zero where any operand is."""
    out = op.output()
    _zero_where(op, out, broadcast(op, op.inputs, out), op.inputs, any_of=True)
    for value, scale in zip(op.inputs, op.inputs[::-1], strict=True):
        _mark_integers(op, value, scale)


def _mark_integers(op: Op, value: Value, scale: Value) -> None:
    """Tells the scale and zero point of an integer weight that is spelled out: ``Mul(Sub(Cast(w), zero), scale)``."""
    zero: Value | None = None
    node = value.producer
    if node is not None and operator_of(node).subtracts and node.has(1) and node.input(1).tensor is not None:
        value, zero = node.input(0), node.input(1)
        node = value.producer
    if node is None or not operator_of(node).casts or not node.has(0):
        return
    weight, shape = node.input(0), scale.shape or []
    if weight.tensor is None or weight.elem_type in FLOATS or weight.elem_type not in WEIGHT_TYPES:
        return
    if scale.tensor is None or scale.elem_type not in FLOATS or len(shape) not in (0, 1, weight.rank):
        return
    # an axis that the scale is spread along; a vector is of the last one
    spread = [i for i, d in enumerate(shape) if d == 1]
    op.quantised(weight, scale, zero, spread[0] if spread and len(shape) > 1 else -1)


@rule("Div Mod PRelu")
def led_by_first(op: Op) -> None:
    """Broadcast; zero where the first operand is."""
    out = op.output()
    if op.type == "PRelu" and op.opset < 7 and op.input(1).axes():
        op.pin_all(f"{op.node.label} broadcasts its slope as it did before opset 7")
        return
    _zero_where(op, out, broadcast(op, op.inputs, out), [op.input(0)], any_of=True)
    for axis in op.input(1).axes() if op.type == "Div" else []:
        op.divide_by(axis)


@rule("Pow")
def power(op: Op) -> None:
    """Broadcast; zero where the base is and the exponent is a positive constant that is kept: 0 ** 0 = 1."""
    out = op.output()
    joined = broadcast(op, op.inputs, out)
    exponent = op.numbers(1)
    if exponent and all(e > 0 for e in exponent):
        alone = [[a for a in axes if all(b.value is op.input(0) for b in axes)] for axes in joined]
        _zero_where(op, out, alone, [op.input(0)], any_of=True)
    elif not exponent or any(e < 0 for e in exponent):
        for axis in op.input(0).axes():
            op.divide_by(axis)


@rule("Or Xor")
@rule("Greater GreaterOrEqual Less LessOrEqual", postprocessing=Postprocessing.CHOICE)
def comparison(op: Op) -> None:
    """Broadcast; the result is nothing that sums."""
    broadcast(op, op.inputs, op.output())


@rule("Equal")
def equal(op: Op) -> None:
    """Broadcast; what a search found is compared with numbers that follow the search."""
    if not any(_compared(op, i) for i in (0, 1)):
        broadcast(op, op.inputs, op.output())


def _compared(op: Op, i: int) -> bool:
    """Whether an input holds positions that a search finds, and is compared with numbers known before the run.

    Each number then goes with the index that it means; a single one is all that the result is about.
    """
    found, listed, out, numbers = op.input(i), op.input(1 - i), op.output(), op.numbers(1 - i)
    searched, long = op.ties.counted.get(found), [axis for axis in listed.axes() if axis.length != 1]
    if searched is None or not searched.length or not numbers or len(long) > 1:
        return False
    target = out.axis(long[0].position - (listed.rank or 0)) if long else None
    if target is not None and (target.length != len(numbers) or _length_at(found, target, out) != 1):
        return False
    op.counted(i)
    broadcast(op, [found], out)
    op.leave(listed)
    taken = np.array(numbers, dtype=np.int64)
    inside = (taken >= 0) & (taken < searched.length)
    if target is None and inside.all():
        op.part(searched, int(taken[0]), None)
    if target is not None:
        _tie_listed(op, searched, target, taken)

    def renumber(new: NewShape) -> None:
        kept = taken[~inside | np.isin(taken, new.kept(searched))]
        entries = [new.position(searched, int(n)) if 0 <= n < (searched.length or 0) else int(n) for n in kept]
        if entries:
            new.set_input(1 - i, np.array(entries).reshape([-1 if axis in long else 1 for axis in listed.axes()]))

    op.resize(renumber)
    return True


def _tie_listed(op: Op, searched: Axis, target: Axis, taken: NDArray[np.int64]) -> None:
    """Ties what a search found to the axis along which it is compared with listed numbers."""
    if np.array_equal(taken, arange(searched)):
        op.tie(searched, target)
    else:
        inside = (taken >= 0) & (taken < (searched.length or 0))
        op.link((searched, arange(searched)), (target, np.where(inside, taken, -1)))
    op.keep_zero(target)  # what is lost is never found


def _length_at(value: Value, axis: Axis, out: Value) -> int | None:
    """The length of a broadcast value along an axis of the result."""
    position = axis.position - len(out.shape or []) + (value.rank or 0)
    return value.axis(position).length if position >= 0 else 1


@rule("Where")
def where(op: Op) -> None:
    """Broadcast of condition and both branches; zero where both branches are."""
    out = op.output()
    _zero_where(op, out, broadcast(op, op.inputs, out), [op.input(1), op.input(2)], any_of=False)


@rule("BitCast")
def bit_cast(op: Op) -> None:
    """Element by element, if the shape is kept."""
    x, out = op.input(0), op.output()
    if x.shape != out.shape:
        op.pin_all(f"{op.node.label} changes the shape")
        return
    for axis in x.axes():
        op.tie(axis, out.axis(axis.position), zero=True)


facts_of("Add Sub Mul Div Pow Min Max Clip PRelu", pointwise=True)
facts_of("Add Sum", adds=True)
facts_of("Sub", subtracts=True)
facts_of("Div", proportional=(0,))
facts_of("Div Mod", divisor=1)
facts_of("Equal Greater GreaterOrEqual Less LessOrEqual", elem_type=TensorProto.BOOL)
facts_of("Where", type_of=(1,))
output_shape(
    "Add Sub Sum Max Min Mean BitwiseOr BitwiseXor BitShift Mul And BitwiseAnd Div Mod PRelu Pow Equal Greater",
    "GreaterOrEqual Less LessOrEqual Or Xor Where",
)(broadcast_all)
