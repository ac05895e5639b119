"""Finds the product layers of a graph: convolutions and matrix products of an activation with a constant.

Covered are Conv and ConvTranspose of any rank, grouped, strided, padded and dilated; Gemm; MatMul with a constant
matrix on either side; each with its own bias or that of an Add behind it. No `LinearLayer` is made of

- weights that are computed by more than Identity, Transpose and Cast (quantised ones, say), or of another rank;
- products of two activations, and Gemm with a constant first factor;
- biases computed at run time, and a Gemm's C that varies along the rows;
- transposed convolutions whose padding follows from the size of the output and is not known to halve evenly: versions
  of the standard disagree which side gets more;
- bodies of control flow, fused and other operators outside the standard domain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from onnxprune.graph.graph import Graph, Node, Value
from onnxprune.layers.linear import Kind, LinearLayer, padded_by_output
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS


def linear_layers(graph: Graph) -> list[LinearLayer]:
    """The product layers of the main graph, in topological order; see the module for what is left out.

    Args:
        graph: The graph; where shapes are inferred, MatMul with a vector on the right and more biases are understood.
    """
    finder = _Finder(graph)
    makers = {"Conv": finder.conv, "ConvTranspose": finder.conv, "Gemm": finder.gemm, "MatMul": finder.matmul}
    found = (makers[n.op_type](n) for n in graph.main.nodes if n.domain == "" and n.op_type in makers)
    return [p for p in found if p is not None]


def matched(before: Iterable[LinearLayer], after: Iterable[LinearLayer]) -> list[tuple[LinearLayer, LinearLayer]]:
    """The layers that two versions of a model have both, in the order of the first; found by their output's name."""
    others = {p.name: p for p in after}
    return [(p, others[p.name]) for p in before if p.name in others]


