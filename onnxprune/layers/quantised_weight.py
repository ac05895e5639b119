"""Quantised constants with what reads them, and nodes that compute the same with their real values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from onnxprune.layers.quantize import Blocks, quantised, rounded
from onnxprune.layers.scale_blocks import ScaleBlocks

Array = NDArray[Any]
MS = "com.microsoft"
RANGES: dict[int, tuple[int, int]] = {
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT32: (-(2**31), 2**31 - 1),
}
"""Types of weights and biases, and the numbers that they hold."""


@dataclass(frozen=True)
class Operand:
    """An input of a node."""

    node: NodeProto
    index: int

    @property
    def name(self) -> str:
        """Name of the value; empty where it is not given."""
        return self.node.input[self.index] if self.index < len(self.node.input) else ""


@dataclass(frozen=True)
class QuantisedWeight:
    """A quantised constant that floats stand for.

    Attributes:
        floats: Name of the floats.
        real: Their values.
        blocks: Which of them share a scale.
        scale: The scales, in the shape and type in which they are stored.
        zero: The zero point of each scale; shape (scales,).
        range: The least and the largest number.
        numbers: What reads the numbers.
        scales: What reads the scales; None for a bias whose scale is a product of two others.
        bits: Bits of a number where several are packed in a byte.
        is_bias: Whether its scale follows that of a weight.
    """

    floats: str
    real: Array
    blocks: ScaleBlocks
    scale: Array
    zero: NDArray[np.float64]
    range: tuple[int, int]
    numbers: Operand
    scales: Operand | None
    bits: int | None = None
    is_bias: bool = False

    def rounded(self, changed: Array, scale: Array | None = None) -> Blocks:
        """The numbers nearest to other values, at the same scales or at given ones."""
        scales = (self.scale if scale is None else scale).astype(np.float64).reshape(-1)
        return rounded(self.blocks.rows(changed), scales, self.zero, *self.range)

    def quantised(self, changed: Array) -> Blocks:
        """The numbers of other values, at the scales that fit them best."""
        return quantised(self.blocks.rows(changed), *self.range, self.scale.dtype, self.zero)


@dataclass(frozen=True)
class Replacement:
    """Nodes, and those that compute the same with floats.

    Attributes:
        originals: The nodes, in topological order.
        stand_ins: The nodes in their place, in topological order; none where the floats themselves are the result.
        weights: The constants.
        aliases: Values that only the stand-ins have -> a value of the model with the same axes.
        bias: What reads a bias of floats in the originals, and what does in the last of the stand-ins.
    """

    originals: Sequence[NodeProto]
    stand_ins: Sequence[NodeProto]
    weights: Sequence[QuantisedWeight]
    aliases: Mapping[str, str] = field(default_factory=dict)
    bias: tuple[Operand, Operand] | None = None


class Surroundings(Protocol):
    """What a model has around a node."""

    def array(self, name: str) -> Array | None:
        """The values of a constant; None for what is none."""
        ...

    def take(self, name: str) -> bool:
        """Whether floats may stand for a constant: it is read once, and there is room for them."""
        ...

    def producer(self, name: str) -> NodeProto | None:
        """The node that makes a value."""
        ...

    def reader(self, name: str) -> NodeProto | None:
        """The only node that reads a value; None where there are several, or where the value is returned."""
        ...

    def fresh(self, base: str) -> str:
        """A name that no value has."""
        ...


Form = Callable[[NodeProto, Surroundings], "Replacement | None"]
"""Makes the replacement of a node, which it may change; None where it does not know the operands."""


def real_name(node: NodeProto, index: int, around: Surroundings) -> str:
    """A name for the real values of an input."""
    return around.fresh(f"{node.input[index]}_real")


def attribute(node: NodeProto, name: str, default: int) -> int:
    """A whole number that a node has as an attribute."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def make_node(op_type: str, inputs: Sequence[str], *outputs: str, name: str | None = None) -> NodeProto:
    """A node without the last inputs that are not given."""
    given = list(inputs)
    while given and not given[-1]:
        del given[-1]
    return helper.make_node(op_type, given, outputs, name=name or outputs[0])


def copy_of(node: NodeProto) -> NodeProto:
    """A node of its own."""
    found = NodeProto()
    found.CopyFrom(node)
    return found
