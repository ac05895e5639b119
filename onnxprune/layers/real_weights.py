"""Quantised weights as floats, which a repair or a training changes, and rounded again.

MatMulNBits and DequantizeLinear of constants are replaced by their real values, under which `layers.find` sees layers;
afterwards they come back. What was left alone comes back bit by bit, what was changed with the zero points that it
had, and with new scales or the old ones. A bias of 32 bits follows the scale of its weight, as runtimes that fuse the
two assume.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxprune.layers.dequantize import dequantised, unpacked
from onnxprune.layers.quantize import Blocks, packed, quantised, rounded
from onnxprune.layers.scale_blocks import AlongAxis, OfColumns, ScaleBlocks
from onnxprune.model.model import Model
from onnxprune.model.unique_names import Names

Array = NDArray[Any]
RANGES: dict[int, tuple[int, int]] = {
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT32: (-(2**31), 2**31 - 1),
}
"""Types of weights and biases, and the numbers that they hold."""


@dataclass(frozen=True)
class _Weight:
    """A quantised constant that floats stand for.

    Attributes:
        node: The node that dequantises it: DequantizeLinear, or MatMulNBits.
        floats: Name of the floats.
        real: Their values.
        blocks: Which of them share a scale.
        scale: The scales, as they are stored.
        zero: The zero point of each scale; shape (scales,).
        range: The least and the largest number.
        product: Of MatMulNBits, the output of the product that stands for it; its own output where it has no bias.
    """

    node: NodeProto
    floats: str
    real: Array
    blocks: ScaleBlocks
    scale: Array
    zero: NDArray[np.float64]
    range: tuple[int, int]
    product: str | None = None

    @property
    def scales(self) -> NDArray[np.float64]:
        """The scale of each block; shape (scales,)."""
        return self.scale.astype(np.float64).reshape(-1)

    def rounded(self, changed: Array) -> Blocks:
        """The numbers nearest to other values, at the same scales."""
        return rounded(self.blocks.rows(changed), self.scales, self.zero, *self.range)

    def quantised(self, changed: Array) -> Blocks:
        """The numbers of other values, at the scales that fit them best."""
        return quantised(self.blocks.rows(changed), *self.range, self.scale.dtype, self.zero)


class RealWeights:
    """A copy of a model in which quantised weights are floats.

    Attributes:
        model: The copy.
        products: Output of a product with a bias apart -> the output of both together.
    """

    def __init__(self, model: Model, room: int = 10**9) -> None:
        """Replaces what it can; `found` says whether there was anything.

        Weights that several nodes read stay as they are: each would get its own.

        Args:
            model: The model; not changed.
            room: Bytes that the floats may take; what does not fit stays as it is.
        """
        self.model = model.copy()
        self._room = room
        self._readers = Counter(_read(model.proto.graph))
        self._names = Names(self.model.proto)
        self._stored = {t.name: t for t in model.proto.graph.initializer}
        self._touched = set[str]()
        self._weights: list[_Weight] = []
        self.products: dict[str, str] = {}
        outputs = {out.name for out in model.proto.graph.output}
        for node in list(self.model.proto.graph.node):
            if node.op_type == "MatMulNBits" and node.domain == "com.microsoft":
                self._replace_product(node)
            elif node.op_type == "DequantizeLinear" and not outputs.intersection(node.output):
                self._fold(node)
        self._drop_unread()

    @property
    def found(self) -> bool:
        """Whether anything was quantised."""
        return bool(self._weights)

    def rounded(self, name: str, array: Array) -> Array:
        """What is left of other floats once they are rounded at the scales that they have."""
        weight = next((w for w in self._weights if w.floats == name), None)
        return array if weight is None else weight.blocks.whole(weight.rounded(array).real).astype(array.dtype)

    def restore(self, *, keep_scales: bool = False) -> Model:
        """The model, which may have been changed since, with its weights quantised again; the copy is used up.

        Args:
            keep_scales: Whether changed weights keep the scales that they had, see `rounded`; else they get the best.
        """
        ratios: dict[str, Array] = {}  # output of a weight -> new scale by old scale
        tensors = {t.name: t for t in self.model.proto.graph.initializer}
        biases = []
        for weight in self._weights:
            changed = self.model.array(tensors[weight.floats])
            made = None
            if not np.array_equal(changed, weight.real):
                made = weight.rounded(changed) if keep_scales else weight.quantised(changed)
            if weight.product is not None:
                self._restore_product(weight, made)
            elif self._kind(weight.node) == TensorProto.INT32:
                biases.append((weight, changed))
            else:
                ratios[weight.floats] = self._restore_weight(weight, made)
        weight_of = self._weights_of_biases()
        for weight, changed in biases:
            self._restore_bias(weight, changed, ratios.get(weight_of.get(weight.floats, ""), np.ones(())))
        used = {name for node in self.model.proto.graph.node for name in node.input}
        missing = used - {t.name for t in self.model.proto.graph.initializer}
        self.model.proto.graph.initializer.extend(t for name, t in self._stored.items() if name in missing)
        self._drop_unread()
        return self.model

    def _replace_product(self, node: NodeProto) -> None:
        """MatMulNBits as MatMul with floats, and Add where it has a bias."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        b, scale, zero, order, bias = (node.input[i] if i < len(node.input) else "" for i in range(1, 6))
        given = [name for name in (b, scale, zero) if name]
        bits, deep, wide = int(attributes.get("bits", 4)), attributes["K"], attributes["N"]
        if order or attributes.get("weight_prepacked") or 8 % bits or not self._takes(given, deep * wide):
            return
        if len(self._stored[b].dims) != 3:
            return
        scales, points = self._array(scale), self._array(zero) if zero else None
        real = unpacked(self._array(b), scales, points, bits).reshape(wide, -1)[:, :deep].T.astype(scales.dtype)
        self._touched.update(given)
        old = NodeProto()
        old.CopyFrom(node)
        out = node.output[0]
        product = self._names.fresh(f"{out}_product") if bias else out
        floats = self._add(f"{b}_real", real)
        made = [helper.make_node("MatMul", [node.input[0], floats], [product], name=node.name)]
        if bias:
            self.products[product] = out
            made.append(helper.make_node("Add", [product, bias], [out], name=self._names.fresh(f"{out}_biased")))
        self._put(node, made)
        blocks = OfColumns(deep, wide, int(attributes["block_size"]))
        zeros = _points(points, wide, blocks.blocks, bits)
        self._weights.append(_Weight(old, floats, real, blocks, scales, zeros, (0, 2**bits - 1), product))

    def _restore_product(self, weight: _Weight, made: Blocks | None) -> None:
        """The node comes back, with new numbers and scales where some were made."""
        node, graph = weight.node, self.model.proto.graph
        (place,) = [n for n in graph.node if weight.product in n.output]
        if weight.product != node.output[0]:
            (add,) = [n for n in graph.node if n.output[0] == node.output[0]]
            node.input[5] = next(name for name in add.input if name != weight.product)
            graph.node.remove(add)
        if made is not None:
            assert isinstance(weight.blocks, OfColumns)
            bits = next((int(a.i) for a in node.attribute if a.name == "bits"), 4)
            numbers = made.numbers.reshape(weight.blocks.wide, weight.blocks.blocks, -1)
            node.input[1] = self._add(node.input[1], packed(numbers, bits))
            node.input[2] = self._add(node.input[2], _like(made.scale, weight.scale))
        self._put(place, [node])

    def _fold(self, node: NodeProto) -> None:
        """The floats of a constant in the place of what dequantises it."""
        names = [name for name in node.input if name]
        stored = self._stored.get(node.input[0])
        if stored is None or stored.data_type not in RANGES or not self._takes(names, math.prod(stored.dims)):
            return
        weight, scale = self._array(node.input[0]), self._array(node.input[1])
        blocks = AlongAxis(weight.shape, scale.shape, _axis(node) % max(weight.ndim, 1))
        if not blocks.divides:
            return
        zero = self._optional(node, 2)
        real = dequantised(weight, scale, zero, _axis(node)).astype(scale.dtype)
        zeros = np.zeros(scale.size) if zero is None else zero.astype(np.float64).reshape(-1)
        self._touched.update(names)
        old = NodeProto()
        old.CopyFrom(node)
        self.model.proto.graph.node.remove(node)
        self.model.proto.graph.initializer.append(numpy_helper.from_array(real, node.output[0]))
        self._weights.append(_Weight(old, old.output[0], real, blocks, scale, zeros, _range(weight, stored.data_type)))

    def _restore_weight(self, weight: _Weight, made: Blocks | None) -> Array:
        """The node comes back, with new numbers and scales where some were made; new scales by old ones."""
        node, ratio = weight.node, np.ones(())
        if made is not None:
            fresh = _like(made.scale, weight.scale)
            numbers = weight.blocks.whole(made.numbers).astype(self._array(node.input[0]).dtype)
            node.input[0] = self._add(node.input[0], numbers)
            node.input[1] = self._add(node.input[1], fresh)
            ratio = fresh.astype(np.float64) / weight.scale.astype(np.float64)
        self._put_first(node, weight.floats)
        return ratio

    def _restore_bias(self, weight: _Weight, changed: Array, ratio: Array) -> None:
        """A bias of 32 bits, whose scale is that of the activation times that of the weight."""
        node, scale = weight.node, weight.scale
        follows = ratio.size == 1 or ratio.shape == scale.shape
        if not np.array_equal(changed, weight.real) or (follows and (ratio != 1).any()):
            fresh = (
                (scale * ratio.reshape(scale.shape if ratio.size > 1 else ())).astype(scale.dtype) if follows else scale
            )
            low, high = RANGES[TensorProto.INT32]
            numbers = np.clip(np.rint(changed.astype(np.float64) / fresh.astype(np.float64)), low, high)
            node.input[0] = self._add(node.input[0], numbers.astype(np.int32))
            node.input[1] = self._add(node.input[1], fresh)
        self._put_first(node, weight.floats)

    def _weights_of_biases(self) -> dict[str, str]:
        """The weight that each bias is added to the product of, both by the names of their floats."""
        floats = {weight.floats for weight in self._weights}
        return {
            n.input[2]: n.input[1] for n in self.model.proto.graph.node if len(n.input) > 2 and n.input[2] in floats
        }

    def _takes(self, names: list[str], count: int) -> bool:
        """Whether so many floats may stand for some constants, of which the first is the weight."""
        if not self._stored.keys() >= set(names) or self._readers[names[0]] > 1 or 4 * count > self._room:
            return False
        self._room -= 4 * count
        return True

    def _kind(self, node: NodeProto) -> int:
        return int(self._stored[node.input[0]].data_type)

    def _optional(self, node: NodeProto, index: int) -> Array | None:
        return self._array(node.input[index]) if len(node.input) > index and node.input[index] else None

    def _array(self, name: str) -> Array:
        return self.model.array(self._stored[name])

    def _add(self, base: str, array: Array) -> str:
        name = self._names.fresh(base)
        tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
        self._stored[name] = tensor
        self._touched.add(name)
        self.model.proto.graph.initializer.append(tensor)
        return name

    def _put(self, place: NodeProto, nodes: list[NodeProto]) -> None:
        """Puts nodes in the place of another."""
        graph = self.model.proto.graph
        at = list(graph.node).index(place)
        del graph.node[at]
        for offset, node in enumerate(nodes):
            graph.node.insert(at + offset, node)

    def _put_first(self, node: NodeProto, floats: str) -> None:
        """Puts a node before all others, in the place of the floats that it makes."""
        graph = self.model.proto.graph
        graph.initializer.remove(next(t for t in graph.initializer if t.name == floats))
        graph.node.insert(0, node)

    def _drop_unread(self) -> None:
        """Leaves out the constants of what was replaced, where nothing reads them."""
        graph = self.model.proto.graph
        unread = self._touched.difference(_read(graph))
        for tensor in [t for t in graph.initializer if t.name in unread]:
            graph.initializer.remove(tensor)


