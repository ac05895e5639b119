"""What a model costs: parameters, multiply-accumulates, bytes.

All three are counted from shapes; no weight is read. Shapes come from static inference on a copy without the
weights, so that a model of any size takes milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import NodeProto, TensorProto, helper, shape_inference

from onnxprune import shapes as shape_facts
from onnxprune.errors import InputError
from onnxprune.graph import Graph
from onnxprune.inputs import fed_inputs, flat, input_dims
from onnxprune.model import Model
from onnxprune.tensors import constants, elements, sparse_initializers

Shape = tuple[int, ...]

# Integers of 32 and 64 bits are shapes, indices and the biases of quantised layers: not counted.
_WEIGHT_TYPES = {"FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2"}


@dataclass(frozen=True)
class Cost:
    """Cost of one model.

    Attributes:
        params: Elements of weight constants, see `parameters`.
        macs: Multiply-accumulates of one run of the main graph; None where a shape that matters is not known.
        bytes: Size of the saved model, external data included.
    """

    params: int
    macs: int | None
    bytes: int


def measure(
    model: Model,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Cost:
    """Parameters, MACs and bytes of a model.

    Args:
        model: The model.
        input_shapes: Shapes of graph inputs to count MACs for; free axes of the others get the sizes that
            `sample_inputs` gives them, a batch of 1 among them.
        shapes: Shapes of values by name, say from a run, for those that inference cannot tell.

    Raises:
        InputError: A given input shape does not fit the model.
    """
    slim = flat(model.proto)
    try:
        dims = input_dims(slim, input_shapes)
    except InputError:
        if input_shapes:
            raise
        dims = {}
    known = static_shapes(slim, dims) | {k: tuple(v) for k, v in (shapes or {}).items()}
    macs = macs_from_shapes(slim, known)
    if macs is None:
        macs = macs_from_shapes(slim, reasoned_shapes(slim, dims) | known)
    return Cost(parameters(model.proto), macs, model.nbytes)


def parameters(proto: onnx.ModelProto) -> int:
    """Elements of all weight constants with more than one element: initializers and Constants in all graphs.

    Floating-point numbers and integers of up to 8 bits count; packed formats (two 4-bit weights in a byte of a
    MatMulNBits) count as they are stored. Integers of 32 and 64 bits (shapes, indices, biases of quantised
    layers) do not.
    """
    total = 0
    dense = ((tensor.data_type, elements(tensor)) for _, _, tensor in constants(proto))
    sparse = ((s.values.data_type, math.prod(s.dims)) for s in sparse_initializers(proto.graph))
    for data_type, size in [*dense, *sparse]:
        kind = TensorProto.DataType.Name(data_type)
        if (kind in _WEIGHT_TYPES or kind.startswith(("FLOAT8", "FLOAT6", "FLOAT4"))) and size > 1:
            total += size
    return total


def static_shapes(slim: onnx.ModelProto, dims: Mapping[str, Shape]) -> dict[str, Shape]:
    """Fully known shapes of the main graph's values when the inputs have these.

    Args:
        slim: A model without its big weights, see `inputs.flat`; not changed.
        dims: Shapes of graph inputs by name.
    """
    work = _with_inputs(slim, dims)
    found = _inferred(work)
    # What the model itself declares may know operators that onnx does not, and holds where nothing was free.
    if all(_known(v) == dims.get(v.name) for v in fed_inputs(slim.graph)):
        declared = [v for v in (*slim.graph.value_info, *slim.graph.output) if v.name not in found and _known(v)]
        outputs = {v.name for v in work.graph.output}
        work.graph.value_info.extend(v for v in declared if v.name not in outputs)
        found = {v.name: s for v in declared if (s := _known(v)) is not None} | (_inferred(work) if declared else found)
    return found


def reasoned_shapes(slim: onnx.ModelProto, dims: Mapping[str, Shape]) -> dict[str, Shape]:
    """As `static_shapes`, by way of what the graph computes its shapes from: sees further and takes longer."""
    graph = Graph(_with_inputs(slim, dims))
    shape_facts.infer(graph)
    found = {}
    for name, value in graph.main.names.items():
        lengths = [n for n in value.shape or [] if isinstance(n, int)]
        if value.shape is not None and len(lengths) == len(value.shape):
            found[name] = tuple(lengths)
    return found


def _with_inputs(slim: onnx.ModelProto, dims: Mapping[str, Shape]) -> onnx.ModelProto:
    """A copy whose inputs have these shapes and which states no shape of anything else."""
    work = onnx.ModelProto()
    work.CopyFrom(slim)
    del work.graph.value_info[:]
    for value in work.graph.input:
        if value.name in dims:
            kind = value.type.tensor_type.elem_type
            value.type.CopyFrom(helper.make_tensor_type_proto(kind, dims[value.name]))
    for value in work.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return work


def _inferred(model: onnx.ModelProto) -> dict[str, Shape]:
    """What onnx's shape inference finds out; nothing where it fails altogether."""
    try:
        graph = shape_inference.infer_shapes(model, data_prop=True).graph
    except (shape_inference.InferenceError, ValueError, RuntimeError):
        return {}
    return {v.name: s for v in (*graph.input, *graph.value_info, *graph.output) if (s := _known(v)) is not None}


def _known(value: onnx.ValueInfoProto) -> Shape | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    return tuple(d.dim_value for d in tensor.shape.dim)


