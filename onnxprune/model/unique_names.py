"""Generation of names that a model does not use yet."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import GraphProto, ModelProto

from onnxprune.model.topology import defined_names


class Names:
    """Generates names that the model does not use yet.

    Args:
        proto: The model.
        also: Further names that are taken.
    """

    def __init__(self, proto: ModelProto, also: Iterable[str] = ()) -> None:
        self._proto = proto
        self._also = also
        self._taken: set[str] | None = None  # collected when first needed

    def fresh(self, base: str) -> str:
        """Returns a new name: `base` with a number appended."""
        if self._taken is None:
            self._taken = {*_all_names(self._proto.graph), *self._also}
        n = 1
        while f"{base}_{n}" in self._taken:
            n += 1
        name = f"{base}_{n}"
        self._taken.add(name)
        return name


def _all_names(graph: GraphProto) -> list[str]:
    names = [*defined_names(graph), *(v.name for v in graph.output)]
    for node in graph.node:
        names.append(node.name)
        for a in node.attribute:
            for body in ([a.g] if a.HasField("g") else []) + list(a.graphs):
                names += _all_names(body)
    return names
