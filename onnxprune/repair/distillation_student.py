"""The student of a distillation: the pruned model with its loss and the gradients of its weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxprune.gradients import losses
from onnxprune.gradients.differentiate import differentiate
from onnxprune.gradients.free_constants import free_constants
from onnxprune.gradients.optimizer import channel_sizes
from onnxprune.graph.graph import Graph, Node, Value
from onnxprune.graph.operators import Postprocessing, operator_of
from onnxprune.graph.shape_inference import infer
from onnxprune.layers.find import linear_layers
from onnxprune.model.inputs import fed_inputs
from onnxprune.model.model import Model
from onnxprune.ops.gradients.writer import Writer
from onnxprune.repair.distillation_teacher import Targets, Views, share_name, target_name, weight_name
from onnxprune.runtime.io_slices import Batch
from onnxprune.runtime.session import local_session
from onnxprune.verification.comparable_outputs import Component
from onnxprune.verification.output_values import class_axes

Array = NDArray[Any]
Floats = NDArray[np.float32]

TEMPERATURE = 2.0
"""Temperature of a softmax that decides once a sample; one that decides at many positions has 1."""
BYTES, COPIES, WINDOW = 4, 3, 18
"""Bytes of a number, numbers held for one of a value, and for one of the largest value on top."""
DIVERGENCE = 0.25
"""Weight of divergences next to that of squared errors, which models are judged by."""
FEATURES = 0.5
"""Weight of the mean error of the features, next to that of the outputs."""


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
    for node, i in _operands(graph):
        value = node.input(i)
        if value.tensor is None or value.name in found or value.elem_type != TensorProto.FLOAT or not value.rank:
            continue
        array = np.array(model.array(value.tensor), np.float32)
        if np.isfinite(array).all():
            found[value.name] = Parameter(array, _size(model, node, i, array))
    return found


def _operands(graph: Graph) -> Iterable[tuple[Node, int]]:
    """Nodes with the inputs that hold what is trained, weights before biases."""
    for node in graph.main.nodes:
        yield from ((node, i) for i in operator_of(node).parameters if node.has(i))
    for layer in linear_layers(graph):
        if layer.bias is not None:
            yield from layer.bias.consumers


def _size(model: Model, node: Node, index: int, array: Floats) -> Floats:
    """What the steps of a weight are relative to; a bias of zeros moves as the weight beside it."""
    layout = operator_of(node).weights
    found = layout(node, index, array.shape) if layout is not None else None
    axis = None if found is None or isinstance(found, str) else found.outputs
    size = channel_sizes(array, axis)
    beside = node.inputs[1] if node.has(1) else None
    if not size.any() and index != 1 and beside is not None and beside.tensor is not None:
        return np.broadcast_to(channel_sizes(model.array(beside.tensor), None).max(initial=0.0), size.shape)
    return size


class Student:
    """Runs the pruned model with weights that are given to it.

    Attributes:
        parameters: The weights that are trained, by name.
        reasons: Why other weights have no gradient, by name.
    """

    def __init__(self, both: Views, feeds: Batch, targets: Targets, feature_sizes: Mapping[str, float]) -> None:
        """Makes the models that compute outputs, and loss and gradients of batches of one shape.

        Args:
            both: The models.
            feeds: A batch for the pruned model.
            targets: Its targets.
            feature_sizes: Mean square of each feature.
        """
        known = parameters(both.student)
        model = both.student.copy()
        _fix_shapes(model, feeds)
        self._loss = _add_loss(model, both, targets, feature_sizes)
        made = differentiate(model, [self._loss], list(known))
        self.parameters = {name: p for name, p in known.items() if name in made.gradients}
        self.reasons = made.reasons
        self._seed = made.seeds[self._loss]
        self._gradients = [made.gradients[name] for name in self.parameters]
        self._session = local_session(made.model, arena=True) if self.parameters else None
        self._outputs = both.outputs
        forward = both.student.copy()
        free_constants(forward, self.parameters)
        self._forward = local_session(forward)

    def step(self, feeds: Batch, targets: Targets, weights: Mapping[str, Floats]) -> tuple[float, dict[str, Floats]]:
        """The loss of a batch and its gradients by the names of the weights."""
        assert self._session is not None
        given = {**feeds, **targets.feeds(), **weights, self._seed: np.ones(1, np.float32)}
        loss, *found = self._session.run([self._loss, *self._gradients], given)
        return float(loss[0]), dict(zip(self.parameters, found, strict=True))

    def outputs(self, feeds: Batch, weights: Mapping[str, Floats]) -> list[Array]:
        """The compared outputs of a batch."""
        return self._forward.run(self._outputs, {**feeds, **weights})


def bytes_of_batch(model: Model, feeds: Batch) -> int:
    """About what training holds of one batch: all values with their gradients, and one as windows see it."""
    copy = model.copy()
    _fix_shapes(copy, feeds)
    graph = Graph(copy.proto)
    infer(graph)
    computed = [v for v in graph.main.names.values() if v.tensor is None and v.shape is not None]
    sizes = [math.prod(axis.length or 1 for axis in value.axes()) for value in computed]
    return BYTES * (COPIES * sum(sizes) + WINDOW * max(sizes, default=0))


def _fix_shapes(model: Model, feeds: Batch) -> None:
    """Gives the inputs the shapes of a batch, in place; shapes of other values are inferred anew."""
    graph = model.proto.graph
    for info in fed_inputs(graph):
        del info.type.tensor_type.shape.dim[:]
        for length in feeds[info.name].shape:
            info.type.tensor_type.shape.dim.add().dim_value = length
    for info in graph.output:
        info.type.tensor_type.ClearField("shape")
    del graph.value_info[:]


def _add_loss(model: Model, both: Views, targets: Targets, feature_sizes: Mapping[str, float]) -> str:
    """Adds the loss to a model, in place; returns its name."""
    graph = Graph(model.proto)
    infer(graph)
    write = Writer(model.proto)
    terms: list[tuple[str, float]] = []
    compared = [i for i in range(len(both.components)) if i in targets.weights]
    for i in compared:
        value = graph.main.names[both.components[i].name]
        found = _output_loss(write, both.components[i], value, i, targets)
        terms += [(name, weight / len(compared)) for name, weight in found]
    for name in both.features:
        array = targets.values[target_name(name)]
        scale = FEATURES / len(both.features) / feature_sizes[name] / array.size
        terms.append((losses.squared_error(write, name, target_name(name), None), scale))
    total = losses.weighted_total(write, terms)
    proto = model.proto.graph
    proto.node.extend(write.nodes)
    proto.initializer.extend(write.constants)
    for name, array in targets.feeds().items():
        proto.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    del proto.output[:]
    proto.output.append(helper.make_tensor_value_info(total, TensorProto.FLOAT, [1]))
    return total


def _output_loss(
    write: Writer, component: Component, value: Value, i: int, targets: Targets
) -> list[tuple[str, float]]:
    """The losses of one output, with their weights."""
    target, weights, rank = targets.values[target_name(i)], weight_name(i), value.rank or 0
    axes = class_axes(component, [axis.length or 1 for axis in value.axes()])
    order = [*(a for a in range(rank) if a not in axes), *axes]
    values = losses.rows(write, value.name, None if order == sorted(order) else order, target.shape[1])
    if component.scores is Postprocessing.SOFTMAX:
        values = losses.centred(write, values, target.shape[1])
    error = losses.squared_error(write, values, target_name(i), weights)
    if component.scores is None:
        return [(error, 1.0)]
    if component.scores is Postprocessing.SIGMOID:
        distance = losses.binary_divergence(write, values, target_name(i), share_name(i))
    else:
        temperature = 1.0 if _positions(value, axes) > 1 else TEMPERATURE
        distance = losses.divergence(write, values, target_name(i), share_name(i), temperature)
    return [(error, 1.0), (distance, DIVERGENCE)]


def _positions(value: Value, axes: Sequence[int]) -> int:
    """Positions of one sample."""
    found = 1
    for axis in value.axes()[1:]:
        found *= 1 if axis.position in axes else axis.length or 1
    return found


def write_back(model: Model, weights: Mapping[str, Floats]) -> None:
    """Stores weights in a model, in place."""
    graph = Graph(model.proto)
    for name, array in weights.items():
        tensor = graph.main.names[name].tensor
        assert isinstance(tensor, onnx.TensorProto)
        model.set_array(tensor, array)
