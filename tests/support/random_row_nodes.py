"""Random blocks that sum over another axis than the channels, or address several axes at once.

The channels are then among the rows of a layer, in a folded batch, or one of the axes that positions count along.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.support.graph_builder import Builder, Tensor

Step = Callable[[Builder], None]


def _linear_over_space(b: Builder) -> None:
    """A matrix over the width, or the height, of an image (the time or the frequencies of a spectrogram)."""
    x = b.choose.pick(b.images())
    n, c, h, w = x.shape
    if b.choose.integer(0, 1):
        _biased(b, b.node("MatMul", [x.name, b.weight(w, w, fan_in=w)], x.shape))
        return
    turned = b.node("Transpose", [x.name], (n, c, w, h), perm=[0, 1, 3, 2])
    y = _biased(b, b.node("MatMul", [turned.name, b.weight(h, h, fan_in=h)], turned.shape))
    b.node("Transpose", [y.name], x.shape, perm=[0, 1, 3, 2])


def _linear_over_tokens(b: Builder) -> None:
    """Two matrices over the tokens of a sequence with an activation between, and a shortcut: an MLP-Mixer's block."""
    if not b.rows():
        return
    x = b.choose.pick(b.rows())
    n, s, d = x.shape
    width = b.choose.pick([4, 6])
    y = b.node("Transpose", [x.name], (n, d, s), perm=[0, 2, 1])
    y = _biased(b, b.node("MatMul", [y.name, b.weight(s, width, fan_in=s)], (n, d, width)))
    y = b.node("Relu", [y.name], y.shape)
    y = b.node("MatMul", [y.name, b.weight(width, s, fan_in=width)], (n, d, s))
    back = b.node("Transpose", [y.name], x.shape, perm=[0, 2, 1])
    b.node("Add", [x.name, back.name], x.shape)


def _convolution_of_folded_channels(b: Builder) -> None:
    """One kernel for every channel: the channels are folded into the batch."""
    x = b.choose.pick(b.images())
    n, c, h, w = x.shape
    times = b.choose.pick([1, 2]) if c <= 12 else 1
    folded = b.node("Reshape", [x.name, b.constant(np.array([-1, 1, h, w]))], (n * c, 1, h, w))
    inputs = [folded.name, b.weight(times, 1, 3, 3, fan_in=9)]
    if b.choose.integer(0, 1):
        inputs.append(b.weight(times))
    y = b.node("Conv", inputs, (n * c, times, h, w), pads=[1, 1, 1, 1])
    b.hide(folded, y)
    b.node("Reshape", [y.name, b.constant(np.array([-1, times * c, h, w]))], (n, times * c, h, w))


def _recurrent_over_folded_channels(b: Builder) -> None:
    """One recurrent layer for every channel, along the width: the channels are folded into the batch."""
    x = b.choose.pick(b.images())
    n, c, h, w = x.shape
    kind, gates = b.choose.pick([("LSTM", 4), ("GRU", 3)])
    weights = [b.weight(1, gates * h, h, fan_in=h), b.weight(1, gates * h, h, fan_in=h)]
    steps = b.node("Transpose", [x.name], (w, n, c, h), perm=[3, 0, 1, 2])
    folded = b.node("Reshape", [steps.name, b.constant(np.array([w, -1, h]))], (w, n * c, h))
    states = b.node(kind, [folded.name, *weights], (w, 1, n * c, h), hidden_size=h)
    apart = b.node("Reshape", [states.name, b.constant(np.array([w, -1, c, h]))], (w, n, c, h))
    b.hide(steps, folded, states, apart)
    b.node("Transpose", [apart.name], x.shape, perm=[1, 2, 3, 0])


def _window_assignment(b: Builder) -> None:
    """A window of some channels and rows is written over one of another image, other channels of it."""
    x = b.choose.pick(b.images())
    n, c, h, w = x.shape
    other = b.choose.pick([t for t in b.images() if t.shape == x.shape])
    count, top = b.choose.integer(1, c), b.choose.integer(0, h - 1)
    source, target = b.choose.integer(0, c - count), b.choose.integer(0, c - count)
    bounds = [b.constant(np.array(at)) for at in ([source, top], [source + count, h], [1, 2])]
    part = b.node("Slice", [other.name, *bounds], (n, count, h - top, w))
    axes = np.ix_(np.arange(target, target + count), np.arange(top, h))
    positions = b.constant(np.stack(np.broadcast_arrays(*axes), axis=-1))
    front = [b.node("Transpose", [t.name], [t.shape[i] for i in (1, 2, 0, 3)], perm=[1, 2, 0, 3]) for t in (x, part)]
    y = b.node("ScatterND", [front[0].name, positions, front[1].name], front[0].shape)
    b.hide(part, *front, y)  # a batch of any size remains one
    b.node("Transpose", [y.name], x.shape, perm=[2, 0, 1, 3])


def _biased(b: Builder, y: Tensor) -> Tensor:
    return b.node("Add", [y.name, b.weight(y.shape[-1])], y.shape) if b.choose.integer(0, 1) else y


ROW_STEPS: dict[str, Step] = {
    "linear over space": _linear_over_space,
    "linear over tokens": _linear_over_tokens,
    "convolution of folded channels": _convolution_of_folded_channels,
    "recurrent over folded channels": _recurrent_over_folded_channels,
    "window assignment": _window_assignment,
}
