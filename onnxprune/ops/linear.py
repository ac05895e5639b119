"""Products of matrices: contraction axes are tied to each other, the rest to the output."""

from __future__ import annotations

from onnxprune.graph.graph import Axis, Value
from onnxprune.ops.op import Op
from onnxprune.ops.registry import rule


@rule("Gemm")
def gemm(op: Op) -> None:
    """A' B' + C with optional transposes; the bias broadcasts."""
    general_product(op, op.input(0), op.input(1), op.input(2) if op.has(2) else None)


def general_product(op: Op, a: Value, b: Value, bias: Value | None) -> None:
    """Ties of a Gemm with the usual transpose attributes."""
    out = op.output()
    row, inner = (1, 0) if op.attr("transA", 0) else (0, 1)
    deep, column = (1, 0) if op.attr("transB", 0) else (0, 1)
    contract(op, a.axis(inner), b.axis(deep))
    op.tie(a.axis(row), out.axis(0), zero=bias is None)
    op.tie(b.axis(column), out.axis(1), zero=bias is None)
    if bias is not None:
        for axis in bias.axes():
            target = out.axis(axis.position - len(bias.shape or []))
            if axis.length != 1 or target.length == 1:
                op.tie(axis, target)
                if target.position == 1:
                    op.keep_zero(target, b.axis(column), axis)


def contract(op: Op, a: Axis, b: Axis) -> None:
    """The product sums over this pair: exact where either side is zero once masked."""
    op.tie(a, b)
    op.sum_over(a, a, b)


@rule("MatMul")
def matmul(op: Op) -> None:
    """Numpy matmul: last two axes contract, the others are batch axes that broadcast."""
    product(op, op.input(0), op.input(1), op.output())


def product(op: Op, a: Value, b: Value, out: Value) -> None:
    """Ties of a matrix product with numpy's rules for vectors and batches."""
    product_of_axes(op, a.axes(), b.axes(), out, activations=not (is_constant(a) or is_constant(b)))


def product_of_axes(op: Op, a: list[Axis], b: list[Axis], out: Value, *, activations: bool) -> None:
    """The same for factors whose axes may be given in another order than they lie in."""
    rank = len(out.shape or []) + (len(a) == 1) + (len(b) == 1)  # a vector's axis is missing in the output
    contract(op, a[-1], b[-2 if len(b) > 1 else -1])
    if len(a) > 1:
        op.tie(a[-2], out.axis(-2 if len(b) > 1 else -1), zero=True)
    if len(b) > 1:
        op.tie(b[-1], out.axis(-1), zero=True)
    batches: dict[Axis, list[Axis]] = {}
    for axes in (a, b):
        for i, axis in enumerate(axes[:-2]):
            target = out.axis(i + rank - len(axes))
            if (axis.value.shape or [])[axis.position] == 1 and (out.shape or [])[target.position] != 1:
                continue
            if axis.length is None and target.length is not None:
                op.pin(target, f"whether {axis.value.key} is stretched here is not known ({op.node.label})")
                continue
            op.tie(axis, target)
            batches.setdefault(target, []).append(axis)
    for target, axes in batches.items():
        op.keep_zero(target, *axes, any_of=True)
        if activations:
            op.batch_axis(target)


def is_constant(value: Value) -> bool:
    """Whether the value is computed from constants alone through a chain of one-input nodes."""
    for _ in range(16):
        if value.tensor is not None:
            return True
        node = value.producer
        if (
            node is None
            or not node.inputs
            or node.inputs[0] is None
            or (
                len(node.inputs) > 1
                and node.op_type != "DequantizeLinear"
                and any(v is not None and v.tensor is None for v in node.inputs[1:])
            )
        ):
            return False
        value = node.inputs[0]
    return False


@rule("Einsum")
def einsum(op: Op) -> None:
    """Letters are axes: equal letters are tied, a letter missing from the output is summed over."""
    equation = str(op.attr("equation")).replace(" ", "")
    if "." in equation:
        op.pin_all(f"{op.node.label} has an ellipsis")
        return
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        right = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    first: dict[str, Axis] = {}
    places: dict[str, list[Axis]] = {}
    for term, value in zip(terms, op.inputs, strict=True):
        if len(set(term)) != len(term):
            op.pin_all(f"{op.node.label} takes a diagonal")
            return
        for letter, axis in zip(term, value.axes(), strict=True):
            if letter in first:
                op.tie(first[letter], axis)
            first.setdefault(letter, axis)
            places.setdefault(letter, []).append(axis)
    activations = sum(not is_constant(v) for v in op.inputs) > 1
    for letter, axis in zip(right, op.output().axes(), strict=True):
        op.tie(first[letter], axis)
        op.keep_zero(axis, *places[letter], any_of=True)
        if activations and len(places[letter]) > 1:
            op.batch_axis(axis)
    for letter in set(left) - {","} - set(right):
        op.sum_over(first[letter], *places[letter])
