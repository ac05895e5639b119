"""Partitions a graph into pieces that run one after the other.

Each node belongs to one piece, with two exceptions, which are repeated in every piece that reads their outputs: nodes
that are computed from constants alone, and nodes whose outputs are not tensors (sequences, optionals and the like),
which cannot be passed from one session to the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, shape_inference

from onnxprune.graph.operators import operator_of
from onnxprune.model.skeleton import skeleton
from onnxprune.model.topology import read_names, topological_order


class CannotCut(Exception):
    """A value cannot be the output of a stage, or cannot be passed from one piece to the next."""


@dataclass
class Piece:
    """One piece of a graph. Nodes are identified by their first output.

    Attributes:
        nodes: Nodes that only this piece runs.
        repeated: Nodes that are run in every piece that reads their outputs.
        inputs: Graph inputs and outputs of earlier pieces that it reads.
        outputs: Values that it computes for its stage or for later pieces.
        released: Stored values that are not needed after it.
    """

    nodes: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)


def partition(proto: ModelProto, stages: Sequence[Sequence[str]], fed: Iterable[str]) -> list[Piece]:
    """Returns one piece per stage: the nodes that compute the values of the stage and have not run before.

    Args:
        proto: The model.
        stages: Names of values of the main graph, one sequence per stage, in topological order.
        fed: Names of the inputs that batches contain; an initializer that is a graph input too is an input if fed.

    Raises:
        CannotCut: A value of a stage is a stored constant, unknown or not a tensor, or several pieces need a value that
            is not a tensor and whose node cannot be repeated because it is random or has subgraphs.
    """
    index = _GraphIndex(proto, set(fed))
    piece_of: dict[str, int] = {}  # value -> piece that computes it
    last_use: dict[str, int] = {}
    pieces = []
    for at, stage in enumerate(stages):
        for name in stage:
            index.check_stage_value(name)
        chosen, inputs = index.needed(stage, piece_of)
        ordered = sorted(chosen, key=index.position.__getitem__)
        repeated = [key for key in ordered if key in index.repeated]
        pieces.append(Piece([key for key in ordered if key not in index.repeated], repeated, inputs))
        for key in ordered:
            for name in index.nodes[index.position[key]].output:
                if name not in piece_of and (key not in index.repeated or name in stage):
                    piece_of[name] = at
        last_use |= dict.fromkeys([*inputs, *stage], at)
    _check_repeatable(index, pieces)
    for name, at in last_use.items():
        if name in piece_of:
            pieces[piece_of[name]].outputs.append(name)
            pieces[at].released.append(name)
    return pieces


def _check_repeatable(index: _GraphIndex, pieces: Sequence[Piece]) -> None:
    runs = Counter(name for piece in pieces for name in piece.repeated)
    for node in index.nodes:
        name = _key(node)
        if runs[name] > 1 and name not in index.constant and (_is_random(node) or any(True for _ in _bodies(node))):
            raise CannotCut(f"'{name}' is no tensor, is needed on both sides of a cut and cannot be made twice")


class _GraphIndex:
    """Lookup tables of a graph for its partition.

    Attributes:
        nodes: All nodes in topological order.
        position: Node -> its position in `nodes`.
        constant: Names of values that do not depend on the inputs.
        repeated: Nodes that are run in every piece that reads their outputs.
    """

    def __init__(self, proto: ModelProto, fed: set[str]) -> None:
        graph = proto.graph
        self.nodes = topological_order(graph)
        self.position = {_key(node): i for i, node in enumerate(self.nodes)}
        self._inputs = {i.name for i in graph.input}
        self._producer = {name: _key(node) for node in self.nodes for name in node.output if name}
        self._non_tensors = _non_tensors(proto)
        stored = set(_initializers(graph)) | {s.values.name for s in graph.sparse_initializer}
        self.constant = stored - (fed & self._inputs)
        self.repeated: set[str] = set()
        for node in self.nodes:
            if self.constant.issuperset(read_names(node)) and not _is_random(node):
                self.constant.update(name for name in node.output if name)
                self.repeated.add(_key(node))
            elif not self._non_tensors.isdisjoint(node.output):
                self.repeated.add(_key(node))

    def check_stage_value(self, name: str) -> None:
        """Raises `CannotCut` if a value cannot be the output of a stage."""
        if name in self.constant and name not in self._producer:
            raise CannotCut(f"'{name}' is a stored constant")
        if name in self._non_tensors:
            raise CannotCut(f"'{name}' is no tensor")
        if name not in self._producer and name not in self._inputs:
            raise CannotCut(f"no value of the main graph is called '{name}'")

    def needed(self, names: Iterable[str], computed: Mapping[str, int]) -> tuple[set[str], list[str]]:
        """Finds the nodes that must run for some values.

        Args:
            names: Names of the values.
            computed: Names of values of earlier pieces.

        Returns:
            The nodes, and the names of the graph inputs and computed values that they read.
        """
        nodes: set[str] = set()
        inputs: dict[str, None] = {}  # an ordered set
        stack = [(name, False) for name in names]
        while stack:
            name, is_read = stack.pop()
            producer = self._producer.get(name)
            if producer is not None and (name not in computed or producer in self.repeated):
                if producer not in nodes:
                    nodes.add(producer)
                    stack += [(read, True) for read in read_names(self.nodes[self.position[producer]])]
            elif is_read and name not in self.constant:
                inputs[name] = None
        return nodes, list(inputs)


def assemble(proto: ModelProto, piece: Piece, inputs: Mapping[str, ValueInfoProto]) -> ModelProto:
    """Returns a model that computes the outputs of a piece, with the current nodes and weights of the whole model.

    Args:
        proto: The whole model.
        piece: The piece.
        inputs: Types of the outputs of earlier pieces that it reads, by name.
    """
    graph, chosen = proto.graph, set(piece.nodes) | set(piece.repeated)
    nodes = [node for node in graph.node if _key(node) in chosen]
    stored, types = _initializers(graph), {i.name: i for i in graph.input} | dict(inputs)
    sparse = {s.values.name: s for s in graph.sparse_initializer}
    added: dict[str, NodeProto] | None = None
    # Before IR version 4 every initializer had to be an input.
    part = ModelProto(ir_version=max(proto.ir_version, 4), opset_import=proto.opset_import, functions=proto.functions)
    part.graph.name = graph.name
    defined = {name for node in nodes for name in node.output}
    stack = [name for node in nodes for name in read_names(node)]
    while stack:
        name = stack.pop()
        if name in defined:
            continue
        defined.add(name)
        if name in piece.inputs:
            part.graph.input.append(types[name])
        elif name in stored:
            part.graph.initializer.append(stored[name])
        elif name in sparse:
            part.graph.sparse_initializer.append(sparse[name])
        else:  # a constant node that was added after the partition
            added = added or {out: node for node in graph.node for out in node.output if out}
            if name in added:
                nodes.append(added[name])
                defined.update(added[name].output)
                stack += read_names(added[name])
    part.graph.node.extend(nodes)
    part.graph.output.extend(ValueInfoProto(name=name) for name in piece.outputs)
    return part


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for a in node.attribute:
        if a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            yield from [a.g] if a.type == AttributeProto.GRAPH else a.graphs


def _initializers(graph: GraphProto) -> dict[str, TensorProto]:
    return {t.name: t for t in graph.initializer}


def _key(node: NodeProto) -> str:
    return next((name for name in node.output if name), "")


def _is_random(node: NodeProto) -> bool:
    return operator_of(node).random or any(_is_random(inner) for body in _bodies(node) for inner in body.node)


def _non_tensors(proto: ModelProto) -> set[str]:
    """Returns the names of values of the main graph that are sequences, maps, optionals or sparse tensors."""
    try:
        graph = shape_inference.infer_shapes(skeleton(proto)).graph
    except (shape_inference.InferenceError, ValueError, RuntimeError):
        graph = proto.graph
    return {
        v.name
        for v in [*graph.value_info, *graph.input, *graph.output]
        if v.type.WhichOneof("value") not in (None, "tensor_type")
    }
