"""Blocks: residual branches that can go as a whole.

A sum whose one summand is zero is the other summand. So a *block* is one summand of a sum together with all that only
it needs, where the other summand has the sum's shape and carries on what the block reads. This holds for convolutional
networks and transformers alike, and needs to know none of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from onnxprune.graph.graph import Graph, Node, Scope, Value
from onnxprune.graph.operators import operator_of, other_summand
from onnxprune.model.tensors import FLOATS


@dataclass(frozen=True)
class Block:
    """A summand that may be left out.

    Attributes:
        sum: Name of the sum, a value of the main graph.
        summand: Name of the summand.
        nodes: The nodes that only the summand needs, in the order in which they run.
        ends: Graph inputs and outputs that go with them: its caches.
    """

    sum: str
    summand: str
    nodes: tuple[Node, ...]
    ends: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Block({self.sum!r}, {len(self.nodes)} nodes)"

    def within(self, other: Block) -> bool:
        """Whether nothing is left of the block, or of its sum, once another one is gone."""
        return self.sum == other.sum or any(self.sum == name for node in other.nodes for name in node.proto.output)


def find_blocks(graph: Graph, shrinking: Collection[str] = ()) -> list[Block]:
    """Every block of the main graph with at least one layer, in the order in which their sums run.

    Args:
        graph: A graph whose shapes are known, see `coupling.analyze`.
        shrinking: Graph inputs and outputs that may go with a block that alone reads and makes them.
    """
    flow = _Flow(graph, shrinking)
    found = []
    for node in graph.main.nodes:
        for index, summand in enumerate(node.inputs):
            rest = other_summand(node, index)
            if summand is None or rest is None or not _is_whole(rest, node) or flow.is_constant(rest):
                continue
            branch = flow.only_for(summand, node, rest)
            ends = flow.ends(branch)
            if ends is not None and any(_is_layer(one) for one in branch) and flow.forks(branch, summand, rest):
                found.append(Block(node.output().name, summand.name, tuple(branch), ends))
    return found


def _is_whole(rest: Value, node: Node) -> bool:
    """Whether a summand has the shape of the sum, so that it can stand for it."""
    made = node.output()
    return rest.shape is not None and rest.shape == made.shape and None not in rest.shape


def _is_layer(node: Node) -> bool:
    return operator_of(node).macs is not None


def _adds_to(summand: Value, outside: Sequence[Value]) -> bool:
    """Whether a summand is a sum one of whose summands, or of theirs, is one of some values."""
    if summand in outside:
        return True
    maker = summand.producer
    return maker is not None and operator_of(maker).adds and any(_adds_to(v, outside) for v in maker.inputs if v)


class _Flow:
    """Which nodes of the main graph need what others make."""

    def __init__(self, graph: Graph, shrinking: Collection[str]) -> None:
        self._graph, self._shrinking = graph, shrinking
        self._nodes = graph.main.nodes
        self._place = {node: i for i, node in enumerate(self._nodes)}
        self._reads = {node: list(dict.fromkeys(_read(node, graph.main))) for node in self._nodes}
        self._readers: dict[Value, list[Node]] = {}
        for node, values in self._reads.items():
            for value in values:
                self._readers.setdefault(value, []).append(node)
        returned = [value for value in graph.main.outputs if value is not None]
        self._caches = [value for value in returned if value.name in shrinking]
        self._returned = set(returned).difference(self._caches)
        self._sources = self._numbered_sources()

    def is_constant(self, value: Value) -> bool:
        """Whether a value is the same in every run."""
        producer = value.producer
        if value.tensor is not None:
            return True
        return producer is not None and (producer in self._graph.constant_nodes or not self._reads[producer])

    def only_for(self, summand: Value, sum_: Node, rest: Value) -> list[Node]:
        """The nodes that nothing but one summand of a sum needs, in the order in which they run."""
        gone, pending = {sum_}, [summand] if self._readers[summand] == [sum_] and summand is not rest else []
        while pending:
            maker = pending.pop().producer
            if maker is None or maker in gone or maker is rest.producer or not self._serves_only(maker, gone):
                continue
            gone.add(maker)
            pending += self._reads[maker]
        return sorted(gone - {sum_}, key=self._place.__getitem__)

    def ends(self, branch: list[Node]) -> tuple[str, ...] | None:
        """The caches that go with a branch; None where something else reads what it returns the next state of."""
        made = {value for node in branch for value in node.outputs}
        outputs = [value.name for value in self._caches if value in made]
        if not outputs:
            return ()
        gone, read = set(branch), {value for node in branch for value in self._reads[node]}
        inputs = [v for v in self._graph.main.inputs if v is not None and v in read and v.name in self._shrinking]
        if any(reader not in gone for value in inputs for reader in self._readers[value]):
            return None
        return (*(value.name for value in inputs), *outputs)

    def forks(self, branch: list[Node], summand: Value, rest: Value) -> bool:
        """Whether a branch starts from what the other summand carries on, and ends in layers of its own.

        An integer input (tokens, say) carries no features: two embeddings of it are no fork. A branch that shares a
        layer with something else, keys that a cache returns, would go in part only. One that adds to what it reads is
        the carrier itself.
        """
        inside = {value for node in branch for value in node.outputs}
        outside = [v for node in branch for v in self._reads[node] if v not in inside and not self.is_constant(v)]
        starts = any(v.elem_type in FLOATS and self._share_features(v, rest) for v in outside)
        return starts and not any(self._layers_between(rest, v) for v in outside) and not _adds_to(summand, outside)

    def _share_features(self, value: Value, rest: Value) -> bool:
        """Whether one of two values is computed from the other."""
        return bool(self._needs(rest) & self._bit(value) or self._needs(value) & self._bit(rest))

    def _serves_only(self, node: Node, gone: set[Node]) -> bool:
        made = [value for value in node.outputs if value is not None]
        return all(v not in self._returned and gone.issuperset(self._readers.get(v, ())) for v in made)

    def _layers_between(self, rest: Value, value: Value) -> bool:
        """Whether a value is computed from a summand by a layer."""
        start, needed = self._bit(rest), self._needs(value)
        if value is rest or not needed & start:
            return False
        between = (node for node in self._nodes if _is_layer(node) and node is not rest.producer)
        return any(needed >> self._place[n] & 1 and self._sources[n] & start for n in between)

    def _bit(self, value: Value) -> int:
        """One bit for each node, and for each graph input."""
        if value.producer is not None:
            return 1 << self._place.get(value.producer, len(self._nodes))
        inputs = self._graph.main.inputs
        return 1 << (len(self._nodes) + 1 + inputs.index(value)) if value in inputs else 0

    def _needs(self, value: Value) -> int:
        """The nodes and inputs that a value is computed from, its own included, as bits; lengths do not count."""
        bit = self._bit(value)
        return bit if value.producer is None else bit | self._sources.get(value.producer, 0)

    def _numbered_sources(self) -> dict[Node, int]:
        self._sources = {}
        for node in self._nodes:
            needed = 0
            for value in [] if operator_of(node).reads_lengths else self._reads[node]:
                needed |= self._needs(value)
            self._sources[node] = needed
        return self._sources


def _read(node: Node, main: Scope) -> Iterator[Value]:
    """Values that a node of the main graph reads, in its bodies too."""
    yield from (value for value in node.inputs if value is not None)
    for body in node.bodies.values():
        for inner in body.nodes:
            yield from (value for value in _read(inner, main) if value.scope is main)
        yield from (value for value in body.outputs if value is not None and value.scope is main)
