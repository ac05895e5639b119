"""Gradients of poolings."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from onnxprune.graph.graph import Value
from onnxprune.ops.gradients.conv import Window, strided, to_input, window_of
from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.registry import gradient


@gradient("GlobalAveragePool")
def global_average_pool(g: NodeGradient) -> None:
    """One over the number of positions."""
    x = g.node.input(0)
    space = [x.axis(i).length for i in range(2, g.rank(x))]
    if None in space:
        count = g.emit("Div", g.mask(g.emit("Size", g.x())), g.mask(g.emit("Size", g.y())))
    else:
        count = g.number(float(math.prod(int(n or 0) for n in space)))
    g.give(0, g.stretched(g.emit("Div", g.d(), count), x))


@gradient("GlobalMaxPool")
def global_max_pool(g: NodeGradient) -> None:
    """1 where the maximum is, shared by elements that are equal."""
    axes = list(range(2, g.rank(g.node.input(0))))
    best = g.mask(g.emit("Not", g.emit("Less", g.x(), g.y())))
    g.give(0, g.times(best, g.emit("Div", g.d(), g.write.reduce_sum(best, axes, keepdims=True))))


@gradient("AveragePool")
def average_pool(g: NodeGradient) -> None:
    """Each element of the gradient is shared out over its window."""
    window = window_of(g, list(g.attr("kernel_shape")))
    if g.attr("ceil_mode", 0):
        whole = replace(window, after=tuple(map(max, window.after, _reach(g, window))))
        if whole != window and g.attr("count_include_pad", 0):
            raise LookupError(f"{g.node.label} counts zeros, and has windows that reach beyond them")
        window = whole
    share = g.times(g.d(), g.number(1 / math.prod(window.kernel)))
    if any(window.before + window.after) and not g.attr("count_include_pad", 0):
        share = g.emit("Div", share, _shares_inside(g, window))
    g.give(0, _spread(g, share, np.ones((1, 1, *window.kernel)), window))


def _shares_inside(g: NodeGradient, window: Window) -> str:
    """The share of each window that lies inside the input; shape (1, 1, ...)."""
    shares = np.ones((), g.dtype(g.node.input(0)))
    sizes = zip(_space(g, g.node.input(0)), _space(g, g.node.output()), strict=True)
    for axis, (length, made) in enumerate(sizes):
        starts = np.arange(made) * window.strides[axis] - window.before[axis]
        at = starts[:, None] + np.arange(window.kernel[axis]) * window.dilations[axis]
        shares = np.multiply.outer(shares, ((at >= 0) & (at < length)).mean(1).astype(shares.dtype))
    return g.write.constant(shares[None, None])


def _spread(g: NodeGradient, d: str, kernel: np.ndarray, window: Window) -> str:
    """A transposed convolution of every channel alone.

    Args:
        g: The node.
        d: The gradient; shape (samples, channels, ...), or (samples * channels, places, ...).
        kernel: Shape (places, 1, ...): one plane for each.
        window: The window.
    """
    planes = g.write.reshape(d, [-1, len(kernel), *_space(g, g.node.output())])
    made = to_input(g, planes, g.write.constant(kernel.astype(g.dtype(g.node.input(0)))), window, 1)
    return g.reshaped(made, g.node.input(0))


@gradient("MaxPool")
def max_pool(g: NodeGradient) -> None:
    """The first position of each window that holds its maximum gets all of the gradient."""
    window = window_of(g, list(g.attr("kernel_shape")))
    made = _space(g, g.node.output())
    x = _padded(g, window)
    left: str | None = None
    parts = []
    for place in np.ndindex(*window.kernel):
        starts = [p * d for p, d in zip(place, window.dilations, strict=True)]
        ends = [s + (m - 1) * step + 1 for s, m, step in zip(starts, made, window.strides, strict=True)]
        seen = strided(g, x, starts, ends, window.strides)
        best = g.mask(g.emit("Not", g.emit("Less", seen, g.y())))
        mine = best if left is None else g.times(best, left)
        parts.append(g.write.unsqueeze(g.times(mine, g.d()), [2]))
        rest = g.emit("Sub", g.number(1), best)
        left = rest if left is None else g.times(left, rest)
    places = len(parts)
    joined = g.emit("Concat", *parts, axis=2) if places > 1 else parts[0]
    kernel = np.eye(places).reshape(places, 1, *window.kernel)
    g.give(0, _spread(g, joined, kernel, window))


def _space(g: NodeGradient, value: Value) -> list[int]:
    """The lengths of a value in space; raises LookupError where only the run tells one."""
    found = [axis.length for axis in value.ranked_axes()[2:]]
    if None in found:
        raise LookupError(f"the lengths of {g.node.label} in space are only known in the run")
    return [int(n or 0) for n in found]


def _reach(g: NodeGradient, window: Window) -> list[int]:
    """How far the windows reach behind the input."""
    space, made = _space(g, g.node.input(0)), _space(g, g.node.output())
    return [
        max(0, (m - 1) * s + e - n - b)
        for m, s, e, n, b in zip(made, window.strides, window.extent, space, window.before, strict=True)
    ]


def _padded(g: NodeGradient, window: Window) -> str:
    """The input with the least number around it, as far as the windows reach."""
    pads = [0, 0, *window.before, 0, 0, *_reach(g, window)]
    return g.write.pad(g.x(), pads, np.finfo(g.dtype(g.node.input(0))).min)
