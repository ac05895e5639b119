"""Drops words of a vocabulary: rows of the tables that ids look up, and the outputs that have a value for each id.

Which weights lose what follows from the ties of the graph: a tied output layer is the table itself, an untied one, its
bias and its quantisation scales hang on the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxprune.coupling.coupling import Coupling, analyze
from onnxprune.coupling.groups import Grade
from onnxprune.edit.bypass import read_instead
from onnxprune.edit.remove import remove
from onnxprune.errors import InputError
from onnxprune.graph.graph import Axis, Graph, Node, Value
from onnxprune.graph.operators import Copies, operator_of
from onnxprune.graph.shape_inference import infer
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS
from onnxprune.model.unique_names import Names

INTEGERS = (TensorProto.INT32, TensorProto.INT64)
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Lookup:
    """A node that looks ids up in a table: its operand `at`. They come from a graph input."""

    node: Node
    table: Value
    ids: Value
    at: int
    input: Value


@dataclass(frozen=True)
class Vocabulary:
    """Where the ids of a model go in and come out.

    Attributes:
        size: How many ids there are.
        lookups: What reads them.
        outputs: Outputs with a value for each id, along their last axis.
    """

    size: int
    lookups: list[Lookup]
    outputs: list[Value]

    @property
    def inputs(self) -> list[str]:
        """Names of the graph inputs that ids come from."""
        return list(dict.fromkeys(lookup.input.name for lookup in self.lookups))

    @property
    def tables(self) -> list[str]:
        """Names of the tables."""
        return list(dict.fromkeys(lookup.table.key for lookup in self.lookups))


def find_vocabulary(graph: Graph, name: str | None = None) -> Vocabulary:
    """The table that ids from a graph input are looked up in, and the outputs with a value for each id.

    Positions and segments are looked up too: of several tables it is one for which an output has as many values at
    each position as it has rows, else the largest.

    Args:
        graph: The graph; its shapes are filled in.
        name: The input that holds the ids; None for that of the largest table.

    Raises:
        InputError: No input holds ids, or not the one of that name.
    """
    infer(graph)
    found = [one for one in _lookups(graph) if name in (None, one.input.name)]
    if not found:
        where = f"input {name!r} is" if name is not None else "no input is"
        raise InputError(f"{where} looked up in a table", "a vocabulary is what a Gather on a weight reads ids for")
    rows = {n: one.ids.rank or 0 for one in found if isinstance(n := one.table.axis(0).length, int)}
    floats = [v for v in graph.main.outputs if v is not None and v.elem_type in FLOATS and v.rank]
    # two classes of a text are not the two rows of a table of segments: those have no axis of positions
    size = max({n for v in floats if (n := v.axis(-1).length) in rows and (v.rank or 0) > rows[n]} or rows)
    lookups = [one for one in found if one.table.axis(0).length == size]
    return Vocabulary(size, lookups, [v for v in floats if v.axis(-1).length == size])


def _lookups(graph: Graph) -> Iterator[Lookup]:
    """Lookups of ids in the rows of constant tables, in the main graph."""
    constant = {v for node in graph.constant_nodes for v in node.outputs}
    for node in graph.main.nodes:
        for table_at, ids_at in operator_of(node).lookups:
            table, ids = (node.inputs[i] if i < len(node.inputs) else None for i in (table_at, ids_at))
            if table is None or ids is None or node.attribute("axis", 0) != 0:
                continue
            source = _copied_from(ids)
            if (table.tensor is not None or table in constant) and source in graph.main.inputs:
                yield Lookup(node, table, ids, ids_at, source)


def _copied_from(value: Value) -> Value:
    """The value whose elements a value holds, each once and unchanged."""
    while value.producer is not None and operator_of(value.producer).copies is Copies.ALL:
        source = value.producer.inputs[0]
        if source is None:
            break
        value = source
    return value


def other_readers(vocabulary: Vocabulary, graph: Graph) -> list[Node]:
    """Nodes that read ids for something else than a lookup: they compare them with one, say."""
    found, lookups = [], [lookup.node for lookup in vocabulary.lookups]
    pending = [v for v in graph.main.inputs if v is not None and v.name in vocabulary.inputs]
    while pending:
        for node, _ in pending.pop().consumers:
            if operator_of(node).copies is Copies.ALL:
                pending += [v for v in node.outputs if v is not None]
            elif node not in lookups and not operator_of(node).reads_lengths:
                found.append(node)
    return found


def drop_words(model: Model, graph: Graph, vocabulary: Vocabulary, kept: Ids) -> None:
    """Takes the rows and output values of all other ids out of a model, in place.

    Args:
        model: The model.
        graph: The graph of its proto.
        vocabulary: Where its ids are.
        kept: The ids that stay, ascending.

    Raises:
        InputError: They are tied to something that must stay.
    """
    ids = {lookup.ids.key for lookup in vocabulary.lookups}
    coupling = analyze(graph, shrinking=[v.name for v in vocabulary.outputs], renumbered=ids)
    gone = np.setdiff1d(np.arange(vocabulary.size), kept)
    removed = np.zeros(coupling.classes.elements, dtype=bool)
    for axis in [*(lookup.table.axis(0) for lookup in vocabulary.lookups), *(v.axis(-1) for v in vocabulary.outputs)]:
        _check_open(coupling, axis, gone)
        removed[coupling.channels_of(axis)[gone]] = True
    remove(model, coupling, removed)


def _check_open(coupling: Coupling, axis: Axis, gone: Ids) -> None:
    span = coupling.classes.span(axis.id)
    grades = coupling.grade[span]
    if len(grades) and (grades[gone] == Grade.EXACT).all():
        return
    channels = set(coupling.channels_of(axis)[gone].tolist())
    pins = [*coupling.ties.pins, *coupling.ties.mixes]
    whys = (why for a, _, why in pins if channels & set(coupling.channels_of(a).tolist()))
    raise InputError(
        f"the vocabulary at {axis} cannot get smaller: {next(whys, 'its length is not known')}",
        "onnxprune inspect shows what is pinned",
    )


def remap_inside(model: Model, vocabulary: Vocabulary, kept: Ids, unknown: int) -> None:
    """Makes the graph take the old ids: one Gather of a small table before what looks them up, in place.

    Args:
        model: The model, after `drop_words`.
        vocabulary: Where its ids were.
        kept: The ids that stay, ascending.
        unknown: The kept id that stands for all others.
    """
    graph, names = model.proto.graph, Names(model.proto)
    table = np.full(vocabulary.size, int(np.searchsorted(kept, unknown)), dtype=np.int64)
    table[kept] = np.arange(len(kept))
    tables: dict[int, str] = {}
    made: dict[str, str] = {}
    for lookup in vocabulary.lookups:
        ids = lookup.ids
        if ids.elem_type not in tables:
            kind = helper.tensor_dtype_to_np_dtype(ids.elem_type or TensorProto.INT64)
            tables[ids.elem_type] = _add(graph, table.astype(kind), names.fresh("kept_ids"))
        if ids.name not in made:
            made[ids.name] = names.fresh(ids.name)
            gather = helper.make_node("Gather", [tables[ids.elem_type], ids.name], [made[ids.name]], made[ids.name])
            graph.node.insert(_index_of(graph, lookup.node.proto.output[0]), gather)
        lookup.node.proto.input[lookup.at] = made[ids.name]


def restore_places(model: Model, vocabulary: Vocabulary, kept: Ids) -> None:
    """Puts output values back to their old places, minus infinity at those of other ids, in place."""
    graph, names = model.proto.graph, Names(model.proto)
    places = np.zeros(vocabulary.size, dtype=np.int64)
    places[kept] = np.arange(len(kept))
    for value in vocabulary.outputs:
        kind = helper.tensor_dtype_to_np_dtype(value.elem_type)
        lowest = np.full(vocabulary.size, -np.inf).astype(kind)
        lowest[kept] = 0
        few, all_places = names.fresh(value.name), names.fresh(value.name)
        _rename(graph, value.name, few)
        where = _add(graph, places, names.fresh("kept_ids"))
        absent = _add(graph, lowest, names.fresh("absent_ids"))
        graph.node.append(
            helper.make_node("Gather", [few, where], [all_places], all_places, axis=(value.rank or 1) - 1)
        )
        graph.node.append(helper.make_node("Add", [all_places, absent], [value.name], names.fresh(value.name)))
        declared = next(o for o in graph.output if o.name == value.name)
        if dims := declared.type.tensor_type.shape.dim:  # a file need not declare them
            dims[-1].dim_value = vocabulary.size


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Gives a value that is made in the main graph another name, also where bodies read it."""
    read_instead(graph, {old: new})
    for node in graph.node:
        for i, name in enumerate(node.output):
            if name == old:
                node.output[i] = new


def _index_of(graph: onnx.GraphProto, output: str) -> int:
    return next(i for i, node in enumerate(graph.node) if output in node.output)


def _add(graph: onnx.GraphProto, array: NDArray[Any], name: str) -> str:
    graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def checked_ids(kept: Sequence[int] | Ids, size: int) -> Ids:
    """Ids that stay, ascending and each once.

    Raises:
        InputError: They are none, all, or not of the vocabulary.
    """
    ids = np.unique(np.asarray(kept, dtype=np.int64))
    if not len(ids):
        raise InputError("no id stays", "list those that do, one a line")
    if ids[0] < 0 or ids[-1] >= size:
        raise InputError(
            f"id {ids[0] if ids[0] < 0 else ids[-1]} is none of the {size:,} of the vocabulary",
            "the ids that stay are those of the model's tokenizer",
        )
    if len(ids) < 2 or len(ids) == size:
        raise InputError(f"{len(ids):,} of {size:,} ids stay: nothing to do", "two at least stay, and one goes")
    return ids
