"""Time of single nodes of a model before and after, from onnxruntime's profiler."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnxprune.errors import InputError, RunError
from onnxprune.model.model import Model
from onnxprune.options import Checks
from onnxprune.pipeline.analysis import Analysis
from onnxprune.pipeline.latency import ready_engine
from onnxprune.report.page.layers import NodeTimes
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.timing.engines import Engine
from onnxprune.timing.kernels import name_nodes, nodes_of_kernels

REPETITIONS = 3
"""How often both models are profiled, in turns: other work on the machine slows one of them down, or all."""


def node_times(original: Analysis, pruned: Model, checks: Checks, io_slices: IoSlices) -> NodeTimes:
    """The milliseconds of each node in both models, on one thread; empty where they cannot be profiled.

    Args:
        original: The original, with its weights.
        pruned: The result.
        checks: The shapes to run at.
        io_slices: What inputs and outputs of the result lost.
    """
    try:
        engine = ready_engine(original, checks.input_shapes).engine
        models = [(_named(original.model), WHOLE), (_named(pruned), io_slices)]
        rounds = [[_times(engine, *one) for one in models] for _ in range(REPETITIONS)]
    except (InputError, RunError):
        return {}
    before, after = (_fastest(found) for found in zip(*rounds, strict=True))
    return {name: (before.get(name, 0.0), after.get(name, 0.0)) for name in {**before, **after}}


def _fastest(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The shortest of the times of each node."""
    return {name: min(times.get(name, math.inf) for times in found) for name in found[0]}


def _named(model: Model) -> Model:
    """A copy whose nodes are found again among the kernels."""
    named = model.copy()
    name_nodes(named.proto)
    return named


def _times(engine: Engine, named: Model, io_slices: IoSlices) -> dict[str, float]:
    return nodes_of_kernels(named.proto, engine.kernels(named, io_slices))
