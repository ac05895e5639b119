"""One walk over the nodes that infers shapes and contents together, each from the other.

`onnx.shape_inference` compares free lengths by name only, and follows no shape that is computed of them. This walk
does, by the arithmetic of `lengths`: what a Shape, a few products and a Reshape make of a free length is known as an
expression, and a Reshape that works says that two products are equal (`equations`).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxprune.graph import node_shapes
from onnxprune.graph.content_shapes import from_contents
from onnxprune.graph.contents import Data, known
from onnxprune.graph.data_propagation import evaluate, taken
from onnxprune.graph.equations import Equations
from onnxprune.graph.graph import Graph, Node, Value
from onnxprune.graph.lengths import Dim, names, parse, product
from onnxprune.graph.operators import Shape
from onnxprune.graph.stated_types import tensor_type

_MAX_WALKS = 4
_WHOLE = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators whose output holds the elements of the input."""


class Walk:
    """Infers what shapes and contents tell of each other, once or as often as new equations are found.

    Args:
        graph: The graph; shapes of its values are filled in.
        equations: What is known of free lengths; added to.
        constants: Contents of the constants.

    Attributes:
        learnt: Values of which more is known than `onnx.shape_inference` said: the rank, or the length of an axis.
        data: Contents of small tensors.
    """

    def __init__(self, graph: Graph, equations: Equations, constants: dict[Value, Data]) -> None:
        self._graph = graph
        self._equations = equations
        self.learnt: dict[Value, None] = {}
        self.data: dict[Value, Data] = {}
        for _ in range(_MAX_WALKS):
            self._concluded = False
            self._own_names = _own_names(graph)
            self.data = evaluate(graph, before=constants, visit=self._visit)
            if not self._concluded:
                break
            resolve(graph, {}, equations)

    def _visit(self, node: Node, data: dict[Value, Data]) -> None:
        outputs = [out for out in node.outputs if is_open(out)]
        if not outputs:
            return
        for out in outputs:
            read(out, self._equations)
        for out, found in zip(node.outputs, _shapes_of(node, data), strict=False):
            if out is not None and found is not None and is_open(out):
                self._merge(node, out, found)
        if node.op_type in _WHOLE and not node.domain:
            self._conclude(node)

    def _merge(self, node: Node, out: Value, found: Sequence[Dim]) -> None:
        old: Sequence[Dim] = out.shape if out.shape is not None else [None] * len(found)
        if len(old) != len(found):
            return
        merged = [self._better(node, a, b) for a, b in zip(old, found, strict=True)]
        if merged == out.shape and out.elem_type:
            return
        if out.shape is None or any(
            b != a and (a is None or isinstance(b, int)) for a, b in zip(old, merged, strict=True)
        ):
            self.learnt[out] = None
        out.elem_type = out.elem_type or node_shapes.elem_type(node) or _type_of(node)
        out.shape = merged

    def _better(self, node: Node, old: Dim, new: Dim) -> Dim:
        """Of two statements about one length the one that tells more; that they are equal is an equation."""
        if isinstance(new, int) and not 0 <= new < 2**63:
            return old  # nothing that can run
        if isinstance(old, int) or new is None or old == new:
            return old
        if old is None:
            return new
        if isinstance(new, str) or not self._equations.given(old):
            self._equations.equal(old, new, self._own_names.get(node.scope.path))
        if isinstance(new, int):
            return new
        return self._equations.dim(old if node.scope is self._graph.main or self._equations.given(old) else new)

    def _conclude(self, node: Node) -> None:
        """Both ends of a reshape have as many elements."""
        ends = node.inputs[0], node.outputs[0]
        sizes = [product(v.shape) for v in ends if v is not None and v.shape is not None]
        if len(sizes) == 2 and sizes[0] is not None and sizes[1] is not None and sizes[0] != sizes[1]:
            before = len(self._equations)
            self._equations.equate(sizes[0], sizes[1], self._own_names.get(node.scope.path))
            self._concluded |= len(self._equations) > before


def _own_names(graph: Graph) -> dict[str, set[str]]:
    """Names of free lengths that occur in one body, and those inside of it, alone; by the path of its scope."""
    if not any(node.bodies for node in graph.nodes):
        return {}
    found: dict[str, set[str]] = {}
    for node in graph.nodes:
        for value in (*node.inputs, *node.outputs):
            for dim in (value.shape or []) if value is not None else []:
                if isinstance(dim, str):
                    found.setdefault(node.scope.path, set()).update(names(parse(dim)))
    return {
        path: own - {name for other in found if not f"{other}|".startswith(f"{path}|") for name in found[other]}
        for path, own in found.items()
        if path != graph.main.path
    }


def resolve(graph: Graph, data: dict[Value, Data], equations: Equations) -> dict[Value, Data]:
    """Reads all shapes and contents through what is known of free lengths; returns the contents."""
    for value in graph.values:
        read(value, equations)
    return {value: equations.contents(entries) for value, entries in data.items()}


def read(value: Value | None, equations: Equations) -> None:
    """Reads the shape of a value through what is known of free lengths."""
    if len(equations) and value is not None and value.shape is not None and any(type(d) is str for d in value.shape):
        value.shape = [equations.dim(d) for d in value.shape]


def is_open(value: Value | None) -> bool:
    """Whether there is still something to learn about the shape."""
    return value is not None and (value.shape is None or not all(type(d) is int for d in value.shape))


def _shapes_of(node: Node, data: dict[Value, Data]) -> Sequence[Shape]:
    if node.op_type == "Loop" and not node.domain:
        return _loop_states(node)
    if node.op_type == "If" and not node.domain:
        branch = taken(node, data)
        return [end.shape if end is not None else None for end in branch.outputs] if branch is not None else []
    found = node_shapes.outputs(node) or from_contents(node, data)
    return found if any(shape is not None for shape in found) else _alone(node, data)


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


def _type_of(node: Node) -> int:
    first = node.inputs[0] if node.inputs else None
    if node.op_type == "ConstantOfShape":
        value = node.attribute("value")
        return value.data_type if value is not None else onnx.TensorProto.FLOAT
    return first.elem_type if first is not None else onnx.TensorProto.FLOAT
