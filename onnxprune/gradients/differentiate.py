"""Reverse-mode differentiation: from a model to a model that computes gradients as well.

The nodes are visited from the outputs backwards, and each adds the nodes that its operator declares
(`ops.registry.gradient`); gradients that several consumers give a value are added up (Griewank and Walther, "Evaluating
Derivatives", 2nd ed. 2008, chapter 3). What no rule covers stops the gradient: nothing upstream of it has a complete
one, which is said with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

from onnxprune.gradients.backward import Backward
from onnxprune.gradients.bodies import is_float
from onnxprune.gradients.free_constants import constant_names, free_constants
from onnxprune.graph.graph import Graph, Value
from onnxprune.graph.shape_inference import infer
from onnxprune.model.model import Model
from onnxprune.model.tensors import replace_entries
from onnxprune.ops.gradients.writer import Writer


@dataclass(frozen=True)
class GradientModel:
    """A model that computes outputs and gradients.

    Attributes:
        model: The model. Its inputs are those of the original, the variables that were constants, by their names, and
            the gradient of each output, of the output's shape; its outputs are the chosen outputs and the gradients.
        seeds: Name of the input that takes the gradient of an output, by the output's name.
        gradients: Name of the output that holds the gradient of a variable, by the variable's name.
        reasons: Why a variable has no gradient, by its name.
    """

    model: Model
    seeds: Mapping[str, str]
    gradients: Mapping[str, str]
    reasons: Mapping[str, str] = field(default_factory=dict)


def differentiate(model: Model, outputs: Sequence[str], variables: Sequence[str]) -> GradientModel:
    """Makes the model that computes the gradients of some outputs with respect to some values.

    Args:
        model: The model; not modified. Static shapes make a faster result; what is free stays free.
        outputs: Names of values of the main graph, all of them floating-point numbers.
        variables: Names of constants, graph inputs or computed values of the main graph.

    Raises:
        LookupError: A name is unknown.
    """
    copy = model.copy()
    graph = Graph(copy.proto)
    data, values, write = infer(graph), graph.main.names, Writer(copy.proto)
    for name in [*outputs, *variables]:
        if name not in values:
            raise LookupError(f"the model has no value '{name}'")
    needed = {name for name in variables if is_float(values[name])}
    walk = Backward(graph.main, data, write, needed)
    seeds = {name: write.name(f"gradient/of {name}") for name in outputs}
    for name, seed in seeds.items():
        walk.add(name, seed)
    walk.run()
    found = {name: total for name in variables if (total := walk.gradient(name)) is not None}
    reasons = {name: walk.reason(name) for name in variables if name not in found}
    _assemble(copy, write, values, outputs, found, seeds)
    return GradientModel(copy, seeds, found, reasons)


def _assemble(
    model: Model,
    write: Writer,
    values: Mapping[str, Value],
    outputs: Sequence[str],
    found: Mapping[str, str],
    seeds: Mapping[str, str],
) -> None:
    """Puts what was found into the model, in place."""
    graph = model.proto.graph
    constants = constant_names(graph)
    free_constants(model, [name for name in found if name in constants])
    graph.initializer.extend(write.constants)
    graph.node.extend(write.nodes)
    graph.input.extend(_info(values[name], seed) for name, seed in seeds.items())
    infos = [_info(values[name], name) for name in outputs]
    infos += [_info(values[name], gradient) for name, gradient in found.items()]
    replace_entries(graph.output, infos)
    del graph.value_info[:]


def _info(value: Value, name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, value.elem_type or TensorProto.FLOAT, value.shape)
