"""BatchNormalization nodes whose parameters are constants."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from onnx import TensorProto

from onnxprune.graph.graph import Graph, Value


@dataclass(frozen=True, eq=False)
class Normalization:
    """A BatchNormalization of the main graph with running statistics of its own.

    Attributes:
        name: Name of its output.
        x: What it reads.
        mean: Running mean.
        variance: Running variance.
        parameters: Scale, shift, mean and variance.
    """

    name: str
    x: Value
    mean: TensorProto
    variance: TensorProto
    parameters: tuple[TensorProto, ...]


def normalizations(graph: Graph) -> list[Normalization]:
    """In topological order; those whose running statistics anything else reads too are left out."""
    readers = Counter(v.key for v in graph.constants() for _ in v.consumers)
    found = []
    for node in graph.main.nodes:
        if node.op_type != "BatchNormalization" or node.domain or node.attribute("training_mode", 0):
            continue
        x, *rest = node.inputs[:5]
        tensors = [v.tensor for v in rest if v is not None and v.tensor is not None]
        if x is None or len(tensors) < 4 or any(readers[v.key] > 1 for v in rest[2:] if v is not None):
            continue
        found.append(Normalization(str(node.proto.output[0]), x, tensors[2], tensors[3], tuple(tensors)))
    return found
