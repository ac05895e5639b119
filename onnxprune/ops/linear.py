"""Products of matrices: contraction axes are tied to each other, the rest to the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from onnxprune.graph.graph import Axis, Node, Value
from onnxprune.graph.node_shapes import product_shape
from onnxprune.graph.operators import Affine, Term, WeightFunction, WeightLayout
from onnxprune.ops.op import Op
from onnxprune.ops.registry import affine, macs, output_shape, rule, weights


def product_macs(node: Node) -> list[Term]:
    """Every output element takes the length of the axis that is summed over: the last of the left factor."""
    left = node.input(0).ranked_axes()
    return [(1.0, [*node.output().ranked_axes(), left[-2 if node.attribute("transA", 0) and len(left) > 1 else -1]])]


macs("Gemm MatMul MatMulInteger QLinearMatMul")(product_macs)


def gemm_weights(left: int, right: int) -> WeightFunction:
    """Matrices with the usual transpose attributes."""

    def layout(node: Node, i: int, shape: Sequence[int]) -> WeightLayout | None:
        if len(shape) != 2 or i not in (left, right):
            return None
        first = bool(node.attribute("transA", 0)) if i == left else not node.attribute("transB", 0)
        return WeightLayout(0, 1) if first else WeightLayout(1, 0)

    return layout


def matmul_weights(left: int, right: int) -> WeightFunction:
    """Matrices of the last two axes, transposed where attributes say so; a vector is summed over whole."""

    def layout(node: Node, i: int, shape: Sequence[int]) -> WeightLayout | str | None:
        if i not in (left, right) or not shape:
            return None
        if node.attribute("transBatchA" if i == left else "transBatchB", 0):
            return "batch axes are exchanged with those of the matrix"
        last = len(shape) - 1
        if last == 0:
            return WeightLayout(0, None)
        transposed = bool(node.attribute("transA" if i == left else "transB", 0))
        return WeightLayout(last, last - 1) if (i == left) != transposed else WeightLayout(last - 1, last)

    return layout


weights("Gemm")(gemm_weights(0, 1))
weights("MatMul MatMulInteger")(matmul_weights(0, 1))
output_shape("MatMul MatMulInteger")(product_shape(0, 1))
weights("QLinearMatMul")(matmul_weights(0, 3))


@affine("Gemm")
def gemm_layer(node: Node) -> list[Affine]:
    """Alpha x W' + beta c."""
    alpha, beta = float(node.attribute("alpha", 1.0)), float(node.attribute("beta", 1.0))
    x_axis = -2 if node.attribute("transA", 0) else -1
    transposed = not node.attribute("transB", 0)
    layer = Affine("gemm", 0, 1, 2 if beta else None, x_axis, -1, transposed, alpha, beta or 1.0)
    return [layer] if alpha else []


@affine("MatMul")
def matmul_layer(node: Node) -> list[Affine]:
    """X W, or W x; a vector on the right is summed over whole."""
    following = 0 if node.has(1) and node.input(1).rank == 1 else 1
    return [
        Affine("matmul", x=0, weight=1, bias=None, x_axis=-1, out_axis=-1, transposed=True),
        Affine("matmul", x=1, weight=0, bias=None, x_axis=-1 - following, out_axis=-1 - following),
    ]


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


def einsum_letters(node: Node) -> tuple[list[list[str]], list[str]]:
    """Letters of the axes of each operand and of the output; those below an ellipsis are ``...1`` (the last), ``...2``.

    Raises:
        LookupError: An operand's rank is unknown.
        ValueError: An operand has other axes than its term.
    """
    terms, arrow, right = str(node.attribute("equation", "")).replace(" ", "").partition("->")
    operands, most = [], 0
    for i, term in enumerate(terms.split(",")):
        rank = len(node.input(i).ranked_axes())
        before, dots, after = term.partition("...")
        hidden = rank - len(before) - len(after)
        if hidden < 0 or (hidden and not dots):
            raise ValueError(f"{node.label}: {term!r} does not fit operand {i}")
        most = max(most, hidden)
        operands.append([*before, *(f"...{k}" for k in range(hidden, 0, -1)), *after])
    every = [f"...{k}" for k in range(most, 0, -1)]
    if not arrow:
        counts = Counter(letter for letters in operands for letter in letters)
        return operands, every + sorted(c for c, n in counts.items() if n == 1 and not c.startswith("..."))
    before, dots, after = right.partition("...")
    return operands, [*before, *(every if dots else []), *after]


@macs("Einsum")
def einsum_macs(node: Node) -> list[Term]:
    """The size of the whole index space: every distinct letter once."""
    longest: dict[str, Axis] = {}
    for i, letters in enumerate(einsum_letters(node)[0]):
        for letter, axis in zip(letters, node.input(i).axes(), strict=True):
            if letter not in longest or longest[letter].length == 1:
                longest[letter] = axis
    return [(1.0, list(longest.values()))]


@weights("Einsum")
def einsum_weights(node: Node, i: int, shape: Sequence[int]) -> WeightLayout | str | None:
    """Sums over the last letter that the output lacks."""
    try:
        operands, result = einsum_letters(node)
    except (LookupError, ValueError):
        return "the ranks of its operands are unknown"
    mine, others = operands[i], [letter for k, letters in enumerate(operands) if k != i for letter in letters]
    summed = [axis for axis, letter in enumerate(mine) if letter not in result]
    made = [axis for axis, letter in enumerate(mine) if letter in result and letter not in others]
    return WeightLayout(summed[-1], made[-1] if made else None) if summed else None


@rule("Einsum")
def einsum(op: Op) -> None:
    """Letters are axes: equal letters are tied, a letter missing from the output is summed over."""
    operands, result = einsum_letters(op.node)
    if any(len(set(letters)) != len(letters) for letters in operands):
        op.pin_all(f"{op.node.label} takes a diagonal")
        return
    out = dict(zip(result, op.output().axes(), strict=True))
    shared: dict[str, list[Axis]] = {}
    for letters, value in zip(operands, op.inputs, strict=True):
        for letter, axis in zip(letters, value.axes(), strict=True):
            stretched = letter.startswith("...") and axis.length == 1 and letter in out and out[letter].length != 1
            if not stretched:  # below an ellipsis axes broadcast
                shared.setdefault(letter, []).append(axis)
    activations = sum(not is_constant(v) for v in op.inputs) > 1
    for letter, axes in shared.items():
        for axis in axes[1:]:
            op.tie(axes[0], axis)
        if letter not in out:
            op.sum_over(axes[0], *axes)
            continue
        op.tie(axes[0], out[letter])
        op.keep_zero(out[letter], *axes, any_of=True)
        if activations and len(axes) > 1:
            op.batch_axis(out[letter])
