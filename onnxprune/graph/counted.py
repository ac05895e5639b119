"""Values whose numbers are positions along an axis, found by a search: what it returns, and copies of that."""

from __future__ import annotations

from onnxprune.graph.graph import Axis, Graph, Node, Value
from onnxprune.graph.operators import Copies, operator_of


def counted_along(graph: Graph) -> dict[Value, Axis]:
    """The axis that the numbers of each such value count along.

    Where the axis loses indices, the search returns other numbers, and so do the copies: a lookup in a table that lost
    the same indices is right as it is.

    Args:
        graph: A graph whose ranks are known.
    """
    found: dict[Value, Axis] = {}
    for node in graph.nodes:
        operator = operator_of(node)
        if operator.positions is not None:
            which, default = operator.positions
            out = node.outputs[which] if which < len(node.outputs) else None
            searched = node.inputs[0] if node.inputs else None
            if out is not None and searched is not None and searched.rank:
                found[out] = searched.axis(node.attribute("axis", default) % searched.rank)
        elif (axis := _copied(node, operator.copies, found)) is not None:
            found.update((out, axis) for out in node.outputs if out is not None)
    return found


def _copied(node: Node, copies: Copies | None, found: dict[Value, Axis]) -> Axis | None:
    """The axis that all that a node copies counts along."""
    if copies not in (Copies.ALL, Copies.SOME, Copies.JOINED):
        return None
    sources = node.inputs if copies is Copies.JOINED else node.inputs[:1]
    axes = {found.get(value) if value is not None else None for value in sources}
    return axes.pop() if len(axes) == 1 else None