@dataclass(frozen=True)
class _Constant:
    """A stored constant as a node reads it: axes permuted, and whether anything else reads it too."""

    value: Value
    order: tuple[int, ...]
    shared: bool

    @property
    def dims(self) -> list[int]:
        stored = self.value.tensor.dims if self.value.tensor is not None else []
        return [stored[i] for i in self.order]

    def only_along(self, behind: int, features: int) -> bool:
        """Whether it broadcasts along an axis with `behind` axes behind it, and along no other."""
        lengths = [1] * (behind + 1 - len(self.dims)) + self.dims
        return all(n == 1 or (i == len(lengths) - 1 - behind and n == features) for i, n in enumerate(lengths))


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self._returned = graph.returned
        self._readers = Counter[str]()  # readers of one vector are values of their own
        for value in graph.constants():
            self._readers[value.key] += len(value.consumers) + (id(value) in self._returned)

    def conv(self, node: Node) -> LinearLayer | None:
        """Convolutions, plain and transposed."""
        x, weight, out = _input(node, 0), self._constant(_input(node, 1)), _output(node)
        transposed = node.op_type == "ConvTranspose"
        if x is None or x.tensor is not None or weight is None or len(weight.dims) < 3 or out is None:
            return None
        if transposed and padded_by_output(node) and not _halves_evenly(node, x, weight.dims[2:]):
            return None
        features = weight.dims[1] * int(node.attribute("group", 1)) if transposed else weight.dims[0]
        bias = self._constant(_input(node, 2))
        if _input(node, 2) is None:
            out, bias = self._added(out, len(weight.dims) - 2, features, len(weight.dims))
        elif bias is None or bias.dims != [features]:
            return None
        kind: Kind = "conv_transpose" if transposed else "conv"
        return _product(node, kind, (x, 1), weight, bias, (out, 1), turned=False)

    def gemm(self, node: Node) -> LinearLayer | None:
        """Gemm with a constant second factor."""
        x, weight, out = _input(node, 0), self._constant(_input(node, 1)), _output(node)
        alpha, beta = float(node.attribute("alpha", 1.0)), float(node.attribute("beta", 1.0))
        if x is None or x.tensor is not None or weight is None or out is None or alpha == 0:
            return None
        turned = not node.attribute("transB", 0)
        features = weight.dims[1 if turned else 0]
        bias = self._constant(_input(node, 2))
        if _input(node, 2) is None or beta == 0:
            beta = 1.0
            out, bias = self._added(out, 0, features, 2)
        elif bias is None or not bias.only_along(0, features):
            return None
        x_axis = -2 if node.attribute("transA", 0) else -1
        return _product(node, "gemm", (x, x_axis), weight, bias, (out, -1), turned=turned, alpha=alpha, beta=beta)

    def matmul(self, node: Node) -> LinearLayer | None:
        """MatMul with a constant matrix on one side."""
        out, sides = _output(node), [_input(node, 0), _input(node, 1)]
        constants = [self._constant(v) for v in sides]
        if out is None or (constants[0] is None) == (constants[1] is None):
            return None
        right = constants[1] is not None
        x, weight = (sides[0], constants[1]) if right else (sides[1], constants[0])
        if x is None or weight is None or len(weight.dims) != 2:
            return None
        behind = 0 if right or x.rank == 1 else 1
        least = x.rank if x.rank is not None else behind + 1  # axes that the output has for sure
        out, bias = self._added(out, behind, weight.dims[1 if right else 0], least)
        return _product(node, "matmul", (x, -1 - behind), weight, bias, (out, -1 - behind), turned=right)

    def _added(self, out: Value, behind: int, features: int, rank: int) -> tuple[Value, _Constant | None]:
        """The output of an Add of a constant per feature and that constant, if it is all that becomes of a value.

        Args:
            out: The value.
            behind: Axes behind the feature axis.
            features: Length of the feature axis.
            rank: Axes that the value has for sure.
        """
        if len(out.consumers) == 1 and id(out) not in self._returned:
            ((add, i),) = out.consumers
            constant = self._constant(_input(add, 1 - i)) if add.op_type == "Add" and add.domain == "" else None
            total = _output(add)
            if (
                constant is not None
                and len(constant.dims) <= rank
                and constant.only_along(behind, features)
                and total is not None
                and add.scope is out.scope
            ):
                return total, constant
        return out, None

    def _constant(self, value: Value | None) -> _Constant | None:
        """The stored floats that a value shows, through Identity, Transpose and Cast."""
        perms: list[list[int] | None] = []
        shared = False
        while value is not None and value.tensor is None:
            node = value.producer
            if node is None or node.domain or node.op_type not in ("Identity", "Transpose", "Cast"):
                return None
            if node.op_type == "Cast" and node.attribute("to") not in FLOATS:
                return None
            if node.op_type == "Transpose":
                perms.append(node.attribute("perm"))
            shared |= len(value.consumers) > 1 or id(value) in self._returned
            value = _input(node, 0)
        if value is None or value.tensor is None or value.tensor.data_type not in FLOATS:
            return None
        order = list(range(len(value.tensor.dims)))
        for perm in reversed(perms):
            order = [order[i] for i in perm] if perm is not None else order[::-1]
        return _Constant(value, tuple(order), shared or self._readers[value.key] > 1)


def _input(node: Node, i: int) -> Value | None:
    return node.inputs[i] if i < len(node.inputs) else None


def _output(node: Node) -> Value | None:
    return node.outputs[0] if node.outputs else None


def _product(
    node: Node,
    kind: Kind,
    x: tuple[Value, int],
    weight: _Constant,
    bias: _Constant | None,
    out: tuple[Value, int],
    *,
    turned: bool,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> LinearLayer:
    return LinearLayer(
        node,
        kind,
        *x,
        weight.value,
        weight.order,
        turned,
        None if bias is None else bias.value,
        *out,
        alpha,
        beta,
        weight.shared,
        bias is not None and bias.shared,
    )


def _halves_evenly(node: Node, x: Value, kernel: list[int]) -> bool:
    """Whether the padding that an output size asks for is known to be even on every axis."""
    for axis, length in enumerate(kernel):
        stride, dilation, extra = (
            int((node.attribute(name) or [default] * len(kernel))[axis])
            for name, default in (("strides", 1), ("dilations", 1), ("output_padding", 0))
        )
        size, wanted = (x.shape or [None] * 9)[axis + 2], node.attribute("output_shape")
        natural = extra + (length - 1) * dilation + 1 - stride
        if wanted and not isinstance(size, int):
            return False
        total = natural + stride * size - wanted[-len(kernel) :][axis] if wanted and isinstance(size, int) else natural
        if total > 0 and total % 2:
            return False
    return True


def convolutional(model: Model) -> bool:
    """Whether most product layers are convolutions."""
    layers = linear_layers(Graph(model.proto))
    return 2 * sum(layer.kind.startswith("conv") for layer in layers) > len(layers)
