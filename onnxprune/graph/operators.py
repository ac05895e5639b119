"""What is known of operators: one record each, filled in beside its rule and read by everything that asks by operator.

A fact is declared once, with the decorators of `onnxprune.ops.registry`, and looked up here by node.
Whoever needs "all operators that ..." filters the records, so that no second list of names can become outdated.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from numpy.typing import NDArray
from onnx import NodeProto

from onnxprune.extensions.points import RULES
from onnxprune.extensions.registry import load_home, load_plugins

if TYPE_CHECKING:
    from onnxprune.graph.graph import Axis, Node, Value
    from onnxprune.graph.lengths import Dim

Shape = list["Dim"] | None
Term = tuple[float, Sequence["Axis"]]
"""A factor and the axes whose lengths it is multiplied with."""

ShapeFunction = Callable[["Node", list[Shape]], list[Shape]]
"""Shapes of the outputs from the shapes of the inputs."""
MacsFunction = Callable[["Node"], Iterable[Term]]
"""Multiply-accumulates of a node, as a sum of products of axis lengths."""
Origins = tuple[int | None, ...]
"""For each axis of a value, the axis of another value that it is; None where it is none by itself."""
OriginsFunction = Callable[["Node", Sequence[int], Origins], Origins]
"""Origins of the first output's axes from the first input's lengths and origins."""
Bounds = tuple[float, float]
ClipFunction = Callable[["Node"], Bounds]
"""Bounds that a node clips its first input to: beyond them its output does not change; infinite where unknown."""
GradientFunction = Callable[[Any], None]
"""Gradients of a node's inputs from those of its outputs, see `ops.gradients.node_gradient.NodeGradient`."""


class Copies(enum.Enum):
    """What a node whose output consists of elements of its inputs, unchanged, does with them."""

    ALL = "every element of the first input once"
    SOME = "elements of the first input, some of them left out or repeated"
    JOINED = "every element of every input once"
    MIXED = "elements of the first input among others"


class Postprocessing(enum.Enum):
    """What an operator at the end of a model does with scores or maps, without adding information."""

    SOFTMAX = "scores become probabilities along an axis"
    SIGMOID = "each score becomes a probability by itself"
    INTERPOLATION = "a map is resampled to another size"
    CLASS = "the index of the largest score along an axis is returned"
    CHOICE = "scores are compared in another way, and only the outcome is returned"


