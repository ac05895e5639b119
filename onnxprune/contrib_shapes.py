"""Output shapes of operators that `onnx.shape_inference` does not know."""

from __future__ import annotations

from onnxprune.graph import Dim, Node

Shape = list[Dim] | None


def outputs(node: Node) -> list[Shape]:
    """Shape of each output that can be told from the inputs' shapes; empty for an operator not known here."""
    return []
