"""Quantised weights as floats, which a repair or a training changes, and rounded again.

Nodes that compute with quantised constants are replaced by nodes of floats (`layers.quantised_layers`), under which
`layers.find` sees layers; afterwards they come back. What was left alone comes back bit by bit, what was changed with
the zero points that it had, and with new scales or the old ones. A bias of 32 bits follows the scale of its weight, as
runtimes that fuse the two assume.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from onnxprune.layers import quantised_activations, quantised_layers
from onnxprune.layers.quantised_weight import Operand, QuantisedWeight, Replacement, copy_of
from onnxprune.layers.quantize import packed
from onnxprune.model.model import Model
from onnxprune.model.tensors import constants, elements, replace_entries, subgraphs
from onnxprune.model.unique_names import Names

Array = NDArray[Any]
FORMS = {**quantised_layers.FORMS, **quantised_activations.FORMS}
BYTES = 4
"""Bytes of a float."""


def is_quantised(model: Model) -> bool:
    """Whether a node of the main graph may have quantised weights."""
    return any(_key(node) in quantised_layers.FORMS for node in model.proto.graph.node)


class RealWeights:
    """A copy of a model in which quantised weights are floats.

    Attributes:
        model: The copy; the model itself where no layer is quantised.
        aliases: Values that only the copy has -> a value of the model with the same axes.
    """

    def __init__(self, model: Model, room: int = 10**9) -> None:
        """Replaces what it can; `found` says whether there was anything.

        Weights that several nodes read stay as they are: each would get its own.

        Args:
            model: The model; not changed.
            room: Bytes that the floats may take; what does not fit stays as it is.
        """
        self._replaced: list[Replacement] = []
        self._weights: dict[str, QuantisedWeight] = {}
        self.model, self.aliases = model, dict[str, str]()
        if not is_quantised(model):
            return
        self.model = model.copy()
        self._around = _Around(self.model, room)
        self._stored = {t.name: t for t in model.proto.graph.initializer}
        self._touched = set[str]()
        returned = {out.name for out in model.proto.graph.output}
        for node in self.model.proto.graph.node:
            form = FORMS.get(_key(node))
            known = None if form is None else form(copy_of(node), self._around)
            if known is not None and (known.stand_ins or not returned.intersection(node.output)):
                self._replaced.append(known)
        self._weights = {weight.floats: weight for one in self._replaced for weight in one.weights}
        self.aliases = {new: old for one in self._replaced for new, old in one.aliases.items()}
        self._put_floats()

    @property
    def found(self) -> bool:
        """Whether any weight was quantised."""
        return bool(self._weights)

    def rounded(self, name: str, array: Array) -> Array:
        """What is left of other floats once they are rounded at the scales that they have."""
        weight = self._weights.get(name)
        return array if weight is None else weight.blocks.whole(weight.rounded(array).real).astype(array.dtype)

    def restore(self, *, keep_scales: bool = False) -> Model:
        """The model, which may have been changed since, with its weights quantised again; the copy is used up.

        Args:
            keep_scales: Whether changed weights keep the scales that they had, see `rounded`; else they get the best.
        """
        graph = self.model.proto.graph
        weight_of = {n.input[2]: n.input[1] for n in graph.node if len(n.input) > 2}  # of biases
        floats = {t.name: self.model.array(t) for t in graph.initializer if t.name in self._weights}
        ratios: dict[str, Array] = {}  # new scales by old ones, by the name of the floats
        for weight in (w for w in self._weights.values() if not w.is_bias):
            if not np.array_equal(floats[weight.floats], weight.real):
                ratios[weight.floats] = self._quantise(weight, floats[weight.floats], keep_scales)
        for bias in (w for w in self._weights.values() if w.is_bias):
            ratio = ratios.get(weight_of.get(bias.floats, ""), np.ones(()))
            self._quantise_bias(bias, floats[bias.floats], ratio)
        self._put_back()
        return self.model

    def _put_floats(self) -> None:
        """Puts the stand-ins, and the floats, in the place of what they stand for."""
        graph = self.model.proto.graph
        _exchange(graph, [(one.originals, one.stand_ins) for one in self._replaced])
        for name, weight in self._weights.items():
            graph.initializer.append(numpy_helper.from_array(np.asarray(weight.real, order="C"), name))
        read = {name for one in self._replaced for node in one.originals for name in node.input}
        self._touched = self._weights.keys() | (read & self._stored.keys())
        self._drop_unread()

    def _put_back(self) -> None:
        """Puts the nodes in the place of their stand-ins; those whose result was floats come first."""
        graph = self.model.proto.graph
        made = {node.output[0]: node for node in graph.node}
        for own, other in (one.bias for one in self._replaced if one.bias is not None):
            own.node.input[own.index] = made[other.node.output[0]].input[other.index]
        _exchange(graph, [(one.stand_ins, one.originals) for one in self._replaced if one.stand_ins])
        results = [one for one in self._replaced if not one.stand_ins]
        first = [node for one in results for node in one.originals]
        replace_entries(graph.node, [*first, *graph.node])
        floats = {one.weights[0].floats for one in results}
        _drop(graph, floats)
        used = {name for node in graph.node for name in node.input}
        missing = used - {t.name for t in graph.initializer}
        graph.initializer.extend(t for name, t in self._stored.items() if name in missing)
        self._drop_unread()

    def _quantise(self, weight: QuantisedWeight, changed: Array, keep_scales: bool) -> Array:
        """Stores the numbers and the scales of other floats; returns new scales by old ones."""
        made = weight.rounded(changed) if keep_scales else weight.quantised(changed)
        fresh = made.scale.astype(weight.scale.dtype).reshape(weight.scale.shape)
        self._put(weight.numbers, _numbers(weight, made.numbers, self._around.constant(weight.numbers.name)))
        if weight.scales is not None:
            self._put(weight.scales, fresh)
        return fresh.astype(np.float64) / weight.scale.astype(np.float64)

    def _quantise_bias(self, bias: QuantisedWeight, changed: Array, ratio: Array) -> None:
        """Stores a bias of 32 bits, whose scale is that of the activation times that of the weight."""
        follows = ratio.size == 1 or ratio.size == bias.scale.size
        if np.array_equal(changed, bias.real) and not (follows and (ratio != 1).any()):
            return
        fresh = bias.scale
        if follows:
            fresh = (fresh * ratio.reshape(fresh.shape if ratio.size > 1 else ())).astype(fresh.dtype)
        numbers = bias.rounded(changed, fresh).numbers
        self._put(bias.numbers, _numbers(bias, numbers, self._around.constant(bias.numbers.name)))
        if bias.scales is not None:
            self._put(bias.scales, fresh)

    def _put(self, operand: Operand, array: Array) -> None:
        """Stores a constant for an input of a node that comes back."""
        name = self._around.fresh(operand.name)
        tensor = numpy_helper.from_array(np.asarray(array, order="C"), name)
        self._touched.add(name)
        self.model.proto.graph.initializer.append(tensor)
        operand.node.input[operand.index] = name

    def _drop_unread(self) -> None:
        """Leaves out the constants of what was replaced, where nothing reads them."""
        graph = self.model.proto.graph
        _drop(graph, self._touched.difference(_read(graph)))


class _Around:
    """See `quantised_weight.Surroundings`."""

    def __init__(self, model: Model, room: int) -> None:
        graph = model.proto.graph
        self._names = Names(model.proto)
        self._model, self._room = model, room
        self._stored = {name: t for scope, name, t in constants(model.proto) if not scope}
        self._reads = Counter(_read(graph))
        self._producers = {name: node for node in graph.node for name in node.output}
        self._readers = {name: node for node in graph.node for name in node.input}

    def array(self, name: str) -> Array | None:
        """The values of a constant; None for what is none."""
        return self.constant(name) if name in self._stored else None

    def constant(self, name: str) -> Array:
        """The values of a constant."""
        return self._model.array(self._stored[name])

    def take(self, name: str) -> bool:
        """Whether floats may stand for a constant: it is read once, and there is room for them."""
        needed = BYTES * elements(self._stored[name])
        if self._reads[name] > 1 or needed > self._room:
            return False
        self._room -= needed
        return True

    def producer(self, name: str) -> NodeProto | None:
        """The node that makes a value."""
        return self._producers.get(name)

    def reader(self, name: str) -> NodeProto | None:
        """The only node that reads a value; None where there are several, or where the value is returned."""
        return self._readers.get(name) if self._reads[name] == 1 else None

    def fresh(self, base: str) -> str:
        """A name that no value has."""
        return self._names.fresh(base)


def _exchange(graph: onnx.GraphProto, pairs: Sequence[tuple[Sequence[NodeProto], Sequence[NodeProto]]]) -> None:
    """Puts nodes in the place of the last of others, which go."""
    gone = {node.output[0] for others, _ in pairs for node in others}
    new = {others[-1].output[0]: nodes for others, nodes in pairs}
    kept: list[NodeProto] = []
    for node in graph.node:
        name = node.output[0] if node.output else ""
        kept += new.get(name, ()) if name in gone else [node]
    replace_entries(graph.node, kept)


def _drop(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Leaves out some initializers, without a copy of the others."""
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name in names:
            del graph.initializer[i]


def _key(node: NodeProto) -> tuple[str, str]:
    """Domain and name of a node's operator."""
    return "" if node.domain == "ai.onnx" else node.domain, node.op_type


def _numbers(weight: QuantisedWeight, numbers: Array, stored: Array) -> Array:
    """Whole numbers in the layout and type of the stored ones."""
    if weight.bits is not None:
        return packed(numbers.reshape(*stored.shape[:2], -1), weight.bits)
    return weight.blocks.whole(numbers).astype(stored.dtype)


def _read(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that is read, in bodies too, and the graph's inputs and outputs."""
    for value in [*graph.input, *graph.output]:
        yield value.name
    for node in graph.node:
        yield from node.input
        for _, body in subgraphs(node):
            yield from _read(body)
