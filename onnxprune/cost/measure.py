"""What a model costs: parameters, multiply-accumulates, bytes.

All three are counted from shapes; no weight is read. Shapes come from static inference on a copy without the
weights, so that a model of any size takes milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import helper, shape_inference

from onnxprune.cost.macs import Shape, macs_from_shapes, macs_of_nodes
from onnxprune.cost.trace import sampled_shapes
from onnxprune.engines.times import Times
from onnxprune.errors import InputError
from onnxprune.graph.graph import Graph
from onnxprune.graph.shape_inference import IR_VERSION, infer
from onnxprune.layers.find import linear_layers
from onnxprune.model.inputs import fed_inputs
from onnxprune.model.model import Model
from onnxprune.model.skeleton import inlined_skeleton
from onnxprune.model.tensors import WEIGHT_TYPES, constants, elements, sparse_initializers
from onnxprune.runtime.sample_inputs import candidate_dims


@dataclass(frozen=True)
class Cost:
    """Cost of one model.

    Attributes:
        params: Elements of weight constants, see `parameters`.
        macs: Multiply-accumulates of one run of the main graph; None where a shape that matters is not known.
        bytes: Size of the saved model, external data included.
        shapes: Shapes of the main graph's values that the MACs were counted at.
        times: What was measured of its latency, where a target asks for that.
        density: Share of its bytes that each sparse weight takes in the file, by its qualified name.
    """

    params: int
    macs: int | None
    bytes: int
    shapes: Mapping[str, Shape] = field(default_factory=dict, repr=False, compare=False)
    times: Times | None = field(default=None, repr=False, compare=False)
    density: Mapping[str, float] = field(default_factory=dict, repr=False, compare=False)

    def input_shapes(self, proto: onnx.ModelProto) -> dict[str, Shape]:
        """Shapes of the inputs of the model that the MACs were counted at, as far as they are known."""
        return {v.name: self.shapes[v.name] for v in fed_inputs(proto.graph) if v.name in self.shapes}


def measure(
    model: Model,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    run: bool = False,
) -> Cost:
    """Parameters, MACs and bytes of a model.

    Args:
        model: The model.
        input_shapes: Shapes of graph inputs to count MACs for; free axes of the others get the sizes that
            `sample_inputs` gives them, a batch of 1 among them.
        shapes: Shapes of values by name, say from a run, for those that inference does not know.
        run: Whether to run the model once on sample inputs where inference knows too little to count MACs.

    Raises:
        InputError: A given input shape does not fit the model.
    """
    slim, known, macs = _counted(model, input_shapes, shapes)
    if macs is None and run:
        known |= sampled_shapes(model, input_shapes)
        macs = macs_from_shapes(slim, known)
    return Cost(parameters(model.proto), macs, model.nbytes, known)


def mainly_convolutions(model: Model, input_shapes: Mapping[str, Sequence[int]] | None = None) -> bool:
    """Whether most of a model's multiply-accumulates are those of convolutions that can be refitted.

    Args:
        model: The model.
        input_shapes: Shapes of graph inputs to count at. Where MACs cannot be counted, layers are.
    """
    layers = linear_layers(Graph(model.proto))
    names = {layer.name for layer in layers if layer.kind.startswith("conv")}
    if not names:
        return False
    slim, known, macs = _counted(model, input_shapes, None)
    by_node = macs_of_nodes(slim, known) if macs else None
    if by_node is None:
        return 2 * len(names) > len(layers)
    return 2 * sum(by_node.get(name, 0.0) for name in names) > sum(by_node.values())


def counted_shapes(model: Model, input_shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, Shape]:
    """Concrete shapes of the main graph's values, as far as MACs need them and inference knows them; see `measure`."""
    return _counted(model, input_shapes, None)[1]


def macs_by_node(model: Model, input_shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, float]:
    """Multiply-accumulates of each node that has some, by its first output; empty where they cannot be counted."""
    slim, known, total = _counted(model, input_shapes, None)
    return {} if total is None else macs_of_nodes(slim, known) or {}


def _counted(
    model: Model, input_shapes: Mapping[str, Sequence[int]] | None, given: Mapping[str, Sequence[int]] | None
) -> tuple[onnx.ModelProto, dict[str, Shape], int | None]:
    """The skeleton that is counted, shapes of its values, and its MACs, None where the shapes are not enough."""
    slim, told = inlined_skeleton(model.proto), {k: tuple(v) for k, v in (given or {}).items()}
    first, *others = _dims_to_try(slim, input_shapes)
    known = static_shapes(slim, first) | told
    macs = macs_from_shapes(slim, known)
    if macs is None:
        known = reasoned_shapes(slim, first) | known
        macs = macs_from_shapes(slim, known)
    if macs is not None and not _too_short(known):
        return slim, known, macs
    for dims in others:
        more = static_shapes(slim, dims) | told
        counted = macs_from_shapes(slim, more)
        if counted is not None and not _too_short(more):
            return slim, more, counted
    return slim, known, macs


def _dims_to_try(slim: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]] | None) -> list[dict[str, Shape]]:
    """Shapes of the graph inputs, for each of the sizes that free axes may have; at least one, empty if unknown."""
    try:
        return [dict(dims) for dims in candidate_dims(slim, input_shapes)]
    except InputError:
        if input_shapes:
            raise
        return [{}]


def _too_short(shapes: Mapping[str, Shape]) -> bool:
    """Whether values vanish: inputs are shorter than the windows that are cut out of them."""
    return any(length < 1 for shape in shapes.values() for length in shape)


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
        if data_type in WEIGHT_TYPES and size > 1:
            total += size
    return total


def static_shapes(slim: onnx.ModelProto, dims: Mapping[str, Shape]) -> dict[str, Shape]:
    """Fully known shapes of the main graph's values when the inputs have these.

    Args:
        slim: A model without its big weights, see `model.skeleton`; not changed.
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
    infer(graph)
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
    work.ir_version = max(work.ir_version, IR_VERSION)  # see `graph.shape_inference.skeleton`
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
    """Shapes by onnx's shape inference; none where it fails altogether."""
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