@dataclass(frozen=True)
class WeightLayout:
    """Along which axes of its constant operand a product sums, and which one holds its outputs.

    Attributes:
        inputs: Axis that is summed over (the reduction axis).
        outputs: Axis of the output features, None where there is none.
        input_blocks: Blocks that the reduction axis falls into, each summed over by itself.
        output_blocks: The same for the axis of output features.
    """

    inputs: int
    outputs: int | None
    input_blocks: int = 1
    output_blocks: int = 1

    def runs(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of shape (before, length, after): the reduction axis is the middle one."""
        shape, axis = array.shape, self.inputs
        length = shape[axis] // self.input_blocks
        return array.reshape(math.prod(shape[:axis]) * self.input_blocks, length, math.prod(shape[axis + 1 :]))

    def matrices(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of shape (..., outputs, inputs)."""
        shape, axes = list(array.shape), [self.inputs]
        if self.outputs is None:
            return array[None]
        blocks = {self.inputs: self.input_blocks, self.outputs: self.output_blocks}
        split: list[int] = []
        for axis, length in enumerate(shape):
            split += [blocks[axis], length // blocks[axis]] if axis in blocks else [length]
        axes = [axis + sum(other <= axis for other in blocks) for axis in (self.outputs, self.inputs)]
        rest = [axis for axis in range(len(split)) if axis not in axes]
        found: NDArray[Any] = array.reshape(split).transpose(rest + axes)
        return found


WeightFunction = Callable[["Node", int, Sequence[int]], "WeightLayout | str | None"]
"""How a node multiplies with operand number i of some shape: None where it does not, a reason if that is unclear."""

PackingFunction = Callable[["Node", int], Mapping[int, int]]
"""Axes of operand number i of a node that hold its channels in blocks: how many one index stands for, by axis."""


@dataclass(frozen=True)
class Affine:
    """A node as an affine function of one activation: a product with a constant, plus a vector.

    Attributes:
        kind: How the weight is laid out; ``matmul`` and ``gemm`` read a matrix, the other two a kernel.
        x: Operand that is the activation.
        weight: Operand that is the weight.
        bias: Operand that is the bias, None where the operator takes none.
        x_axis: Feature axis of the activation.
        out_axis: Feature axis of the output.
        transposed: Whether the matrix has shape (in, out).
        alpha: Factor of the product.
        beta: Factor of the bias.
    """

    kind: Literal["conv", "conv_transpose", "gemm", "matmul"]
    x: int
    weight: int
    bias: int | None
    x_axis: int
    out_axis: int
    transposed: bool = False
    alpha: float = 1.0
    beta: float = 1.0


AffineFunction = Callable[["Node"], Iterable[Affine]]
"""The ways in which a node may be an affine layer, of which at most one fits the operands at hand."""


@dataclass
class Operator:
    """One operator of one domain.

    Attributes:
        rules: First opset version, and the coupling rule from there on; ascending.
        shape: Output shapes, where ONNX's own inference has none.
        macs: Multiply-accumulates.
        weights: Constant operands that it multiplies with.
        packs: The channels of those of them that hold several numbers in a byte.
        affine: As a layer that can be refitted.
        origins: Where the axes of its output come from.
        clips: Bounds that it clips its first input to.
        gradient: Gradients of its inputs.
        parameters: Inputs that hold what training sets, where they are constants. This is declared with the gradient.
        type_of: Inputs of which the first that is given has the outputs' element type; by default input 0. This and
            the following are plain facts, which `ops.registry.rule` and `facts_of` take as keywords (`Facts`).
        elem_type: Element type of the outputs where it is always the same, else 0.
        copies: Whether it only copies elements of its inputs, and how.
        casts: Whether it changes the element type of what it copies.
        activation: Whether it applies a differentiable function to every element on its own.
        pointwise: Whether each element of its output depends on those at its index of broadcast inputs alone, by a
            function that can be differentiated.
        adds: Whether its output is the sum of its inputs, broadcast.
        subtracts: Whether its output is the first input less the second, broadcast.
        proportional: Inputs that its output is proportional to, each by itself, broadcast.
        divisor: Input that it divides by.
        gates: Blocks of rows in the weights of a recurrent layer; 0 for all others.
        zero_point: Input that holds the zero point of its first output; it then knows those of its inputs too.
        reads_zero_points: Whether it knows the zero point of what it reads; its whole-number constants are weights,
            biases of 32 bits too.
        quantises: Whether its first output stands for the numbers that its first input holds.
        lookups: Pairs of inputs (table, indices).
        positions: The output that holds positions along an axis of the first input, and which axis that is where no
            attribute says so.
        lists_nonzero: Whether its output lists where its input is not zero.
        writes: Input that is written into a copy of the first one, at positions that input 1 holds.
        random: Whether its output differs from run to run, or may do so.
        reads_parts: Whether it reads parts of its first input, chosen by position.
        reads_lengths: Whether its output consists of lengths of its input.
        shape_from_values: Whether the shape of its output depends on what its inputs hold, not on their shapes alone.
        fills: Whether all elements of its output are the same number.
        infers_length: Whether an entry of its shape operand may be -1: the length that is left over.
        postprocessing: What it does with scores or maps at the end of a model.
    """

    rules: list[tuple[int, Any]] = field(default_factory=list)
    shape: ShapeFunction | None = None
    macs: MacsFunction | None = None
    weights: WeightFunction | None = None
    packs: PackingFunction | None = None
    affine: AffineFunction | None = None
    origins: OriginsFunction | None = None
    clips: ClipFunction | None = None
    gradient: GradientFunction | None = None
    parameters: tuple[int, ...] = ()

    type_of: tuple[int, ...] = ()
    elem_type: int = 0
    copies: Copies | None = None
    casts: bool = False
    activation: bool = False
    pointwise: bool = False
    adds: bool = False
    subtracts: bool = False
    proportional: tuple[int, ...] = ()
    divisor: int | None = None
    gates: int = 0
    zero_point: int | None = None
    reads_zero_points: bool = False
    quantises: bool = False
    lookups: tuple[tuple[int, int], ...] = ()
    positions: tuple[int, int] | None = None
    lists_nonzero: bool = False
    writes: int | None = None
    random: bool = False
    reads_parts: bool = False
    reads_lengths: bool = False
    shape_from_values: bool = False
    fills: bool = False
    infers_length: bool = False
    postprocessing: Postprocessing | None = None


class Facts(TypedDict, total=False):
    """Keywords for the plain facts of an `Operator`, which documents them."""

    type_of: tuple[int, ...]
    elem_type: int
    copies: Copies | None
    casts: bool
    activation: bool
    pointwise: bool
    adds: bool
    subtracts: bool
    proportional: tuple[int, ...]
    divisor: int | None
    gates: int
    zero_point: int | None
    reads_zero_points: bool
    quantises: bool
    lookups: tuple[tuple[int, int], ...]
    positions: tuple[int, int] | None
    lists_nonzero: bool
    writes: int | None
    random: bool
    reads_parts: bool
    reads_lengths: bool
    shape_from_values: bool
    fills: bool
    infers_length: bool
    postprocessing: Postprocessing | None


HOME = "onnxprune.ops"
"""The package whose import declares our operators."""
_operators: dict[tuple[str, str], Operator] = {}
_NOTHING = Operator()


def declared(domain: str, op_types: str) -> Iterator[Operator]:
    """The records of some operators, to be written to.

    Args:
        domain: Their domain, "" for the standard one.
        op_types: Their names, separated by spaces.
    """
    for op_type in op_types.split():
        yield _operators.setdefault((domain, op_type), Operator())


def operator_of(node: Node | NodeProto) -> Operator:
    """What is known of a node's operator; a record without facts where nothing is."""
    return known_operators().get(("" if node.domain == "ai.onnx" else node.domain, node.op_type), _NOTHING)


def known_operators() -> dict[tuple[str, str], Operator]:
    """Every record by (domain, operator name)."""
    load_home(HOME)
    load_plugins(RULES)
    return _operators


def other_summand(node: Node, index: int) -> Value | None:
    """What a node adds to one of its inputs; None where its output is not the sum of two inputs."""
    if not operator_of(node).adds or len(node.inputs) != 2:
        return None
    return node.inputs[1 - index]
