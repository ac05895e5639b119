"""Static shape facts of every value.

`onnx.shape_inference` runs on a skeleton (the graph without its weight data), in turn with our own propagation of the
contents of small tensors (`data_propagation.evaluate`): each uses what the other infers, until neither infers more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto

from onnxprune.graph import node_shapes
from onnxprune.graph.contents import Data, known
from onnxprune.graph.data_propagation import evaluate, taken
from onnxprune.graph.graph import Dim, Graph, Node, Scope, Value, tensor_type
from onnxprune.graph.operators import Shape
from onnxprune.model.topology import topological_order

IR_VERSION = 4
"""The first one in which initializers need not be graph inputs."""
_KEEP_ENTRIES = 1024
_MAX_ROUNDS = 8
_INDICES, _INDICES_A_WEIGHT = 2**22, 16
_VALUE_KEPT = {TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL}


def infer(graph: Graph) -> dict[Value, Data]:
    """Fills in `Value.shape` and `Value.elem_type` and returns what small tensors hold."""
    given = {value: value.shape for value in graph.values}
    refused: set[Value] = set()
    while True:
        assumed: dict[Value, Value] = {}
        data = _rounds(graph, assumed, refused)
        wrong = {start for start, end in assumed.items() if not _keeps(start.shape or [], end.shape)}
        if not wrong:
            _free_endless(graph)
            return data
        refused |= wrong
        for value, shape in given.items():
            value.shape = shape


def _free_endless(graph: Graph) -> None:
    """Takes the longest axes for free where all together are too long to tell their indices apart.

    A few bytes can state any length. What carries channels is as long as weights have indices.
    """
    computed = [v for v in graph.values if v.tensor is None]
    lengths = np.sort(np.array([d for v in computed for d in v.shape or [] if isinstance(d, int)], dtype=np.float64))
    budget = _INDICES + _INDICES_A_WEIGHT * sum(math.prod(v.tensor.dims) for v in graph.values if v.tensor is not None)
    fitting = int(np.searchsorted(np.cumsum(lengths), budget, side="right"))
    if fitting < len(lengths):
        for value in computed:
            value.shape = value.shape and [
                None if isinstance(d, int) and d >= lengths[fitting] else d for d in value.shape
            ]


def _rounds(graph: Graph, assumed: dict[Value, Value], refused: set[Value]) -> dict[Value, Data]:
    """Alternates inference with propagation of contents until neither learns more; for `assumed` see `_assume`."""
    model = skeleton(graph.proto)
    stated: dict[Value, list[Dim]] = {}
    for round_ in range(_MAX_ROUNDS):
        try:
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except Exception:  # an operator with a broken inference: what is known so far stands
            if round_ == 0:
                model = skeleton(graph.proto)
        for scope, proto in _protos(graph.main, model.graph):
            _read(scope, proto)
        data = evaluate(graph)
        taught = _teach(graph, model, data, stated) or _teach(graph, model, data, stated, guess=True)
        if not _assume(graph, model, assumed, refused) and not taught and not _settle(graph, model, data):
            break
    return data


def skeleton(proto: ModelProto) -> ModelProto:
    """A copy of the model without weight data; small tensors that shapes are computed from are kept.

    Its IR version is at least 4: before, inference reads no shape of an initializer that is not an input too, and there
    are such models although the specification of IR version 3 asks for that input.
    """
    model = ModelProto(ir_version=max(proto.ir_version, IR_VERSION))
    model.opset_import.extend(proto.opset_import)
    model.functions.extend(proto.functions)
    _strip(proto.graph, model.graph)
    return model


def _bare(tensor: TensorProto) -> TensorProto:
    small = math.prod(tensor.dims) <= _KEEP_ENTRIES if tensor.data_type in _VALUE_KEPT else math.prod(tensor.dims) <= 16
    if small and tensor.data_location != TensorProto.EXTERNAL:
        return tensor
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _strip(source: GraphProto, target: GraphProto) -> None:
    target.name = source.name or "graph"
    target.input.extend(source.input)
    target.output.extend(source.output)
    target.initializer.extend(_bare(t) for t in source.initializer)
    target.sparse_initializer.extend(source.sparse_initializer)
    produced = {o for n in source.node if n.domain not in ("", "ai.onnx") for o in n.output}
    target.value_info.extend(v for v in source.value_info if v.name in produced)
    for node in topological_order(source):
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            bare = _bare(node.attribute[0].t)
            target.initializer.append(bare)
            target.initializer[-1].name = node.output[0]
            continue
        copy = target.node.add(
            op_type=node.op_type, domain=node.domain, name=node.name, input=node.input, output=node.output
        )
        for a in node.attribute:
            if a.type == AttributeProto.GRAPH:
                _strip(a.g, copy.attribute.add(name=a.name, type=a.type).g)
            else:
                copy.attribute.append(a)


def _read(scope: Scope, proto: GraphProto) -> None:
    """Takes over what inference found in one scope."""
    for info in [*proto.value_info, *proto.output]:
        value = scope.names.get(info.name)
        if value is None or value.tensor is not None:
            continue
        shape, elem_type = tensor_type(info)
        value.elem_type = elem_type or value.elem_type
        if shape is not None:
            value.shape = shape
    for value in scope.inputs:
        for info in proto.input:
            if info.name == value.name:
                shape, elem_type = tensor_type(info)
                value.shape, value.elem_type = shape if shape is not None else value.shape, elem_type or value.elem_type


def _teach(
    graph: Graph, model: ModelProto, data: dict[Value, Data], stated: dict[Value, list[Dim]], *, guess: bool = False
) -> bool:
    """Writes shapes that we know and inference does not into the skeleton; returns whether there were any.

    A shape cannot be stated without a type, and a wrong one stops inference downstream: where the type is not known
    yet, that waits until nothing else is learnt, and then a float is guessed.
    """
    news = False
    protos = dict(_protos(graph.main, model.graph))
    infos = {scope: {v.name: v for v in [*proto.value_info, *proto.output]} for scope, proto in protos.items()}
    for node in graph.nodes:
        if node.scope not in protos or not any(_open(out) for out in node.outputs):
            continue
        for out, shape_found in zip(node.outputs, _shapes_of(node, data), strict=False):
            if (
                out is None
                or shape_found is None
                or not _open(out)
                or (out.shape is not None and len(shape_found) != len(out.shape))
            ):
                continue
            shape_found = [
                None if isinstance(d, int) and not 0 <= d < 2**63 else d for d in shape_found
            ]  # nothing that can run
            merged = [
                b if isinstance(b, int) or a is None else a
                for a, b in zip(out.shape or [None] * len(shape_found), shape_found, strict=True)
            ]
            if (merged == out.shape and out.elem_type) or stated.get(out) == merged:
                continue
            out.elem_type = out.elem_type or node_shapes.elem_type(node) or _type_of(node)
            out.shape = merged
            if not out.elem_type and not guess:
                continue
            stated[out] = merged
            _state(infos[node.scope], protos[node.scope], out.name, out.elem_type, merged)
            news = True
    return news


def _shapes_of(node: Node, data: dict[Value, Data]) -> Sequence[Shape]:
    if node.op_type == "Loop" and not node.domain:
        return _loop_states(node)
    if node.op_type == "If" and not node.domain:
        branch = taken(node, data)
        return [end.shape if end is not None else None for end in branch.outputs] if branch is not None else []
    found, shape_found = node_shapes.outputs(node), node_shapes.from_contents(node, data)
    found = found or ([shape_found] if shape_found is not None else _alone(node, data))
    return found if any(shape is not None for shape in found) else node_shapes.parts(node)


def _alone(node: Node, data: dict[Value, Data]) -> list[Shape]:
    """Inference for one node whose inputs only we know: saves a round for each link of a chain of such nodes."""
    inputs = [v for v in node.inputs if v is not None]
    ranked = all(v.shape is not None and v.elem_type for v in inputs)
    if node.bodies or not inputs or not ranked or any(o is not None and o.shape is not None for o in node.outputs):
        return []
    types = {v.name: onnx.helper.make_tensor_type_proto(v.elem_type, v.shape) for v in inputs}
    contents = {
        v.name: onnx.numpy_helper.from_array(data[v].astype(onnx.helper.tensor_dtype_to_np_dtype(v.elem_type)), v.name)
        for v in inputs
        if v in data and known(data[v])
    }
    try:
        schema = onnx.defs.get_schema(node.op_type, node.opset, node.domain)
        found = onnx.shape_inference.infer_node_outputs(schema, node.proto, types, contents)
    except Exception:  # no schema, or an inference that fails: nothing is learnt
        return []
    for out in node.outputs:
        if out is not None and out.name in found:
            out.elem_type = out.elem_type or found[out.name].tensor_type.elem_type
    return [
        tensor_type(onnx.ValueInfoProto(type=found[name]))[0] if name in found else None for name in node.proto.output
    ]


def _open(value: Value | None) -> bool:
    """Whether there is still something to learn about the shape."""
    return value is not None and (value.shape is None or not all(isinstance(d, int) for d in value.shape))


def _protos(scope: Scope, proto: GraphProto) -> Iterator[tuple[Scope, GraphProto]]:
    """Each scope with its counterpart in the skeleton."""
    yield scope, proto
    holders = [node for node in scope.nodes if node.bodies and node.proto.output]
    owners = {n.output[0]: n for n in proto.node if n.output} if holders else {}
    for node in holders:
        twin = owners.get(node.proto.output[0])
        for a in twin.attribute if twin is not None else []:
            if a.name in node.bodies:
                yield from _protos(node.bodies[a.name], a.g)


def _loop_states(node: Node) -> list[Shape]:
    """Final states of a Loop: what the initial value's shape and that of the body's result have in common."""
    body, shapes = node.bodies["body"], list[Shape]()
    for initial, end in zip(node.inputs[2:], body.outputs[1:], strict=False):
        before, after = initial.shape if initial is not None else None, end.shape if end is not None else None
        shape: Shape = None
        if before is not None and after is not None and len(before) == len(after):
            shape = [a if a == b else None for a, b in zip(before, after, strict=True)]
        shapes.append(shape)
    return shapes


def _keeps(start: Sequence[Dim], end: Sequence[Dim] | None) -> bool:
    """Whether a round of a loop returns every number of the shape that it starts with."""
    return (
        end is not None
        and len(start) == len(end)
        and all(a == b for a, b in zip(start, end, strict=True) if isinstance(a, int))
    )


def _assume(graph: Graph, model: ModelProto, assumed: dict[Value, Value], refused: set[Value]) -> bool:
    """Lets a Loop's state of unknown shape start with its initial value's; whether there was one.

    That is right where the body returns the same numbers: then they hold round after round. `infer` looks, and starts
    again without what turned out wrong. Free lengths may change from round to round, so they are left open.
    """
    news = False
    protos = dict(_protos(graph.main, model.graph))
    for node in graph.nodes:
        if node.op_type != "Loop" or node.domain or node.bodies.get("body") not in protos:
            continue
        body = node.bodies["body"]
        for initial, start, end in zip(node.inputs[2:], body.inputs[2:], body.outputs[1:], strict=False):
            if initial is None or end is None or start in assumed or start in refused or not _open(start):
                continue
            known_rank = start.shape is None or len(start.shape) == len(initial.shape or [])
            if initial.shape is None or not known_rank:
                continue
            dims = [d if isinstance(d, int) else None for d in initial.shape]
            for info in protos[body].input:
                if info.name == start.name:
                    kind = start.elem_type or initial.elem_type
                    info.CopyFrom(onnx.helper.make_tensor_value_info(start.name, kind, dims))
            assumed[start] = end
            news = True
    return news


def _settle(graph: Graph, model: ModelProto, data: dict[Value, Data]) -> bool:
    """Gives the skeleton's nodes the operands that we could compute as constants; whether there were any."""
    news = False
    twins = {n.output[0]: n for n in model.graph.node if n.output}
    named = {t.name for t in model.graph.initializer}
    for node in graph.main.nodes:
        twin = twins.get(node.proto.output[0]) if node.proto.output else None
        if twin is None or node.outputs[0] in data:
            continue
        for i, value in enumerate(node.inputs):
            if value is None or value.tensor is not None or value not in data or not known(data[value]):
                continue
            name = f"{value.name}__known"
            known_type = value.elem_type in _VALUE_KEPT or value.elem_type == TensorProto.FLOAT
            if not known_type or i >= len(twin.input) or twin.input[i] == name:
                continue
            if name not in named:
                array = data[value].astype(onnx.helper.tensor_dtype_to_np_dtype(value.elem_type))
                model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
                named.add(name)
            twin.input[i] = name
            news = True
    return news


def _type_of(node: Node) -> int:
    first = node.inputs[0] if node.inputs else None
    if node.op_type == "ConstantOfShape":
        value = node.attribute("value")
        return value.data_type if value is not None else TensorProto.FLOAT
    return first.elem_type if first is not None else TensorProto.FLOAT


def _state(infos: dict[str, ValueInfoProto], graph: GraphProto, name: str, elem_type: int, dims: Sequence[Dim]) -> None:
    if name not in infos:
        infos[name] = graph.value_info.add(name=name)
    infos[name].CopyFrom(onnx.helper.make_tensor_value_info(name, elem_type or TensorProto.FLOAT, list(dims)))
