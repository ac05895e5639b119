"""Static shape facts of every value.

`onnx.shape_inference` runs on a skeleton (the graph without its weight data), in turn with our own walk over the nodes
(`node_inference.Walk`): each uses what the other infers, until neither infers more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto

from onnxprune.graph.contents import Data, constant_data, known
from onnxprune.graph.equations import Equations
from onnxprune.graph.graph import Graph, Scope, Value
from onnxprune.graph.lengths import Dim
from onnxprune.graph.node_inference import Walk, is_open, resolve
from onnxprune.graph.stated_types import tensor_type
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
    """Alternates inference with our own walk over the nodes until neither learns more; for `assumed` see `_assume`."""
    equations = Equations({d for v in graph.main.inputs for d in v.shape or [] if isinstance(d, str)})
    model = skeleton(graph.proto)
    _name_lengths(model, equations)
    stated: dict[Value, list[Dim]] = {}
    constants = {v: entries for v in graph.constants() if (entries := constant_data(v)) is not None}
    for round_ in range(_MAX_ROUNDS):
        try:
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except Exception:  # an operator with a broken inference: what is known so far stands
            if round_ == 0:
                model = skeleton(graph.proto)
                _name_lengths(model, equations)
        for scope, proto in _protos(graph.main, model.graph):
            _read(scope, proto)
        resolve(graph, {}, equations)
        walk = Walk(graph, equations, constants)
        if not any(_vague(value, equations) for value in graph.values):
            break
        taught = _teach(graph, model, walk.learnt, stated) or _teach(graph, model, walk.learnt, stated, guess=True)
        if not _assume(graph, model, assumed, refused) and not taught and not _settle(graph, model, walk.data):
            break
    if _read_stated(graph, equations):
        walk = Walk(graph, equations, constants)
    return resolve(graph, walk.data, equations)


def _vague(value: Value, equations: Equations) -> bool:
    """Whether something of the shape or type is not known, or only under a name that inference made up."""
    return (
        value.shape is None
        or not value.elem_type
        or not all(type(d) is int or (isinstance(d, str) and equations.given(d)) for d in value.shape)
    )


def _name_lengths(model: ModelProto, equations: Equations) -> None:
    """Gives free axes the canonical text of the lengths that they are stated to have.

    Names that a file has for axes of its outputs alone are left out: what they are follows from the graph.
    """
    stack = [model.graph]
    while stack:
        graph = stack.pop()
        for info in [*graph.input, *graph.output, *graph.value_info]:
            for dim in info.type.tensor_type.shape.dim if info.type.HasField("tensor_type") else []:
                if dim.dim_param:
                    dim.dim_param = str(equations.stated(dim.dim_param))
        for info in model.graph.output if graph is model.graph else []:
            for dim in info.type.tensor_type.shape.dim if info.type.HasField("tensor_type") else []:
                if dim.dim_param and not equations.given(dim.dim_param):
                    dim.Clear()
        stack.extend(a.g for node in graph.node for a in node.attribute if a.type == AttributeProto.GRAPH)


def _read_stated(graph: Graph, equations: Equations) -> bool:
    """Takes over what the file states of lengths that inference cannot follow; whether there was anything.

    Numbers are not taken over: those of a file that somebody changed are often from before.
    """
    before = len(equations)
    for info in graph.proto.graph.value_info:
        value, (stated, _) = graph.main.names.get(info.name), tensor_type(info)
        if value is None or value.shape is None or stated is None or len(stated) != len(value.shape):
            continue
        for dim, text in zip(value.shape, stated, strict=True):
            if isinstance(dim, str) and isinstance(text, str) and not equations.given(dim) and equations.given(text):
                equations.equal(dim, text)
    return len(equations) > before


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
    graph: Graph, model: ModelProto, learnt: Iterable[Value], stated: dict[Value, list[Dim]], *, guess: bool = False
) -> bool:
    """Writes shapes that we know and inference does not into the skeleton; returns whether there were any.

    A shape cannot be stated without a type, and a wrong one stops inference downstream: where the type is not known
    yet, that waits until nothing else is learnt, and then a float is guessed.
    """
    news = False
    protos = dict(_protos(graph.main, model.graph))
    infos: dict[Scope, dict[str, ValueInfoProto]] = {}
    for value in learnt:
        shape, scope = value.shape, value.scope
        if shape is None or scope not in protos or stated.get(value) == shape or not (value.elem_type or guess):
            continue
        if scope not in infos:
            infos[scope] = {v.name: v for v in [*protos[scope].value_info, *protos[scope].output]}
        stated[value] = shape
        _state(infos[scope], protos[scope], value.name, value.elem_type, shape)
        news = True
    return news


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
            if initial is None or end is None or start in assumed or start in refused or not is_open(start):
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


def _state(infos: dict[str, ValueInfoProto], graph: GraphProto, name: str, elem_type: int, dims: Sequence[Dim]) -> None:
    if name not in infos:
        infos[name] = graph.value_info.add(name=name)
    infos[name].CopyFrom(onnx.helper.make_tensor_value_info(name, elem_type or TensorProto.FLOAT, list(dims)))
