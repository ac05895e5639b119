"""A model whose weights can be trained: outputs, loss and gradients for weights that are given to each run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxprune.gradients import losses
from onnxprune.gradients.differentiate import differentiate
from onnxprune.gradients.free_constants import free_constants
from onnxprune.gradients.iterations import unchanged_states
from onnxprune.gradients.optimizer import channel_sizes
from onnxprune.gradients.single_precision import SinglePrecision
from onnxprune.graph.graph import Graph, Node, Value
from onnxprune.graph.operators import Copies, operator_of
from onnxprune.graph.shape_inference import infer
from onnxprune.layers.find import linear_layers
from onnxprune.model.inputs import fed_inputs
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS
from onnxprune.ops.gradients.writer import Writer
from onnxprune.runtime.io_slices import Batch
from onnxprune.runtime.session import local_session

Array = NDArray[Any]
Floats = NDArray[np.float32]
Terms = Sequence[tuple[str, float]]
"""Names of losses, each a vector of one, with their weights."""

BYTES, COPIES, WINDOW = 4, 3, 18
"""Bytes of a number, numbers held for one of a value, and for one of the largest value on top."""


@dataclass(frozen=True)
class Parameter:
    """A weight that can be trained.

    Attributes:
        array: Its values.
        size: Size of each output channel, broadcastable to the values.
    """

    array: Floats
    size: Floats


def parameters(model: Model) -> dict[str, Parameter]:
    """The weights, biases and scales of a model that are constants of single precision, by name."""
    graph = Graph(model.proto)
    infer(graph)
    found: dict[str, Parameter] = {}
    constants = _Constants(graph)
    for node, i, beside in _operands(graph, constants):
        for stored in constants.stored(node.input(i)):
            value = stored.value
            if value.tensor is None or value.scope is not graph.main or value.name in found:
                continue  # what a branch holds itself is no value of the graph, that of others which it reads is
            if value.elem_type != TensorProto.FLOAT or not value.rank:
                continue
            array = np.array(model.array(value.tensor), np.float32)
            if np.isfinite(array).all():
                found[value.name] = Parameter(array, _size(model, node, i, array, stored.order, beside))
    return found


def _operands(graph: Graph, constants: _Constants) -> Iterable[tuple[Node, int, Value | None]]:
    """Nodes with the inputs that hold what is trained, weights before biases, and the weight beside each bias."""
    for node in graph.nodes:
        weight = next((s.value for s in constants.stored(node.input(1))), None) if node.has(1) else None
        yield from ((node, i, weight if i != 1 else None) for i in operator_of(node).parameters if node.has(i))
    for layer in linear_layers(graph):
        if layer.bias is not None:
            yield from ((node, i, layer.weight) for node, i in layer.bias.consumers)


class _Stored(NamedTuple):
    """A constant whose numbers are those of an operand, with its axis for each one of the operand; None if unknown."""

    value: Value
    order: tuple[int, ...] | None


class _Constants:
    """The constants that operands are made of, by nodes that only move numbers about.

    Exporters write such nodes behind a weight, and pruning behind a normalisation. Some hand weights from iteration to
    iteration of a loop, as states that stay the same.
    """

    def __init__(self, graph: Graph) -> None:
        self._same = unchanged_states(graph)
        self._nodes = dict(graph.constant_nodes)
        for node in graph.nodes if self._same else ():
            read = [self._before(v) for v in node.inputs if v is not None]
            known = all(v.tensor is not None or v.producer in self._nodes for v in read)
            if read and known and not node.bodies and not operator_of(node).random:
                self._nodes[node] = None

    def made(self, node: Node) -> bool:
        """Whether a node makes the same in every run."""
        return node in self._nodes

    def stored(self, operand: Value) -> Iterator[_Stored]:
        """The constants that an operand is made of."""
        operand = self._before(operand)
        node = operand.producer
        if operand.tensor is not None:
            yield _Stored(operand, tuple(range(operand.rank or 0)))
        elif node is not None and self.made(node) and ((operator := operator_of(node)).copies or _rounds(node)):
            for source in node.inputs if operator.copies is Copies.JOINED else node.inputs[:1]:
                for value, order in self.stored(source) if source is not None else ():
                    if node.op_type == "Transpose" and order is not None:
                        turned = node.attribute("perm", range(len(order))[::-1])
                        yield _Stored(value, tuple(order[axis] for axis in turned))
                    else:
                        yield _Stored(value, order if operator.casts or operator.activation or _rounds(node) else None)

    def _before(self, value: Value) -> Value:
        """What a state was before the first iteration, if it stays the same."""
        while value in self._same:
            value = self._same[value]
        return value


def _rounds(node: Node) -> bool:
    """Whether a node quantises numbers, or makes numbers of quantised ones."""
    return operator_of(node).quantises or node.op_type == "DequantizeLinear"


def _size(
    model: Model, node: Node, index: int, array: Floats, order: Sequence[int] | None, beside: Value | None
) -> Floats:
    """What the steps of a weight are relative to; a bias of zeros moves as the weight beside it."""
    layout = operator_of(node).weights if order is not None else None
    shape = [array.shape[axis] for axis in order or ()]
    found = layout(node, index, shape) if layout is not None else None
    axis = None if found is None or isinstance(found, str) else found.outputs
    size = channel_sizes(array, None if axis is None or order is None else order[axis])
    if not size.any() and beside is not None and beside.tensor is not None:
        return np.broadcast_to(channel_sizes(model.array(beside.tensor), None).max(initial=0.0), size.shape)
    return size


def _left(graph: Graph, known: Collection[str]) -> Iterator[str]:
    """Why other constants stay that may be weights: of another type, or operands of sums, products and copies.

    Such operands are weights at times, and at others anchors, masks, or scales of inputs.
    """
    operands: dict[str, str] = {}
    constants = _Constants(graph)
    for node in graph.nodes:
        operator = operator_of(node)
        arithmetic = operator.adds or operator.subtracts or operator.proportional or operator.copies is not None
        if arithmetic and not constants.made(node):
            read = (stored.value.name for v in node.inputs if v is not None for stored in constants.stored(v))
            operands |= dict.fromkeys(read, node.op_type)
    for value in graph.constants():
        if value.scope is not graph.main or value.name in known or value.tensor is None:
            continue
        if math.prod(value.tensor.dims) < 2:
            continue
        if value.elem_type in FLOATS - {TensorProto.FLOAT} and value.consumers:
            yield f"{TensorProto.DataType.Name(value.elem_type).lower()} numbers are not trained"
        elif any(node.op_type == "DequantizeLinear" and i == 0 for node, i in value.consumers):
            yield "quantised numbers are not trained"
        elif value.elem_type == TensorProto.FLOAT and value.name in operands:
            yield f"constants of {operands[value.name]} are not trained"


class Trainable:
    """Runs a model with weights that are given to it.

    Attributes:
        parameters: The weights that are trained, by name.
        reasons: Why other weights have no gradient, by name.
    """

    def __init__(
        self,
        model: Model,
        feeds: Batch,
        targets: Mapping[str, Floats],
        terms: Callable[[Graph, Writer], Terms],
        outputs: Sequence[str],
    ) -> None:
        """Makes the models that compute outputs, and loss and gradients of batches of one shape.

        Args:
            model: The model; not modified.
            feeds: A batch of its inputs.
            targets: What the loss reads besides, in the shape that all batches have.
            terms: Writes the loss, as a sum, given the graph of the model.
            outputs: Names of the outputs of `outputs`.
        """
        self._form = SinglePrecision(model)
        single = self._form.model
        known = parameters(single)
        made = differentiate(*_with_loss(single, self._form.feeds(feeds), targets, terms), list(known))
        (self._loss, self._seed), *_ = made.seeds.items()
        self.parameters = {name: p for name, p in known.items() if name in made.gradients}
        self.reasons = made.reasons
        self._left = list(_left(Graph(single.proto), known))
        self._gradients = [made.gradients[name] for name in self.parameters]
        self._session = local_session(made.model, arena=True) if self.parameters else None
        self._outputs = list(outputs)
        forward = single.copy()
        free_constants(forward, self.parameters)
        self._forward = local_session(forward)

    @property
    def untrained(self) -> dict[str, int]:
        """How many weights are not trained, by the reason, the most frequent one first."""
        return dict(Counter([*self.reasons.values(), *self._left]).most_common())

    def step(self, feeds: Batch, weights: Mapping[str, Floats]) -> tuple[float, dict[str, Floats]]:
        """The loss of a batch and its gradients by the names of the weights.

        Args:
            feeds: Inputs of the model, and what the loss reads besides.
            weights: The weights.
        """
        assert self._session is not None
        given = {**self._given(feeds, weights), self._seed: np.ones(1, np.float32)}
        loss, *found = self._session.run([self._loss, *self._gradients], given)
        return float(loss[0]), dict(zip(self.parameters, found, strict=True))

    def outputs(self, feeds: Batch, weights: Mapping[str, Floats], names: Sequence[str] | None = None) -> list[Array]:
        """The outputs of a batch; those of some names where these are given."""
        return self._forward.run(self._outputs if names is None else names, self._given(feeds, weights))

    def _given(self, feeds: Batch, weights: Mapping[str, Floats]) -> dict[str, Array]:
        return {**self._form.feeds(feeds), **self._form.stored(weights)}


def _with_loss(
    model: Model, feeds: Batch, targets: Mapping[str, Floats], terms: Callable[[Graph, Writer], Terms]
) -> tuple[Model, list[str]]:
    """A copy of a model whose only output is the loss, and the name of that."""
    copy = model.copy()
    fix_shapes(copy, feeds)
    graph = Graph(copy.proto)
    infer(graph)
    write = Writer(copy.proto)
    total = losses.weighted_total(write, terms(graph, write))
    proto = copy.proto.graph
    proto.node.extend(write.nodes)
    proto.initializer.extend(write.constants)
    for name, array in targets.items():
        proto.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    del proto.output[:]
    proto.output.append(helper.make_tensor_value_info(total, TensorProto.FLOAT, [1]))
    return copy, [total]


def bytes_of_batch(model: Model, feeds: Batch) -> int:
    """About what training holds of one batch: all values with their gradients, and one as windows see it."""
    copy = model.copy()
    fix_shapes(copy, feeds)
    graph = Graph(copy.proto)
    infer(graph)
    computed = [v for v in graph.main.names.values() if v.tensor is None and v.shape is not None]
    sizes = [math.prod(axis.length or 1 for axis in value.axes()) for value in computed]
    return BYTES * (COPIES * sum(sizes) + WINDOW * max(sizes, default=0))


def fix_shapes(model: Model, feeds: Batch) -> None:
    """Gives the inputs the shapes of a batch, in place; shapes of other values are inferred anew."""
    graph = model.proto.graph
    for info in fed_inputs(graph):
        del info.type.tensor_type.shape.dim[:]
        for length in feeds[info.name].shape:
            info.type.tensor_type.shape.dim.add().dim_value = length
    for info in graph.output:
        if info.HasField("type"):
            info.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
