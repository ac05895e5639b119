"""Cuts a graph into pieces that run one after the other, each node in one of them.

Two kinds of nodes belong to every piece that reads them: what is computed from constants alone, and what makes
sequences, optionals and the like, which cannot be handed from one run to the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, shape_inference

from onnxprune.graph.graph import RANDOM
from onnxprune.model.skeleton import skeleton
from onnxprune.model.topology import read_names, topological_order


class CannotCut(Exception):
    """A value was asked for, or would have to be handed from piece to piece, and cannot be."""


@dataclass
class Piece:
    """One piece. Nodes go by the name of their first output.

    Attributes:
        once: Nodes that no other piece runs.
        again: Nodes that every piece runs that reads them.
        reads: Graph inputs and values of earlier pieces.
        leaves: Values that it makes and that are asked for or read later.
        drops: Values that were kept so far and that nobody needs after it.
    """

    once: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    leaves: list[str] = field(default_factory=list)
    drops: list[str] = field(default_factory=list)


def plan(proto: ModelProto, stages: Sequence[Sequence[str]], fed: Iterable[str]) -> list[Piece]:
    """One piece a stage, which ends where all values of the stage are there.

    Args:
        proto: The model.
        stages: Names of values of the main graph.
        fed: Names that batches hold; an initializer among them that is a graph input too counts as an input.

    Raises:
        CannotCut: A stage names a stored constant, something unknown or no tensor, or pieces would have to share
            something that is no tensor and that cannot be made again: by a node with a body, or at random.
    """
    facts = _Facts(proto, set(fed))
    made_at: dict[str, int] = {}
    last: dict[str, int] = {}
    pieces = []
    for at, stage in enumerate(stages):
        for name in stage:
            facts.refuse(name)
        chosen, outside = facts.needed(stage, made_at)
        taken = sorted(chosen, key=facts.place.__getitem__)
        pieces.append(
            Piece(
                [key for key in taken if key not in facts.again], [key for key in taken if key in facts.again], outside
            )
        )
        for key in taken:
            for name in facts.nodes[facts.place[key]].output:
                if name not in made_at and (key not in facts.again or name in stage):
                    made_at[name] = at
        last |= dict.fromkeys([*outside, *stage], at)
    _refuse_remaking(facts, pieces)
    for name, at in last.items():
        if name in made_at:
            pieces[made_at[name]].leaves.append(name)
            pieces[at].drops.append(name)
    return pieces


def _refuse_remaking(facts: _Facts, pieces: Sequence[Piece]) -> None:
    runs = Counter(name for piece in pieces for name in piece.again)
    for node in facts.nodes:
        name = _key(node)
        if runs[name] > 1 and name not in facts.constant and (_is_random(node) or any(True for _ in _bodies(node))):
            raise CannotCut(f"'{name}' is no tensor, is needed on both sides of a cut and cannot be made twice")


class _Facts:
    """What planning needs to know of a graph.

    Attributes:
        nodes: In topological order.
        place: Where each stands there.
        constant: Names that hold the same whatever is fed.
        again: Nodes that run in every piece that reads them.
    """

    def __init__(self, proto: ModelProto, fed: set[str]) -> None:
        graph = proto.graph
        self.nodes = topological_order(graph)
        self.place = {_key(node): i for i, node in enumerate(self.nodes)}
        self._inputs = {i.name for i in graph.input}
        self._maker = {name: _key(node) for node in self.nodes for name in node.output if name}
        self._opaque = _no_tensors(proto)
        self.constant = (set(_stored(graph)) | {s.values.name for s in graph.sparse_initializer}) - (fed & self._inputs)
        self.again: set[str] = set()
        for node in self.nodes:
            if self.constant.issuperset(read_names(node)) and not _is_random(node):
                self.constant.update(name for name in node.output if name)
                self.again.add(_key(node))
            elif not self._opaque.isdisjoint(node.output):
                self.again.add(_key(node))

    def refuse(self, name: str) -> None:
        """Raises where a stage cannot ask for a value."""
        if name in self.constant and name not in self._maker:
            raise CannotCut(f"'{name}' is a stored constant")
        if name in self._opaque:
            raise CannotCut(f"'{name}' is no tensor")
        if name not in self._maker and name not in self._inputs:
            raise CannotCut(f"no value of the main graph is called '{name}'")

    def needed(self, names: Iterable[str], made: Mapping[str, int]) -> tuple[set[str], list[str]]:
        """Nodes that must run for these values, and what they read from outside: graph inputs and what was made."""
        taken: set[str] = set()
        outside: dict[str, None] = {}
        stack = [(name, False) for name in names]
        while stack:
            name, is_read = stack.pop()
            maker = self._maker.get(name)
            if maker is not None and (name not in made or maker in self.again):
                if maker not in taken:
                    taken.add(maker)
                    stack += [(read, True) for read in read_names(self.nodes[self.place[maker]])]
            elif is_read and name not in self.constant:
                outside[name] = None
        return taken, list(outside)


def assemble(proto: ModelProto, piece: Piece, inputs: Mapping[str, ValueInfoProto]) -> ModelProto:
    """A model that computes what a piece leaves, with the nodes and weights that the whole model has now.

    Args:
        proto: The whole model.
        piece: Which piece.
        inputs: Types of the values of earlier pieces that it reads, by name.
    """
    graph, chosen = proto.graph, set(piece.once) | set(piece.again)
    nodes = [node for node in graph.node if _key(node) in chosen]
    stored, types = _stored(graph), {i.name: i for i in graph.input} | dict(inputs)
    sparse = {s.values.name: s for s in graph.sparse_initializer}
    late: dict[str, NodeProto] | None = None
    # before IR version 4 every initializer had to be an input
    part = ModelProto(ir_version=max(proto.ir_version, 4), opset_import=proto.opset_import, functions=proto.functions)
    part.graph.name = graph.name
    there = {name for node in nodes for name in node.output}
    stack = [name for node in nodes for name in read_names(node)]
    while stack:
        name = stack.pop()
        if name in there:
            continue
        there.add(name)
        if name in piece.reads:
            part.graph.input.append(types[name])
        elif name in stored:
            part.graph.initializer.append(stored[name])
        elif name in sparse:
            part.graph.sparse_initializer.append(sparse[name])
        else:  # a constant that came in after the plan was made
            late = late or {out: node for node in graph.node for out in node.output if out}
            if name in late:
                nodes.append(late[name])
                there.update(late[name].output)
                stack += read_names(late[name])
    part.graph.node.extend(nodes)
    part.graph.output.extend(ValueInfoProto(name=name) for name in piece.leaves)
    return part


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for a in node.attribute:
        if a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            yield from [a.g] if a.type == AttributeProto.GRAPH else a.graphs


def _stored(graph: GraphProto) -> dict[str, TensorProto]:
    return {t.name: t for t in graph.initializer}


def _key(node: NodeProto) -> str:
    return next((name for name in node.output if name), "")


def _is_random(node: NodeProto) -> bool:
    return node.op_type in RANDOM or any(_is_random(inner) for body in _bodies(node) for inner in body.node)


def _no_tensors(proto: ModelProto) -> set[str]:
    """Names of the main graph that are known to hold sequences, maps, optionals or sparse tensors."""
    try:
        graph = shape_inference.infer_shapes(skeleton(proto)).graph
    except (shape_inference.InferenceError, ValueError, RuntimeError):
        graph = proto.graph
    return {
        v.name
        for v in [*graph.value_info, *graph.input, *graph.output]
        if v.type.WhichOneof("value") not in (None, "tensor_type")
    }
