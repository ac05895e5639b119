"""Finds the product layers of a graph: convolutions and matrix products of an activation with a constant.

Covered are Conv and ConvTranspose of any rank, grouped, strided, padded and dilated; Gemm; MatMul with a constant
matrix on either side; each with its own bias or that of a following Add. No `LinearLayer` is made of

- weights that are computed by more than Identity, Transpose and Cast (quantised ones, say), or of another rank;
- products of two activations, and Gemm with a constant first factor;
- biases computed at run time, and a Gemm's C that varies along the rows;
- transposed convolutions whose padding follows from the size of the output and is not known to halve evenly: versions
  of the standard disagree which side gets more;
- bodies of control flow, fused and other operators outside the standard domain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxprune.graph.graph import Graph, Node, Value
from onnxprune.graph.operators import Affine, Copies, Origins, operator_of, other_summand
from onnxprune.layers.linear import LinearLayer, padded_by_output
from onnxprune.model.tensors import FLOATS


def linear_layers(graph: Graph) -> list[LinearLayer]:
    """The product layers of the main graph, in topological order; see the module for what is left out.

    Args:
        graph: The graph; where shapes are inferred, MatMul with a vector on the right and more biases are understood.
    """
    finder = _Finder(graph)
    found = (finder.layer(node) for node in graph.main.nodes)
    return [layer for layer in found if layer is not None]


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

    def only_along(self, trailing: int, features: int) -> bool:
        """Whether it broadcasts along an axis that `trailing` axes follow, and along no other."""
        lengths = [1] * (trailing + 1 - len(self.dims)) + self.dims
        return all(n == 1 or (i == len(lengths) - 1 - trailing and n == features) for i, n in enumerate(lengths))


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self._returned = graph.returned
        self._readers = Counter[str]()  # readers of one vector are values of their own
        for value in graph.constants():
            self._readers[value.key] += len(value.consumers) + (id(value) in self._returned)

    def layer(self, node: Node) -> LinearLayer | None:
        """A node as a layer, if its operator declares one that fits the operands of the node."""
        declared = operator_of(node).affine
        for form in declared(node) if declared is not None else ():
            found = self._fitted(node, form)
            if found is not None:
                return found
        return None

    def _fitted(self, node: Node, form: Affine) -> LinearLayer | None:
        x, out, weight = _input(node, form.x), _output(node), self._constant(_input(node, form.weight))
        if x is None or out is None or weight is None or x.tensor is not None or self._constant(x) is not None:
            return None
        kernel = form.kind.startswith("conv")
        if len(weight.dims) < 3 if kernel else len(weight.dims) != 2:
            return None
        if form.kind == "conv_transpose":
            if padded_by_output(node) and not _halves_evenly(node, x, weight.dims[2:]):
                return None
            features = weight.dims[1] * int(node.attribute("group", 1))
        else:
            features = weight.dims[1 if form.transposed else 0]
        trailing = len(weight.dims) - 2 if kernel else -1 - form.out_axis
        given = None if form.bias is None else _input(node, form.bias)
        bias = self._constant(given)
        if given is None:
            least = len(weight.dims) if kernel or form.kind == "gemm" else (x.rank or trailing + 1)
            out, bias = self._added(out, trailing, features, least)
        elif bias is None or not (bias.dims == [features] if kernel else bias.only_along(trailing, features)):
            return None
        return LinearLayer(
            node,
            form.kind,
            x,
            form.x_axis,
            weight.value,
            weight.order,
            form.transposed,
            None if bias is None else bias.value,
            out,
            form.out_axis,
            form.alpha,
            form.beta,
            weight.shared,
            bias is not None and bias.shared,
        )

    def _added(self, out: Value, trailing: int, features: int, rank: int) -> tuple[Value, _Constant | None]:
        """The output of a sum with a constant per feature and that constant, if it is all that becomes of a value.

        Args:
            out: The value.
            trailing: Axes after the feature axis.
            features: Length of the feature axis.
            rank: Axes that the value has for sure.
        """
        if len(out.consumers) == 1 and id(out) not in self._returned:
            ((add, i),) = out.consumers
            constant = self._constant(other_summand(add, i))
            total = _output(add)
            if (
                constant is not None
                and len(constant.dims) <= rank
                and constant.only_along(trailing, features)
                and total is not None
                and add.scope is out.scope
            ):
                return total, constant
        return out, None

    def _constant(self, value: Value | None) -> _Constant | None:
        """The stored floats that a value shows, through Identity, Transpose and Cast."""
        way: list[Node] = []
        shared = False
        while value is not None and value.tensor is None:
            node = value.producer
            operator = operator_of(node) if node is not None else None
            if node is None or operator is None or operator.origins is None or operator.copies is not Copies.ALL:
                return None
            if operator.casts and node.attribute("to") not in FLOATS:
                return None
            way.append(node)
            shared |= len(value.consumers) > 1 or id(value) in self._returned
            value = _input(node, 0)
        if value is None or value.tensor is None or value.tensor.data_type not in FLOATS:
            return None
        order = _axes_after(way, value)
        if order is None:
            return None
        return _Constant(value, order, shared or self._readers[value.key] > 1)


def _input(node: Node, i: int) -> Value | None:
    return node.inputs[i] if i < len(node.inputs) else None


def _output(node: Node) -> Value | None:
    return node.outputs[0] if node.outputs else None


def _axes_after(way: Sequence[Node], constant: Value) -> tuple[int, ...] | None:
    """The axes of a constant in the order that nodes (the last one first) leave them in; None if they are not kept."""
    shape = [d for d in constant.shape or [] if isinstance(d, int)]
    axes: Origins = tuple(range(len(shape)))
    for node in reversed(way):
        reading = operator_of(node).origins
        axes = reading(node, [shape[a] for a in axes if a is not None], axes) if reading is not None else ()
        if set(axes) != set(range(len(shape))):
            return None
    return tuple(a for a in axes if a is not None)


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
