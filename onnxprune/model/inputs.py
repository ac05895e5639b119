"""Graph inputs that a caller has to feed."""

from __future__ import annotations

import onnx


def fed_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The graph inputs that a caller feeds: those which are not initializers as well."""
    defaults = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in defaults]
