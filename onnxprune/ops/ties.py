"""What operators state about the axes they touch: the data types that a rule's statements are recorded in.

A rule gets an `Op` and *ties* axes (whole or by labels), *pins* them, says that an axis is *mixed*, or offers a
`Choice` where an operator can carry channels in one of several ways. It may also say how the node itself is resized
once the new lengths are known. `Ties` collects all of it; `coupling` makes channels of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.contents import Data
from onnxprune.graph.graph import Axis, Graph, Node, Value
from onnxprune.graph.polynomials import Length

Labels = NDArray[np.int64]
"""One label per index of an axis: indices with equal labels, on any axis of a link, are tied; -1 is tied to nothing."""

Link = list[tuple[Axis, Labels]]


@dataclass
class Alternative:
    """One way in which a node can carry channels.

    Attributes:
        name: How reports name it.
        links: Indices tied by labels if this way is taken; the first link is what the alternative is about.
        pins: Axes that are pinned then.
        zeros: An output axis and input axes: where these are all zero, the output is zero.
        kept: Indices of axes that are pinned then.
        weight: Preferred over others with a smaller one, before the number of units is looked at.
    """

    name: str
    links: list[Link]
    pins: list[Axis] = field(default_factory=list)
    zeros: list[tuple[Axis, ...]] = field(default_factory=list)
    kept: list[tuple[Axis, Labels]] = field(default_factory=list)
    weight: int = 0


@dataclass(eq=False)
class Choice:
    """Alternatives of one node; `taken` is filled in by the decision, None when every way is barred."""

    node: Node
    alternatives: list[Alternative]
    taken: Alternative | None = None


class NewShape(Protocol):
    """The interface of resize functions: lengths after removal, and ways to change the node."""

    def length(self, axis: Axis) -> int | Length | None:
        """New length, None where the axis is free and as long as before."""

    def kept(self, axis: Axis) -> NDArray[np.int64]:
        """Indices of the original axis that are kept."""

    def position(self, axis: Axis, index: int) -> int:
        """Position in the new axis of the first kept index at or after `index`."""

    def changed(self, axis: Axis) -> bool:
        """Whether the axis lost an index."""

    def set_attribute(self, name: str, value: Any) -> None:
        """Gives an attribute of the node another value; None removes it."""

    def set_input(self, index: int, entries: Sequence[int | Length | None] | NDArray[Any]) -> None:
        """States what a shape-like input must hold; None leaves an entry as it is computed."""

    def set_positions(self, index: int, along: int | None, column: int | None, entries: Sequence[int]) -> None:
        """States the entries of an index tensor along one axis (None: one number), in one column of its last axis."""


@dataclass(frozen=True)
class Mean:
    """A node that divides a sum along an axis by the length of the axis.

    Attributes:
        node: The node.
        axis: What it averages over.
        power: Exponent of the kept share of indices: the output is multiplied by share ** power.
        epsilon: What the node adds to the mean, in the attribute ``epsilon``; None where it has none.
    """

    node: Node
    axis: Axis
    power: float
    epsilon: float | None


@dataclass(frozen=True)
class Sum:
    """A node that adds up along an axis.

    Attributes:
        node: The node.
        axis: What it sums over.
        zero: Axes of which one must be zero once masked.
        reduces: Whether the node does nothing else, in any order: what it lost may also be given back to it.
        reason: What is said where nothing is zero.
    """

    node: Node
    axis: Axis
    zero: tuple[int, ...]
    reduces: bool
    reason: str


@dataclass(frozen=True)
class Refill:
    """A node that gets zeros in place of what an axis lost, and whose outputs lose the same.

    So what it computes over the axis, in any order, is what it computes where those indices are zero. What another such
    node makes for it is taken before it is cut, whatever that is in the place of the zeros.

    Attributes:
        node: The node.
        axis: The axis, of an input. All inputs and outputs along which it is tied are lengthened and cut.
        zero: Axes that must all be zero once masked, or computed element by element of what is (by nodes that are
            refilled too); else the axis is of grade *mixing*, and nothing is lengthened.
        reason: What is said then.
    """

    node: Node
    axis: Axis
    zero: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Experts:
    """A node that sends each token through a few of several networks.

    Attributes:
        node: The node; input 0 holds the tokens, the first output what the networks make of them.
        chosen: The axis of the router's values that numbers the networks (experts).
        routing: Inputs that say which experts a token has, and with which factors; of shape (tokens, experts). Of the
            first, the largest values are chosen.
        gates: From what these inputs hold to the factor of each expert, 0 for those that a token does not have; shape
            (tokens, experts).
    """

    node: Node
    chosen: Axis
    routing: Sequence[int]
    gates: Callable[[Sequence[NDArray[Any]]], NDArray[np.float64]]


@dataclass(frozen=True)
class Search:
    """A node that finds the largest or smallest values along an axis.

    Without one of them others are found, so the axis is of grade *mixing*. What is left is what the whole model
    computes where the values of the others are minus infinity (or plus, where it finds the smallest).

    Attributes:
        axis: The axis.
        count: How many it finds: as many must be left.
    """

    axis: Axis
    count: int


@dataclass(frozen=True)
class Part:
    """A node whose output is all of one index of an axis.

    Attributes:
        node: The node.
        axis: An axis of what it reads.
        index: The index, counted from 0.
        source: What must be zero once the index is masked, so that the output is; None where it is in any case.
        others: Whether other indices may go where the axis is not searched.
    """

    node: Node
    axis: Axis
    index: int
    source: Axis | None
    others: bool = False


Resize = Callable[[NewShape], None]
Zero = tuple[int, tuple[int, ...], bool]


@dataclass(eq=False)
class Ties:
    """What the rules of a graph stated.

    Attributes:
        graph: The graph.
        data: Contents of its small tensors.
        axis_count: Number of axes in the graph.
        renumbered: Names of values of the main graph that hold ids, which are renumbered where rows of tables go.
        counted: Values whose numbers are positions along an axis, see `graph.counted`.
        whole: Pairs of axes that are tied index by index.
        links: Axes tied by labels.
        pins: Axes (or some of their indices) that must be kept, and why.
        mixes: Axes along which removal changes what is left, and why.
        ordered: Axes whose order matters.
        choices: Nodes that can carry channels in several ways.
        batch_axes: Axes over which a product of two activations runs as separate batches.
        zeros: Which axes are zero where which others are.
        sums: Axes that an operator sums over; exact where one of some axes is zero once masked.
        means: The same for averages.
        refills: Axes that nodes get zeros on in the place of what is lost.
        divisors: Axes of values that are divided by.
        resizes: How nodes change with the new lengths.
        norm_scales: Constants that scale the channels of a normalisation.
        quantised: For a quantised weight, its scale, zero point and axis.
        packed: For a weight of packed numbers, its scale, zero point and bits.
        experts: Nodes that choose among networks.
        searches: Nodes that find the largest values along an axis.
        parts: Nodes whose output is all of one index.
    """

    graph: Graph
    data: dict[Value, Data]
    axis_count: int
    renumbered: frozenset[str] = frozenset()
    counted: Mapping[Value, Axis] = field(default_factory=dict)
    whole: list[tuple[int, int]] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    pins: list[tuple[Axis, NDArray[np.int64] | None, str]] = field(default_factory=list)
    mixes: list[tuple[Axis, NDArray[np.int64] | None, str]] = field(default_factory=list)
    ordered: list[Axis] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    batch_axes: list[int] = field(default_factory=list)
    zeros: list[Zero | Choice] = field(default_factory=list)
    sums: list[Sum] = field(default_factory=list)
    means: list[Mean] = field(default_factory=list)
    refills: list[Refill] = field(default_factory=list)
    divisors: list[Axis] = field(default_factory=list)
    resizes: list[tuple[Node, Resize]] = field(default_factory=list)
    norm_scales: set[Value] = field(default_factory=set)
    quantised: dict[Value, tuple[Value, Value | None, int]] = field(default_factory=dict)
    packed: dict[Value, tuple[Value, Value | None, int]] = field(default_factory=dict)
    experts: list[Experts] = field(default_factory=list)
    searches: list[Search] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    def empty(self) -> Ties:
        """A record without statements on the same graph, for what one rule states."""
        return Ties(self.graph, self.data, self.axis_count, self.renumbered, self.counted)

    def add(self, others: Ties) -> None:
        """Takes over every statement of another record."""
        for mine, theirs in zip(vars(self).values(), vars(others).values(), strict=True):
            if mine is theirs:
                continue  # what both records are about
            if isinstance(mine, list):
                mine.extend(theirs)
            elif isinstance(mine, (set, dict)):
                mine.update(theirs)

    def linked_axes(self) -> list[int]:
        """Axes whose indices may be tied one by one."""
        links = [*self.links, *(link for c in self.choices for alt in c.alternatives for link in alt.links)]
        return [axis.id for link in links for axis, _ in link]
