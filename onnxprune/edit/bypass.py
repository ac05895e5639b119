"""Leaves out summands of a model, with all that only they need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from onnx import GraphProto, NodeProto, helper

from onnxprune.errors import PlanError
from onnxprune.graph.operators import operator_of
from onnxprune.model.model import Model
from onnxprune.model.tensors import subgraphs
from onnxprune.model.topology import read_names, topological_order
from onnxprune.model.unique_names import Names


class Summand(NamedTuple):
    """A summand of a sum of two, by the names of both values in the main graph."""

    sum: str
    summand: str


def bypass(model: Model, summands: Iterable[Summand], ends: Collection[str] = ()) -> None:
    """Leaves out summands, in place: the other summand takes the place of each sum.

    Args:
        model: The model.
        summands: The summands.
        ends: Graph inputs and outputs that go with them.

    Raises:
        PlanError: The model has no such sum, input or output, or something that stays reads such an input.
    """
    graph, unread, instead = model.proto.graph, set(ends), dict[str, str]()
    missing = unread - {end.name for end in (*graph.input, *graph.output)}
    if missing:
        raise PlanError(f"the plan leaves out {min(missing)!r}, which is no input or output of the model")
    _keep(graph.output, {out.name for out in graph.output} - unread, lambda out: out.name)
    for one in summands:
        summand = one.summand
        while summand in instead:  # it was a sum itself
            summand = instead[summand]
        node = _sum_node(graph, one.sum, summand)
        rest = next(name for name in node.input if name != summand)
        if one.sum in {out.name for out in graph.output}:
            _copy(node, rest)
        else:
            read_instead(graph, {one.sum: rest})
            instead[one.sum] = rest
        unread |= {one.sum, summand}
    _drop_unread(graph, unread)
    still_read = {name for node in graph.node for name in read_names(node)}.intersection(ends)
    if still_read:
        raise PlanError(f"the plan leaves out {min(still_read)!r}, which is still read")
    _keep(graph.input, {value.name for value in graph.input}.difference(ends), lambda value: value.name)


def silence(model: Model, summands: Iterable[Summand]) -> None:
    """Makes summands zero, in place, and leaves all else as it is: `bypass` must compute the same.

    Raises:
        PlanError: The model has no such sum.
    """
    graph, names = model.proto.graph, Names(model.proto)
    for one in summands:
        node = _sum_node(graph, *one)
        zero = names.fresh(one.summand)
        made = helper.make_node("Sub", [one.summand, one.summand], [zero], name=zero)
        node.input[list(node.input).index(one.summand)] = zero
        graph.node.insert(list(graph.node).index(node), made)


def pass_on(graph: GraphProto, nodes: Iterable[tuple[NodeProto, int]]) -> None:
    """Leaves out nodes of the main graph that pass one of their inputs on, and what only their other inputs need.

    Args:
        graph: The graph, which is changed.
        nodes: Each node with the number of that input, in the order in which they run.
    """
    returned, unread, instead = {out.name for out in graph.output}, set[str](), dict[str, str]()
    for node, passed in nodes:
        made, rest = node.output[0], instead.get(node.input[passed], node.input[passed])
        unread |= {made, *(name for i, name in enumerate(node.input) if i != passed)}
        if made in returned:
            _copy(node, rest)
        else:
            instead[made] = rest
    read_instead(graph, instead)
    _drop_unread(graph, unread)


def _copy(node: NodeProto, source: str) -> None:
    """Makes a node return a value under the name of its first output."""
    node.CopyFrom(helper.make_node("Identity", [source], [node.output[0]], name=node.name))


def _sum_node(graph: GraphProto, sum_: str, summand: str) -> NodeProto:
    """The node of a sum; raises PlanError where there is none."""
    node: NodeProto
    for node in graph.node:
        if sum_ in node.output:
            if operator_of(node).adds and len(node.input) == 2 and list(node.input).count(summand) == 1:
                return node
            break
    raise PlanError(f"the plan leaves {summand!r} out of the sum {sum_!r}, and the model has no such sum")


def read_instead(graph: GraphProto, others: Mapping[str, str]) -> None:
    """Makes all readers of some values, also in bodies, read others."""
    for node in graph.node:
        for i, read in enumerate(node.input):
            if read in others:
                node.input[i] = others[read]
        for _, body in subgraphs(node):
            read_instead(body, others)
            for out in body.output:
                out.name = others.get(out.name, out.name)


def _drop_unread(graph: GraphProto, values: Collection[str]) -> None:
    """Drops what makes some values that nothing reads any more, and what only that needs."""
    returned = {out.name for out in graph.output}
    counts = Counter(name for node in graph.node for name in read_names(node))
    unread, kept = set(values), list[NodeProto]()
    for node in reversed(topological_order(graph)):
        made = [name for name in node.output if name]
        if unread.isdisjoint(made) or any(counts[name] or name in returned for name in made):
            kept.append(node)
            continue
        reads = list(read_names(node))
        counts.subtract(reads)
        unread |= {*made, *reads}
    gone = {name for name in unread if not counts[name]} - returned
    _keep(graph.node, {id(node) for node in kept}, id)
    _forget(graph, gone)


def _forget(graph: GraphProto, gone: Collection[str]) -> None:
    """Drops constants and declarations of values that are gone; graph inputs stay."""
    inputs = {value.name for value in graph.input}
    fields: list[tuple[Any, Callable[[Any], str]]] = [
        (graph.initializer, lambda t: t.name),
        (graph.sparse_initializer, lambda t: t.values.name),
        (graph.value_info, lambda t: t.name),
        (graph.quantization_annotation, lambda t: t.tensor_name),
    ]
    for field, name_of in fields:
        _keep(field, {name_of(entry) for entry in field} - (set(gone) - inputs), name_of)


def _keep(field: Any, keys: Collection[Any], key_of: Callable[[Any], Any]) -> None:
    """Deletes the entries of a repeated field with other keys than some; those that stay are not copied."""
    for i in reversed([i for i, entry in enumerate(field) if key_of(entry) not in keys]):
        del field[i]
