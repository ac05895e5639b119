"""The graph inputs that a caller must feed."""

from __future__ import annotations

import onnx


def fed_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Returns the graph inputs without a default value, that is without an initializer of the same name."""
    defaults = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in defaults]
