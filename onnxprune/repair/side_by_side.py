"""The walk of a repair: original and pruned model run side by side, stopping at each part that is refitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from onnxprune.graph.graph import Graph
from onnxprune.graph.shape_inference import infer
from onnxprune.model.model import Model
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.runtime.staged_run import BatchValues, StagedRun
from onnxprune.statistics.moments import Batches


class Refitted(Protocol):
    """A layer, or a chain of layers, of both models."""

    @property
    def wanted(self) -> list[str]:
        """Values of the original that its targets are made of."""

    @property
    def given(self) -> list[str]:
        """Values of the pruned model that it is fitted on."""


P = TypeVar("P", bound=Refitted)


def inferred_graphs(original: Model, pruned: Model) -> tuple[Graph, Graph]:
    """The graphs of both models, with shapes."""
    graphs = Graph(original.proto), Graph(pruned.proto)
    for graph in graphs:
        infer(graph)
    return graphs


def side_by_side(
    original: Model, pruned: Model, parts: Sequence[P], batches: Batches, *, memory: int, io_slices: IoSlices
) -> Iterator[tuple[P, Mapping[str, BatchValues], Mapping[str, BatchValues]]]:
    """Runs both models part by part: the weights of a part may be changed before the next one is taken.

    Args:
        original: The model before pruning.
        pruned: The model after it; it runs on with the weights that it has by then.
        parts: What is refitted, in topological order.
        batches: Inputs of the original.
        memory: Bytes of activations to hold, of both models together.
        io_slices: Indices that inputs and outputs of the pruned model keep.

    Yields:
        Each part with the original's values for it, and those of the pruned model.
    """
    with (
        StagedRun(original, batches, [part.wanted for part in parts], memory=memory // 2) as first,
        StagedRun(pruned, io_slices.batches(batches), [part.given for part in parts], memory=memory // 2) as second,
    ):
        for part in parts:
            yield part, first.step(), second.step()
