"""Time of single nodes of a model before and after, from onnxruntime's profiler."""

from __future__ import annotations

from onnxprune.errors import InputError, RunError
from onnxprune.model.model import Model
from onnxprune.options import Checks
from onnxprune.pipeline.analysis import Analysis
from onnxprune.pipeline.latency import ready_engine
from onnxprune.report.page.layers import NodeTimes
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.timing.engines import Engine
from onnxprune.timing.kernels import name_nodes, nodes_of_kernels


def node_times(original: Analysis, pruned: Model, checks: Checks, io_slices: IoSlices) -> NodeTimes:
    """The time of each node in both models, on one thread; empty where they cannot be profiled.

    Args:
        original: The original, with its weights.
        pruned: The result.
        checks: The shapes to run at.
        io_slices: What inputs and outputs of the result lost.
    """
    try:
        engine = ready_engine(original, checks.input_shapes).engine
        before = _times(engine, original.model, WHOLE)
        after = _times(engine, pruned, io_slices)
    except (InputError, RunError):
        return {}
    return {name: (before.get(name, 0.0), after.get(name, 0.0)) for name in {**before, **after}}


def _times(engine: Engine, model: Model, io_slices: IoSlices) -> dict[str, float]:
    named = model.copy()
    name_nodes(named.proto)
    return nodes_of_kernels(named.proto, engine.kernels(named, io_slices))
