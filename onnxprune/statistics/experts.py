"""How much the experts of a mixture contribute to what it computes, from calibration data."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from onnxprune.graph.graph import Value
from onnxprune.model.model import Model
from onnxprune.ops.ties import Experts
from onnxprune.runtime.local_session import LocalSession
from onnxprune.runtime.partition import assemble, partition
from onnxprune.runtime.session import local_session
from onnxprune.statistics.moments import Batches

Floats = NDArray[np.float64]

SURE = 1e4
"""A router's value, beside zeros, with which one expert alone is taken; float16 holds it."""


def contributions(model: Model, mixtures: Sequence[Experts], batches: Batches) -> list[Floats]:
    """The mean, over the tokens that an expert has, of its factor times the norm of its output; shape (experts,) each.

    ``S_j = 1/|X_j| * sum over x in X_j of g_j(x) |f_j(x)|_2`` with the tokens X_j that are routed to expert j (Lasby et
    al., "REAP the experts: why pruning prevails for one-shot MoE compression", 2025, arXiv 2510.13999). Experts without
    tokens have 0. The operator itself computes an expert's output, with a router that takes that expert alone.

    Args:
        model: The model that the mixtures belong to.
        mixtures: Mixtures of its main graph.
        batches: Calibration feeds.

    Raises:
        CannotCut: An input of a mixture cannot be the output of a session (see `partition`).
    """
    first = next(iter(batches), None)
    if first is None or not mixtures:
        return [np.zeros(mixture.chosen.length or 0) for mixture in mixtures]
    names = list(dict.fromkeys(value.name for mixture in mixtures for value in _operands(mixture)))
    (piece,) = partition(model.proto, [names], first)
    runner = local_session(model.part(assemble(model.proto, piece, {})))
    sums = [_Sums(model, mixture, first) for mixture in mixtures]
    fed, read = itertools.tee(batches)
    inputs = ({name: feeds[name] for name in runner.inputs if name in feeds} for feeds in fed)
    for feeds, outputs in zip(read, runner.each(inputs, piece.outputs, ahead=1), strict=True):
        values = {**feeds, **dict(zip(piece.outputs, outputs, strict=True))}
        for one in sums:
            one.add(values)
    return [one.mean() for one in sums]


def _operands(mixture: Experts) -> list[Value]:
    return [mixture.node.input(i) for i in (0, *mixture.routing)]


class _Sums:
    """Sums over the tokens of each expert of one mixture."""

    def __init__(self, model: Model, mixture: Experts, feeds: Mapping[str, Any]) -> None:
        self._mixture = mixture
        self._names = [value.name for value in _operands(mixture)]
        self._total = np.zeros(mixture.chosen.length or 0)
        self._count = np.zeros(mixture.chosen.length or 0, dtype=np.int64)
        self._alone: LocalSession = local_session(model.part(_with_one_expert(model.proto, mixture, feeds)))

    def add(self, values: Mapping[str, Any]) -> None:
        """Adds the tokens of a batch."""
        tokens, *routing = (np.asarray(values[name]) for name in self._names)
        tokens = tokens.reshape(-1, tokens.shape[-1])
        factors = self._mixture.gates(routing)
        for expert in np.flatnonzero(factors.any(axis=0)):
            mine = np.flatnonzero(factors[:, expert])
            made = self._output(tokens[mine], int(expert), routing)
            norms = np.linalg.norm(made.astype(np.float64), axis=-1)
            self._total[expert] += float(factors[mine, expert] @ norms)
            self._count[expert] += len(mine)

    def mean(self) -> Floats:
        """The mean of each expert."""
        found: Floats = self._total / np.maximum(self._count, 1)
        return found

    def _output(self, tokens: NDArray[Any], expert: int, routing: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """What one expert makes of tokens; shape (tokens, width)."""
        feeds = {self._names[0]: tokens}
        for i, (name, array) in enumerate(zip(self._names[1:], routing, strict=True)):
            alone = np.zeros((len(tokens), array.shape[1]), array.dtype)
            alone[:, expert] = 1 if i else SURE
            feeds[name] = alone
        (made,) = self._alone.run(None, feeds)
        found: NDArray[Any] = np.asarray(made)
        return found


def _with_one_expert(proto: ModelProto, mixture: Experts, feeds: Mapping[str, Any]) -> ModelProto:
    """A model of the mixture's node alone, in which a token has one expert."""
    out = mixture.node.output().name
    names = [value.name for value in _operands(mixture)]
    *_, piece = partition(proto, [names, [out]], feeds)
    types = {v.name: helper.make_tensor_value_info(v.name, v.elem_type, None) for v in _operands(mixture)}
    part = assemble(proto, piece, types)
    for value in part.graph.input:
        value.CopyFrom(types[value.name])  # tokens come without the batch that a graph input may declare
    for node in part.graph.node:
        if out in node.output:
            kept = [a for a in node.attribute if a.name != "k"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("k", 1)])
    return part
