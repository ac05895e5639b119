"""Repairs that reach quantised weights: made on a copy with floats in their place, and rounded again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnxprune.graph.graph import Graph
from onnxprune.graph.shape_inference import infer
from onnxprune.layers.real_weights import RealWeights
from onnxprune.model.model import Model
from onnxprune.pipeline.kept_indices import refittable
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.repair.layerwise import Refit

Repair = Callable[[Model, Model, KeptIndices], list[Refit]]
"""Changes the second model, the pruned one, in place; see `KeptIndices` for what it has of the first."""


def with_floats(original: Model, pruned: Model, kept: KeptIndices, memory: int, repair: Repair) -> list[Refit]:
    """Carries out a repair, on quantised weights too.

    Args:
        original: The model before pruning.
        pruned: The model after it; changed in place.
        kept: What the pruned model has of the original's values.
        memory: Bytes that the floats of each may take.
        repair: The repair of layers with floating-point weights.
    """
    real, copy = RealWeights(original, memory), RealWeights(pruned, memory)
    if not (real.found and copy.found):
        return repair(original, pruned, kept)
    graph = Graph(real.model.proto)
    infer(graph)
    named = {new: kept.axes[old] for new, old in real.aliases.items() if old in kept.axes}
    whole = replace(kept, layers=kept.layers | refittable(graph), axes={**kept.axes, **named})
    done = repair(real.model, copy.model, whole)
    pruned.proto.CopyFrom(copy.restore().proto)
    return [replace(refit, layer=real.aliases.get(refit.layer, refit.layer)) for refit in done]
