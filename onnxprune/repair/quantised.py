"""Quantised weights in a repair: refitted as floats, then rounded again, each block with a scale of its own.

MatMulNBits and DequantizeLinear of constants are replaced by their real values, under which `layers.find` sees layers;
afterwards they come back. What the repair left alone comes back bit by bit, what it changed with the zero points that
it had and scales anew. A bias of 32 bits follows the scale of its weight, as runtimes that fuse the two assume.
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
from onnxprune.layers.quantize import packed, quantised
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
        product: Of MatMulNBits, the output of the product that stands for it; its own output where it has no bias.
    """

    node: NodeProto
    floats: str
    real: Array
    product: str | None = None


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

    def restore(self) -> Model:
        """The model, which may have been changed since, with its weights quantised again; the copy is used up."""
        scaled: dict[str, Array] = {}  # output of a weight -> new scale by old scale
        tensors = {t.name: t for t in self.model.proto.graph.initializer}
        for weight in self._weights:
            changed = self.model.array(tensors[weight.floats])
            same = np.array_equal(changed, weight.real)
            if weight.product is not None:
                self._restore_product(weight, None if same else changed)
            elif self._kind(weight.node) != TensorProto.INT32:
                scaled[weight.floats] = self._restore_weight(weight, None if same else changed)
        weight_of = self._weights_of_biases()
        for weight in self._weights:
            if weight.product is None and self._kind(weight.node) == TensorProto.INT32:
                changed = self.model.array(tensors[weight.floats])
                ratio = scaled.get(weight_of.get(weight.floats, ""), np.ones(()))
                self._restore_bias(weight, changed, ratio)
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
        self._weights.append(_Weight(old, floats, real, product))

    def _restore_product(self, weight: _Weight, changed: Array | None) -> None:
        node, attributes = weight.node, {a.name: helper.get_attribute_value(a) for a in weight.node.attribute}
        graph = self.model.proto.graph
        (place,) = [n for n in graph.node if weight.product in n.output]
        if weight.product != node.output[0]:
            (add,) = [n for n in graph.node if n.output[0] == node.output[0]]
            node.input[5] = next(name for name in add.input if name != weight.product)
            graph.node.remove(add)
        if changed is not None:
            bits, size = int(attributes.get("bits", 4)), int(attributes["block_size"])
            wide, blocks = attributes["N"], -(-attributes["K"] // size)
            scale = self._array(node.input[2])
            points = _points(self._optional(node, 3), wide, blocks, bits)
            real = np.pad(changed.T.astype(np.float64), [(0, 0), (0, blocks * size - attributes["K"])])
            made = quantised(real.reshape(-1, size), 0, 2**bits - 1, scale.dtype, points)
            node.input[1] = self._add(node.input[1], packed(made.numbers.reshape(wide, blocks, size), bits))
            node.input[2] = self._add(node.input[2], made.scale.astype(scale.dtype).reshape(scale.shape))
        self._put(place, [node])

    def _fold(self, node: NodeProto) -> None:
        """The floats of a constant in the place of what dequantises it."""
        names = [name for name in node.input if name]
        stored = self._stored.get(node.input[0])
        if stored is None or stored.data_type not in RANGES or not self._takes(names, math.prod(stored.dims)):
            return
        weight, scale = self._array(node.input[0]), self._array(node.input[1])
        if _groups(weight, scale, _axis(node)) is None:
            return
        zero = self._optional(node, 2)
        real = dequantised(weight, scale, zero, _axis(node)).astype(scale.dtype)
        self._touched.update(names)
        old = NodeProto()
        old.CopyFrom(node)
        self.model.proto.graph.node.remove(node)
        self.model.proto.graph.initializer.append(numpy_helper.from_array(real, node.output[0]))
        self._weights.append(_Weight(old, old.output[0], real))

    def _restore_weight(self, weight: _Weight, changed: Array | None) -> Array:
        """The node comes back; new scales by old ones."""
        node, ratio = weight.node, np.ones(())
        if changed is not None:
            stored, scale = self._array(node.input[0]), self._array(node.input[1])
            zero = self._optional(node, 2)
            zero = np.zeros_like(scale) if zero is None else zero
            groups = _groups(changed, scale, _axis(node))
            assert groups is not None
            low, high = _range(stored, self._kind(node))
            made = quantised(groups.astype(np.float64), low, high, scale.dtype, zero.astype(np.float64).reshape(-1))
            numbers = _ungroup(made.numbers, changed.shape, scale, _axis(node))
            fresh = made.scale.astype(scale.dtype).reshape(scale.shape)
            node.input[0] = self._add(node.input[0], numbers.astype(stored.dtype))
            node.input[1] = self._add(node.input[1], fresh)
            ratio = fresh.astype(np.float64) / scale.astype(np.float64)
        self._put_first(node, weight.floats)
        return ratio

    def _restore_bias(self, weight: _Weight, changed: Array, ratio: Array) -> None:
        """A bias of 32 bits, whose scale is that of the activation times that of the weight."""
        node, scale = weight.node, self._array(weight.node.input[1])
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


def _groups(array: Array, scale: Array, axis: int) -> Array | None:
    """The values that share a scale, as rows in the order of the scales; None where blocks do not divide the axis."""
    if scale.size == 1:
        return array.reshape(1, -1)
    if scale.ndim == 1:
        return np.moveaxis(array, axis, 0).reshape(len(scale), -1) if array.shape[axis] == len(scale) else None
    if scale.ndim != array.ndim or array.shape[axis] % scale.shape[axis]:
        return None
    at = axis % array.ndim
    size = array.shape[at] // scale.shape[at]
    split = array.reshape(*array.shape[:at], scale.shape[at], size, *array.shape[at + 1 :])
    return np.moveaxis(split, at + 1, -1).reshape(-1, size) if math.prod(scale.shape) * size == array.size else None


def _ungroup(rows: Array, shape: tuple[int, ...], scale: Array, axis: int) -> Array:
    """The inverse of `_groups`."""
    if scale.size == 1:
        return rows.reshape(shape)
    at = axis % len(shape)
    if scale.ndim == 1:
        rest = shape[:at] + shape[at + 1 :]
        return np.moveaxis(rows.reshape(shape[at], *rest), 0, at)
    return np.moveaxis(rows.reshape(*scale.shape, -1), -1, at + 1).reshape(shape)
