"""Synaptic flow: what of a model carries its signal, told by the weights alone.

With the absolute values of all weights, and ones for what the first of them read, the sum R of the outputs counts all
paths through the model by the product of their weights; ``|w| dR/d|w|`` is the flow through a weight (Tanaka et al.,
"Pruning neural networks without any data by iteratively conserving synaptic flow", NeurIPS 2020). The flow is asked for
again after each of many rounds, since what loses its other paths must keep the last one: no layer is ever emptied
before the others.

R has the product of the gains of all layers, 1e16 and more; instead of ones a small number is read, so that it stays in
range. What comes before the first weights, a normalisation of the inputs say, has no part in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from onnxprune.common.progress import step
from onnxprune.errors import InputError
from onnxprune.gradients.differentiate import differentiate
from onnxprune.gradients.trainable import fix_shapes
from onnxprune.graph.graph import Graph
from onnxprune.graph.operators import Postprocessing, operator_of
from onnxprune.graph.shape_inference import infer
from onnxprune.layers.batch_norm import normalizations
from onnxprune.layers.find import linear_layers
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS, replace_entries
from onnxprune.ops.gradients.writer import Writer
from onnxprune.runtime.local_session import LocalSession
from onnxprune.runtime.sample_inputs import sample_inputs
from onnxprune.runtime.session import local_session
from onnxprune.verification.comparable_outputs import with_comparable_outputs

Array = NDArray[Any]
Floats = NDArray[np.float64]
Masks = Mapping[str, NDArray[np.bool_]]

ROUNDS = 100
"""Rounds of removal; the share that is left falls exponentially from round to round."""
LEFT = 0.01
"""Share that is left after the last round."""
SIZES = tuple(10.0**-power for power in range(0, 38, 2))
"""What is read in place of ones, until the outputs are in range."""
LARGEST = 1e30
"""What neither the outputs nor their gradients are to exceed, far within the range of single precision."""


class SynapticFlow:
    """Computes the flow through the weights of a model.

    Attributes:
        names: The weights through which a flow is known.
    """

    def __init__(self, model: Model, weights: Mapping[str, Array]) -> None:
        """Makes the model of paths and its gradients.

        Args:
            model: The model; not modified.
            weights: The weights by name.

        Raises:
            InputError: No weight has a gradient, or the outputs are not in the range of single precision.
        """
        feeds = sample_inputs(model.proto)
        paths, size = _paths(model, set(weights))
        fix_shapes(paths, feeds | {size: np.float32(1)})
        outputs = [o.name for o in paths.proto.graph.output]
        made = differentiate(paths, outputs, list(weights))
        self.names = list(made.gradients)
        if not self.names:
            raise InputError(f"no weight has a gradient: {next(iter(made.reasons.values()), 'the model has none')}")
        self._session = local_session(made.model)
        self._sizes = {n: np.abs(weights[n]).astype(np.float32) for n in self.names}
        self._gradients = [made.gradients[n] for n in self.names]
        self._outputs = outputs
        self._feeds = self._in_range(local_session(paths), feeds, size, {made.seeds[name]: name for name in outputs})

    def _in_range(
        self, forward: LocalSession, feeds: Mapping[str, Array], read: str, seeds: Mapping[str, str]
    ) -> dict[str, Array]:
        """Inputs with which the outputs are finite, and gradients of the outputs that are all alike."""
        for size in SIZES:
            given = {**feeds, read: np.array(size, np.float32)}
            values = forward.run(self._outputs, given)
            total = float(sum(np.abs(v, dtype=np.float64).sum() for v in values))
            if np.isfinite(total) and total < LARGEST:
                if total == 0:
                    break
                one = min(1.0, LARGEST * size / total)  # the gradient of an output, and that of an input is R times it
                shapes = dict(zip(self._outputs, (v.shape for v in values), strict=True))
                return given | {seed: np.full(shapes[name], one, np.float32) for seed, name in seeds.items()}
        raise InputError("the flow through the model leaves the range of single precision", "importance l2 needs none")

    def flow(self, gone: Masks) -> dict[str, Floats]:
        """The flow through each element of the weights, without some of them; by name, shape of the weight.

        Args:
            gone: What is removed already, by name.
        """
        left = {n: np.where(gone[n], 0, size) if n in gone else size for n, size in self._sizes.items()}
        found = self._session.run(self._gradients, {**self._feeds, **left})
        return {
            n: left[n].astype(np.float64) * np.nan_to_num(np.abs(g)) for n, g in zip(self.names, found, strict=True)
        }


def ranked(
    sizes: Sequence[int], scores: Callable[[Sequence[NDArray[np.bool_]]], Sequence[Floats]], rounds: int = ROUNDS
) -> list[Floats]:
    """Ranks the members of several sets, all together, by the order in which they go.

    Args:
        sizes: Members of each set.
        scores: The scores of all members once some have gone; these are given as a mask for each set.
        rounds: Rounds of removal.

    Returns:
        For each set the rank of its members among all, from above 0 (goes first) to 1; shape (members,).
    """
    ends = np.cumsum([0, *sizes])
    whole = int(ends[-1])
    order = np.zeros(whole)
    gone = np.zeros(whole, dtype=bool)
    for number in range(1, rounds + 1):
        now = np.concatenate(scores([gone[a:b] for a, b in itertools.pairwise(ends)]) or [np.zeros(0)])
        left = np.flatnonzero(~gone)
        by_score = left[np.argsort(now[left], kind="stable")]
        going = by_score[: len(left) - int(np.ceil(whole * LEFT ** (number / rounds)))]
        if number == rounds:
            going = by_score  # the last ones by their last scores
        done = whole - len(left)
        order[going] = done + 1 + np.arange(len(going))
        gone[going] = True
        step(f"round {number}", number, rounds)
    return [order[a:b] / max(whole, 1) for a, b in itertools.pairwise(ends)]


def _paths(model: Model, weights: Collection[str]) -> tuple[Model, str]:
    """The model that counts paths: absolute weights, neither biases nor means, and activations that pass all.

    Returns:
        The model, and the name of a scalar input: what the first weights read everywhere.
    """
    copy, _ = with_comparable_outputs(model)
    graph = Graph(copy.proto)
    infer(graph)
    biases = _shifts(graph) | {layer.bias.key for layer in linear_layers(graph) if layer.bias is not None}
    fills = _fills(graph)
    for norm in normalizations(graph):
        for tensor in norm.parameters[1:3]:
            copy.set_array(tensor, np.zeros_like(copy.array(tensor)))
    for value in graph.constants():
        if value.elem_type in FLOATS and value.tensor is not None and (value.rank or value.key in fills):
            array = copy.array(value.tensor)
            nothing = value.key in biases or value.key in fills
            copy.set_array(value.tensor, np.zeros_like(array) if nothing else np.abs(array))
    for node in graph.main.nodes:
        operator = operator_of(node)
        bounded = operator.postprocessing in (Postprocessing.SOFTMAX, Postprocessing.SIGMOID)
        if operator.activation or operator.clips is not None or bounded:
            _pass_on(node.proto)
    size = _read_alike(copy, graph, weights)
    kept = [o for o in copy.proto.graph.output if graph.main.names[o.name].elem_type in (0, TensorProto.FLOAT)]
    del copy.proto.graph.output[:]
    copy.proto.graph.output.extend(kept)
    return copy, size


def _shifts(graph: Graph) -> set[str]:
    """Constants that are added to what flows: biases, shifts of normalisations, masks, tables of positions."""
    added = [value for node in graph.main.nodes if operator_of(node).adds for value in node.inputs]
    for node in graph.main.nodes:
        operator = operator_of(node)
        if 2 in operator.parameters and not operator.gates and node.has(2):
            added.append(node.inputs[2])
    return {value.key for value in added if value is not None and value.tensor is not None}


def _fills(graph: Graph) -> set[str]:
    """Constants that stand in the place of what flows, as minus infinity does where attention is masked."""
    filled = (v for node in graph.main.nodes if node.op_type == "Where" for v in node.inputs[1:])
    return {value.key for value in filled if value is not None and value.tensor is not None}


def _read_alike(model: Model, graph: Graph, weights: Collection[str]) -> str:
    """Makes nodes that weights take part in read one number of what no weight takes part in; the name of its input."""
    proto, write = model.proto.graph, Writer(model.proto)
    size = write.name("flow/size")
    proto.input.append(helper.make_tensor_value_info(size, TensorProto.FLOAT, []))
    reached, alike = set(weights), dict[str, str]()
    nodes: list[NodeProto] = []
    for node in graph.main.nodes:
        if any(v is not None and v.name in reached for v in node.inputs):
            reached |= {v.name for v in node.outputs if v is not None}
            for i, v in enumerate(node.inputs):
                data = v is not None and v.tensor is None and v.name not in reached
                if v is not None and data and v.elem_type == TensorProto.FLOAT:
                    if v.name not in alike:
                        alike[v.name] = write.emit("Add", write.emit("Sub", v.name, v.name), size)
                    node.proto.input[i] = alike[v.name]
        nodes += [*write.nodes, node.proto]
        write.nodes.clear()
    replace_entries(proto.node, nodes)
    return size


def _pass_on(node: NodeProto) -> None:
    """Makes a node give out its first input, in place."""
    node.op_type, node.domain = "Identity", ""
    del node.input[1:], node.attribute[:], node.output[1:]
