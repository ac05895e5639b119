"""Gradients of convolutions.

The gradient of the input is a transposed convolution. That of the weight is a product of the output's gradient with the
input shifted to each place of the kernel (`_by_products`), or, where only the run tells the lengths of space, a
convolution in which samples and channels trade places (`_by_convolution`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.graph.graph import Value
from onnxprune.ops.gradients import slopes
from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.registry import gradient


@dataclass(frozen=True)
class Window:
    """How a kernel slides over space, one entry an axis.

    Attributes:
        kernel: Places of the kernel.
        strides: Distance of two positions of the window.
        dilations: Distance of two places of the kernel.
        before: Zeros in front of the input.
        after: Zeros behind it.
        parts: Output channels of the kernel, and input channels of each group; None where it is no convolution's.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    parts: tuple[int, int] | None = None

    @property
    def rank(self) -> int:
        """Number of axes of space."""
        return len(self.kernel)

    @property
    def extent(self) -> list[int]:
        """Length that the window covers."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    @property
    def is_point(self) -> bool:
        """Whether every position of the output sees one of the input, and there are as many."""
        return all(k == 1 for k in self.kernel) and set(self.strides) == {1} and not any(self.before + self.after)


def window_of(g: NodeGradient, kernel: Sequence[int]) -> Window:
    """The window of a convolution or pooling; raises LookupError where its padding depends on the run."""
    n = len(kernel)
    strides = list(g.attr("strides", None) or [1] * n)
    dilations = list(g.attr("dilations", None) or [1] * n)
    pads = list(g.attr("pads", None) or [0] * 2 * n)
    auto = g.attr("auto_pad", "NOTSET")
    if auto == "VALID":
        pads = [0] * 2 * n
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        for i in range(n):
            total = _total_padding(g, i, (kernel[i] - 1) * dilations[i] + 1, strides[i])
            less, more = total // 2, total - total // 2
            pads[i], pads[n + i] = (less, more) if auto == "SAME_UPPER" else (more, less)
    return Window(tuple(kernel), tuple(strides), tuple(dilations), tuple(pads[:n]), tuple(pads[n:]))


def _total_padding(g: NodeGradient, axis: int, extent: int, stride: int) -> int:
    """Zeros that `auto_pad` adds along an axis of space, so that there is one output for every `stride` inputs."""
    length = g.node.input(0).axis(axis + 2).length
    if length is None:
        if stride > 1:
            raise LookupError(f"the padding of {g.node.label} depends on the length of its input")
        return extent - 1
    return max((-(-length // stride) - 1) * stride + extent - length, 0)


@gradient("Conv", parameters=(1, 2))
def conv(g: NodeGradient) -> None:
    """Of the input a transposed convolution, of the weight products with the shifted input."""
    x, w = g.node.input(0), g.node.input(1)
    out, share, *kernel = g.lengths(w)
    window, groups = replace(window_of(g, kernel), parts=(out, share)), int(g.attr("group", 1))
    if g.wants(2):
        g.give(2, g.write.reduce_sum(g.d(), [0, *range(2, 2 + window.rank)], keepdims=False))
    if g.wants(0):
        g.give(0, to_input(g, g.d(), g.x(1), window, groups))
    if not g.wants(1):
        return
    static = g.is_static(x) and g.is_static(g.node.output())
    if window.is_point and groups == 1:
        g.give(1, _by_matrix_product(g, out, share, kernel))
    elif static:
        g.give(1, _by_products(g, window, groups, out, share))
    else:
        g.give(1, _by_convolution(g, (g.x(), g.d()), window, groups, share))


@gradient("FusedConv", domain="com.microsoft", parameters=(1, 2))
def fused_conv(g: NodeGradient) -> None:
    """A convolution, perhaps with a summand, behind which is an activation whose slope its value tells."""
    d = slopes.before_activation(g, [float(n) for n in g.attr("activation_params", [])])
    conv(g.before(d))
    g.give(3, d)


def to_input(g: NodeGradient, d: str, weight: str, window: Window, groups: int) -> str:
    """The transpose of a convolution: spreads each element of a gradient over the window that it was made of."""
    x, n = g.node.input(0), window.rank
    strides, dilations = list(window.strides), list(window.dilations)
    space = [x.axis(2 + i).length for i in range(n)]
    made = [g.node.output().axis(2 + i).length for i in range(n)]
    attributes = {"strides": strides, "dilations": dilations, "group": groups}
    ahead, behind = (
        [e - 1 - p for e, p in zip(window.extent, pads, strict=True)] for pads in (window.before, window.after)
    )
    if set(strides) == {1} and min([*ahead, *behind]) >= 0 and window.parts is not None:
        turned = _turned(g, weight, window, groups)
        return g.emit("Conv", d, turned, pads=[*ahead, *behind], dilations=dilations, group=groups)
    if None not in space and None not in made:
        short = [
            int(length or 0) + window.before[i] + window.after[i] - (int(out or 0) - 1) * strides[i] - window.extent[i]
            for i, (length, out) in enumerate(zip(space, made, strict=True))
        ]
        if all(0 <= s < max(strides[i], dilations[i]) for i, s in enumerate(short)):
            pads = [*window.before, *window.after]
            return g.emit("ConvTranspose", d, weight, pads=pads, output_padding=short, **attributes)
    whole = g.emit("ConvTranspose", d, weight, **attributes)
    whole = g.write.pad(whole, [0] * (2 + n) + [0, 0, *(s - 1 + a for s, a in zip(strides, window.after, strict=True))])
    starts = list(window.before)
    if None not in space:
        ends = [int(length or 0) + b for length, b in zip(space, starts, strict=True)]
        return g.write.slice(whole, starts, ends, range(2, 2 + n), [1] * n)
    lengths = g.write.slice(g.emit("Shape", x.name), [2], [2 + n], [0], [1])
    return g.write.slice_at(whole, g.write.ints(starts), g.emit("Add", lengths, g.write.ints(starts)), range(2, 2 + n))


def _turned(g: NodeGradient, weight: str, window: Window, groups: int) -> str:
    """The kernel of the convolution that spreads a gradient with stride 1: turned, and the channels' axes swapped."""
    out, share = window.parts or (1, 1)
    for axis, length in enumerate(window.kernel, 2):
        if length > 1:
            weight = g.emit("Gather", weight, g.write.ints(range(length - 1, -1, -1)), axis=axis)
    if groups > 1 and share == 1 and out == groups:
        return weight
    parted = g.write.reshape(weight, [groups, out // groups, share, *window.kernel])
    swapped = g.emit("Transpose", parted, perm=[0, 2, 1, *range(3, 3 + window.rank)])
    return g.write.reshape(swapped, [groups * share, out // groups, *window.kernel])


def _by_matrix_product(g: NodeGradient, out: int, share: int, kernel: Sequence[int]) -> str:
    """Gradient of the weight where every position stands alone."""
    d = g.write.reshape(g.d(), [0, out, -1])
    x = g.write.reshape(g.x(), [0, share, -1])
    each = g.emit("MatMul", d, g.emit("Transpose", x, perm=[0, 2, 1]))
    return g.write.reshape(g.write.reduce_sum(each, [0], keepdims=False), [out, share, *kernel])


def _shifted(g: NodeGradient, window: Window, made: Sequence[int]) -> list[str]:
    """The input, padded, as each place of the kernel sees it; each of the lengths of the output in space."""
    x = g.write.pad(g.x(), [0, 0, *window.before, 0, 0, *window.after])
    found = []
    for place in np.ndindex(*window.kernel):
        starts = [p * d for p, d in zip(place, window.dilations, strict=True)]
        ends = [s + (m - 1) * step + 1 for s, m, step in zip(starts, made, window.strides, strict=True)]
        found.append(strided(g, x, starts, ends, window.strides))
    return found


def strided(g: NodeGradient, x: str, starts: Sequence[int], ends: Sequence[int], strides: Sequence[int]) -> str:
    """A part of space, of which only every so many positions are taken."""
    n = len(starts)
    if g.write.opset >= 10 or set(strides) == {1}:
        return g.write.slice(x, starts, ends, range(2, 2 + n), list(strides))
    part = g.write.slice(x, starts, ends, range(2, 2 + n), [1] * n)
    return g.emit("MaxPool", part, kernel_shape=[1] * n, strides=list(strides))


def _by_products(g: NodeGradient, window: Window, groups: int, out: int, share: int) -> str:
    """Gradient of the weight from the shifted inputs, where the lengths of space are known."""
    samples, _, *made = g.lengths(g.node.output())
    places, positions = math.prod(window.kernel), math.prod(made)
    shifted = _shifted(g, window, made)
    if share == 1 and out == groups:  # depthwise: no sum over channels
        seen = [g.write.reshape(one, [samples, out, 1, positions]) for one in shifted]
        column = g.write.reshape(g.d(), [samples, out, positions, 1])
        each = g.emit("MatMul", g.emit("Concat", *seen, axis=2) if places > 1 else seen[0], column)
        return g.write.reshape(g.write.reduce_sum(each, [0], keepdims=False), [out, 1, *window.kernel])
    parts = [g.write.reshape(one, [samples, groups, share, positions]) for one in shifted]
    stacked = g.emit("Concat", *parts, axis=2) if len(parts) > 1 else parts[0]
    d = g.write.reshape(g.d(), [samples, groups, out // groups, positions])
    each = g.emit("MatMul", d, g.emit("Transpose", stacked, perm=[0, 1, 3, 2]))
    summed = g.write.reshape(g.write.reduce_sum(each, [0], keepdims=False), [out, places, share])
    return g.write.reshape(g.emit("Transpose", summed, perm=[0, 2, 1]), [out, share, *window.kernel])


def _by_convolution(g: NodeGradient, names: tuple[str, str], window: Window, groups: int, share: int) -> str:
    """Gradient of the weight as a convolution of the input with the output's gradient, summed over the samples.

    Strides and dilations trade places, and so do samples and the channels of a group.

    Args:
        g: The node.
        names: The input and the gradient of the output.
        window: The window.
        groups: Groups of channels.
        share: Channels of the input in a group.
    """
    n, space = window.rank, list(range(2, 2 + window.rank))
    lengths = g.emit("Shape", names[0])
    tail = g.write.slice(lengths, [2], [2 + n], [0], [1])
    split = g.emit("Concat", g.write.ints([-1, groups, share]), tail, axis=0)
    x = g.emit("Transpose", g.emit("Reshape", names[0], split), perm=[2, 1, 0, *(a + 1 for a in space)])
    merged = g.emit("Concat", g.write.ints([share, -1]), tail, axis=0)
    x = g.write.pad(g.emit("Reshape", x, merged), [0, 0, *window.before, 0, 0, *window.after])
    d = g.emit("Transpose", names[1], perm=[1, 0, *space])
    attributes = {"strides": list(window.dilations), "dilations": list(window.strides), "group": groups}
    found = g.emit("Conv", x, d, **attributes)
    found = g.write.slice(found, [0] * n, list(window.kernel), space, [1] * n)  # a stride leaves inputs at the end
    return g.emit("Transpose", found, perm=[1, 0, *space])


@gradient("ConvTranspose", parameters=(1, 2))
def conv_transpose(g: NodeGradient) -> None:
    """Of the input a convolution, of the weight one in which samples and channels trade places."""
    x, w = g.node.input(0), g.node.input(1)
    _, share, *kernel = g.lengths(w)
    n = len(kernel)
    if g.attr("output_shape", None) or g.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise LookupError(f"the padding of {g.node.label} depends on the length of its output")
    window, groups = window_of(g, kernel), int(g.attr("group", 1))
    if g.wants(2):
        g.give(2, g.write.reduce_sum(g.d(), [0, *range(2, 2 + n)], keepdims=False))
    pads = [*window.before, *window.after]
    if g.wants(0):
        attributes = {"strides": list(window.strides), "dilations": list(window.dilations), "group": groups}
        made = g.emit("Conv", g.d(), g.x(1), pads=pads, **attributes)
        g.give(0, _cut_to(g, made, x, n))
    if g.wants(1) and g.is_static(x):
        g.give(1, _weight_of_transpose(g, window, groups, share))
    elif g.wants(1):
        g.give(1, _by_convolution(g, (g.d(), g.x()), window, groups, share))


def _cut_to(g: NodeGradient, name: str, x: Value, n: int) -> str:
    """The first positions of space, as many as a value has: output padding may add one."""
    if not any(g.attr("output_padding", None) or ()):
        return name
    space = [x.axis(2 + i).length for i in range(n)]
    if None in space:
        raise LookupError(f"the lengths of {g.node.label} in space are only known in the run")
    return g.write.slice(name, [0] * n, [int(s or 0) for s in space], range(2, 2 + n), [1] * n)


def _weight_of_transpose(g: NodeGradient, window: Window, groups: int, share: int) -> str:
    """Gradient of a transposed convolution's weight: input and output gradient trade places with those of `conv`."""
    x = g.node.input(0)
    samples, channels, *positions = g.lengths(x)
    rows = channels // groups
    d = g.write.pad(g.d(), [0, 0, *window.before, 0, 0, *window.after])
    given = g.write.reshape(g.x(), [samples, groups, rows, math.prod(positions)])
    columns = []
    for place in np.ndindex(*window.kernel):
        starts = [p * s for p, s in zip(place, window.dilations, strict=True)]
        ends = [s + (m - 1) * step + 1 for s, m, step in zip(starts, positions, window.strides, strict=True)]
        seen = strided(g, d, starts, ends, window.strides)
        columns.append(g.write.reshape(seen, [samples, groups, share, math.prod(positions)]))
    joined = g.emit("Concat", *columns, axis=2) if len(columns) > 1 else columns[0]
    each = g.emit("MatMul", given, g.emit("Transpose", joined, perm=[0, 1, 3, 2]))
    summed = g.write.reshape(g.write.reduce_sum(each, [0], keepdims=False), [channels, len(columns), share])
    return g.write.reshape(g.emit("Transpose", summed, perm=[0, 2, 1]), [channels, share, *window.kernel])