def _read(graph: onnx.GraphProto) -> list[str]:
    """Every name that is read, in bodies too, and the graph's inputs and outputs."""
    found = [v.name for v in [*graph.input, *graph.output]]
    for node in graph.node:
        found += node.input
        for a in node.attribute:
            for body in ([a.g] if a.HasField("g") else []) + list(a.graphs):
                found += _read(body)
    return found


def _range(stored: Array, kind: int) -> tuple[int, int]:
    """The numbers that a weight uses: quantisers keep to 7 bits, say, where processors would saturate sums of more."""
    if kind == TensorProto.INT32:
        return RANGES[kind]
    numbers = stored.astype(np.int64)
    low, high = int(numbers.min()), int(numbers.max())
    return (low, high) if low < high else RANGES[kind]


def _axis(node: NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "axis"), 1)


def _points(zero: Array | None, columns: int, blocks: int, bits: int) -> NDArray[np.float64]:
    """The zero point of each block of MatMulNBits."""
    if zero is None:
        return np.full(columns * blocks, 2.0 ** (bits - 1))
    if zero.dtype != np.uint8:
        return zero.astype(np.float64).reshape(-1)
    numbers = unpacked(zero.reshape(columns, -1), np.ones(columns), np.zeros(columns, np.float32), bits)
    return numbers.reshape(columns, -1)[:, :blocks].astype(np.float64).reshape(-1)


def _like(scales: NDArray[np.float64], stored: Array) -> Array:
    """Scales in the shape and type of others."""
    return scales.astype(stored.dtype).reshape(stored.shape)
