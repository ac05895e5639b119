"""Gradients of operators that read at computed places, or spread columns over windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from onnxprune.ops.gradients.conv import Window, strided
from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.registry import gradient


@gradient("Col2Im")
def col_to_image(g: NodeGradient) -> None:
    """The windows that the columns were spread over, as columns."""
    image, block = ([int(n) for n in g.numbers(i) or []] for i in (1, 2))
    n, (samples, _, _) = len(block), g.lengths(g.node.input(0))
    strides, dilations = (list(g.attr(name, None) or [1] * n) for name in ("strides", "dilations"))
    pads = list(g.attr("pads", None) or [0] * 2 * n)
    window = Window(tuple(block), tuple(strides), tuple(dilations), tuple(pads[:n]), tuple(pads[n:]))
    lengths = [s + b + a for s, b, a in zip(image, window.before, window.after, strict=True)]
    made = [(length - e) // s + 1 for length, e, s in zip(lengths, window.extent, strides, strict=True)]
    d = g.write.pad(g.d(), [0, 0, *window.before, 0, 0, *window.after])
    columns = []
    for place in np.ndindex(*window.kernel):
        starts = [p * step for p, step in zip(place, dilations, strict=True)]
        ends = [s + (m - 1) * step + 1 for s, m, step in zip(starts, made, strides, strict=True)]
        seen = strided(g, d, starts, ends, strides)
        columns.append(g.write.reshape(seen, [samples, -1, 1, math.prod(made)]))
    joined = columns[0] if len(columns) == 1 else g.emit("Concat", *columns, axis=2)
    g.give(0, g.reshaped(joined, g.node.input(0)))


class _Places:
    """The places along one axis that a grid samples.

    Attributes:
        corners: For each of the elements around a place, its number, whether it lies inside the input as 1 or 0, and
            its weight.
        slopes: The derivative of each weight by the number that the grid holds.
    """

    def __init__(self, g: NodeGradient, coordinate: str, length: int) -> None:
        ends = bool(g.attr("align_corners", 0))
        scale = (length - 1 if ends else length) / 2
        place = g.emit("Add", g.times(coordinate, g.number(scale)), g.number((length - 1) / 2))
        inside = None
        if g.attr("padding_mode", "zeros") == "border":
            low, high = g.number(0), g.number(length - 1)
            outside = g.emit("Or", g.emit("Less", place, low), g.emit("Greater", place, high))
            inside = g.mask(g.emit("Not", outside))
            place = g.emit("Max", g.emit("Min", place, high), low)
        self.corners: list[tuple[str, str, str]] = []
        self.slopes: list[str] = []
        if g.attr("mode", "linear") == "nearest":
            self.corners.append(_corner(g, g.emit("Round", place), length, g.number(1)))
            return
        floor = g.emit("Floor", place)
        share = g.emit("Sub", place, floor)
        weights = g.emit("Sub", g.number(1), share), share
        for i, sign in enumerate((-1, 1)):
            self.corners.append(_corner(g, g.emit("Add", floor, g.number(i)), length, weights[i]))
            slope = g.number(sign * scale)
            self.slopes.append(slope if inside is None else g.times(slope, inside))


def _corner(g: NodeGradient, number: str, length: int, weight: str) -> tuple[str, str, str]:
    """The number of an element, moved inside where it lies outside, whether it lies inside, and its weight."""
    low, high = g.number(0), g.number(length - 1)
    outside = g.emit("Or", g.emit("Less", number, low), g.emit("Greater", number, high))
    return g.emit("Max", g.emit("Min", number, high), low), g.mask(g.emit("Not", outside)), weight


@gradient("GridSample")
def grid_sample(g: NodeGradient) -> None:
    """Each element is added to those that it was mixed of, by their weights; the grid moves the weights."""
    x, mode = g.node.input(0), g.attr("mode", "linear")
    if mode not in ("linear", "bilinear", "nearest") or g.attr("padding_mode", "zeros") == "reflection":
        raise LookupError(f"{g.node.label} interpolates by {mode} with {g.attr('padding_mode', 'zeros')}")
    samples, channels, *space = g.lengths(x)
    n, places = len(space), math.prod(g.lengths(g.node.output())[2:])
    flat = g.write.reshape(g.x(), [samples, channels, math.prod(space)])
    d = g.write.reshape(g.d(), [samples, channels, places])
    grid = g.write.reshape(g.x(1), [samples, 1, places, n])
    axes = []
    for axis, length in enumerate(space):  # the grid has the last axis first
        at = g.write.constant(np.array(n - 1 - axis))
        axes.append(_Places(g, g.emit("Gather", grid, at, axis=3), length))
    indices, updates = [], []
    moved: list[list[str]] = [[] for _ in space]
    for choice in itertools.product(*(range(len(one.corners)) for one in axes)):
        corners = [one.corners[i] for one, i in zip(axes, choice, strict=True)]
        index = _stretched(g, _flat_index(g, [number for number, _, _ in corners], space), channels)
        inside = g.times(*(there for _, there, _ in corners))
        weights = [weight for _, _, weight in corners]
        indices.append(index)
        updates.append(g.times(d, inside, *weights))
        if not g.wants(1) or mode == "nearest":
            continue
        seen = g.times(
            g.write.reduce_sum(g.times(g.emit("GatherElements", flat, index, axis=2), d), [1], keepdims=True)
        )
        for axis, i in enumerate(choice):
            others = [weight for other, weight in enumerate(weights) if other != axis]
            moved[axis].append(g.times(seen, inside, axes[axis].slopes[i], *others))
    if g.wants(0):
        zeros = g.emit("Expand", g.number(0), g.write.ints([samples, channels, math.prod(space)]))
        all_at = [one if len(one) == 1 else [g.emit("Concat", *one, axis=2)] for one in (indices, updates)]
        spread = g.emit("ScatterElements", zeros, all_at[0][0], all_at[1][0], axis=2, reduction="add")
        g.give(0, g.reshaped(spread, x))
    if g.wants(1):
        if mode == "nearest":
            g.give(1, g.zeros(g.node.input(1)))
            return
        parts = [g.write.reshape(g.write.total(terms), [samples, places, 1]) for terms in reversed(moved)]
        g.give(1, g.reshaped(g.emit("Concat", *parts, axis=2), g.node.input(1)))


def _flat_index(g: NodeGradient, numbers: Sequence[str], space: Sequence[int]) -> str:
    """The number of an element in all of space, from those along its axes."""
    found = numbers[0]
    for number, length in zip(numbers[1:], space[1:], strict=True):
        found = g.emit("Add", g.times(found, g.number(length)), number)
    return g.emit("Cast", found, to=TensorProto.INT64)


def _stretched(g: NodeGradient, index: str, channels: int) -> str:
    """The same indices for every channel."""
    return g.emit("Expand", index, g.write.ints([1, channels, 1]))