def macs_from_shapes(proto: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> int | None:
    """Multiply-accumulates of the main graph's convolutions, matrix products, recurrent layers and attention.

    Bodies of If, Loop and Scan are not counted: how often they run is not known.

    Args:
        proto: The model; its weights are not read.
        shapes: Shapes of inputs and intermediate values by name; those of constants need not be given.

    Returns:
        The sum, or None where a shape that it needs is missing.
    """
    known: dict[str, Sequence[int]] = {**shapes, **{n: t.dims for s, n, t in constants(proto) if not s}}
    total = 0
    for node in proto.graph.node:
        if not is_heavy(node):
            continue
        try:
            total += _COUNTERS[node.op_type](_Call(node, known))
        except (_UnknownShapeError, IndexError, ValueError):
            return None
    return total


def is_heavy(node: NodeProto) -> bool:
    """Whether a node's multiply-accumulates are counted."""
    return node.op_type in _COUNTERS and node.domain in ("", "ai.onnx", "com.microsoft", "com.ms.internal.nhwc")


class _UnknownShapeError(Exception):
    """A shape that a count needs is not known."""


@dataclass(frozen=True)
class _Call:
    """One node with the shapes of what it reads and writes."""

    node: NodeProto
    shapes: Mapping[str, Sequence[int]]

    def has(self, position: int) -> bool:
        return position < len(self.node.input) and bool(self.node.input[position])

    def input(self, position: int) -> Shape:
        return self._shape(self.node.input[position] if self.has(position) else "")

    def output(self, position: int = 0) -> Shape:
        return self._shape(self.node.output[position])

    def flag(self, name: str) -> int:
        return next((a.i for a in self.node.attribute if a.name == name), 0)

    def _shape(self, name: str) -> Shape:
        if name not in self.shapes:
            raise _UnknownShapeError(name)
        return tuple(self.shapes[name])


def _convolution(weight: int) -> Callable[[_Call], int]:
    """Every output element takes one kernel: its input channels per group times its window."""
    return lambda call: math.prod(call.output()) * math.prod(call.input(weight)[1:])


def _transposed_convolution(call: _Call) -> int:
    """Every input element is spread by one kernel."""
    return math.prod(call.input(0)) * math.prod(call.input(1)[1:])


def _product(call: _Call) -> int:
    """Every output element takes the length of the axis that is summed over: the last of the left factor."""
    left = call.input(0)
    return math.prod(call.output()) * left[-2 if call.flag("transA") and len(left) > 1 else -1]


def _einsum(call: _Call) -> int:
    """The size of the whole index space: every distinct letter once."""
    equation = next((a.s.decode() for a in call.node.attribute if a.name == "equation"), "").replace(" ", "")
    sizes: dict[str, int] = {}
    for position, term in enumerate(equation.split("->")[0].split(",")):
        shape = call.input(position)
        hidden = len(shape) - len(term.replace("...", ""))
        # axes under an ellipsis are counted from its right end, as broadcasting does
        names = [f"...{i}" for i in range(hidden, 0, -1)]
        before, dots, after = term.partition("...")
        for letter, size in zip([*before, *(names if dots else []), *after], shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return math.prod(sizes.values())


def _recurrent(call: _Call) -> int:
    """Input and recurrent weights, once a step and sequence."""
    x = call.input(0)
    return x[0] * x[1] * (math.prod(call.input(1)) + math.prod(call.input(2)))


def _packed_attention(call: _Call) -> int:
    """Fused projection of (batch, length, width), then scores and weighted values."""
    batch, length, _ = call.input(0)
    projection = batch * length * math.prod(call.input(1))
    out = call.output()[-1]
    queries = (call.input(1)[1] - out) // 2  # packed as queries, keys, values
    return projection + batch * length * length * (queries + out)


def _attention(call: _Call) -> int:
    """Scores and weighted values of queries against keys: (batch, length, width) or (batch, heads, length, width)."""
    q, out = call.input(0), call.output()
    if len(q) == 5:  # queries, keys and values in one: (batch, length, heads, 3, head)
        return 2 * q[0] * q[1] * q[1] * q[2] * q[4]
    keyed = call.has(1)  # else keys and values are packed behind the queries
    keys = call.input(1) if keyed else q
    length = keys[1] if len(keys) == 5 else keys[-2]
    if len(call.node.output) > 1 and call.node.output[1] in call.shapes:
        length = call.output(1)[-2]  # the keys of this call and of those before it
    width = (q if keyed else out)[-1] + out[-1]
    return math.prod(q[:-1]) * length * width


_MICROSOFT_ATTENTION = {"MultiHeadAttention", "GroupQueryAttention"}


def _any_attention(call: _Call) -> int:
    fused = call.node.domain == "com.microsoft" and call.node.op_type not in _MICROSOFT_ATTENTION
    return _packed_attention(call) if fused else _attention(call)


_COUNTERS: dict[str, Callable[[_Call], int]] = {
    **dict.fromkeys(("Conv", "FusedConv", "NhwcFusedConv", "ConvInteger", "DeformConv"), _convolution(1)),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed_convolution,
    **dict.fromkeys(
        ("Gemm", "FusedGemm", "QGemm", "MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul"), _product
    ),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "MatMulBnb4"), _product),
    "Einsum": _einsum,
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), _recurrent),
    **dict.fromkeys(("Attention", "QAttention", *_MICROSOFT_ATTENTION), _any_attention),
}
