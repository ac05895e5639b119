"""Operators that carry few channels or none: signals, images, losses, optionals and strings."""

from __future__ import annotations

import math

from onnxprune.ops.registry import rule
from onnxprune.ties import Op, arange


@rule("Optional", "OptionalGetElement", "OptionalHasElement", any_rank=True)
def optional(op: Op) -> None:
    """Optional values: pinned."""
    op.pin_all(f"{op.node.label} works on optionals")


@rule("StringNormalizer", "StringConcat", "StringSplit", "RegexFullMatch", "TfIdfVectorizer", any_rank=True)
def text(op: Op) -> None:
    """Text: pinned."""
    op.pin_all(f"{op.node.label} works on text")


@rule("STFT", "MelWeightMatrix", "HannWindow", "HammingWindow", "BlackmanWindow", any_rank=True)
def signal(op: Op) -> None:
    """Signal frames, windows and filter banks: pinned."""
    op.pin_all(f"{op.node.label} works on signals")


@rule("ImageDecoder", "NonMaxSuppression", any_rank=True)
def image(op: Op) -> None:
    """Pictures and boxes: pinned."""
    op.pin_all(f"{op.node.label} works on pictures or boxes")


@rule("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", any_rank=True)
def loss(op: Op) -> None:
    """Losses of training: pinned."""
    op.pin_all(f"{op.node.label} is a loss")


@rule("BitCast")
def bit_cast(op: Op) -> None:
    """Element by element, as long as the shape stays."""
    x, out = op.input(0), op.output()
    if x.shape != out.shape:
        op.pin_all(f"{op.node.label} changes the shape")
        return
    for axis in x.axes():
        op.tie(axis, out.axis(axis.position), zero=True)


@rule("CumProd")
def cumulative_product(op: Op) -> None:
    """A running product mixes its axis."""
    x, out = op.input(0), op.output()
    along = op.numbers(1)
    if along is None:
        op.pin_all(f"{op.node.label} takes its axis from the run")
        return
    multiplied = int(along[0]) % len(x.shape or [1])
    for axis in x.axes():
        op.tie(axis, out.axis(axis.position), zero=axis.position != multiplied)
        if axis.position == multiplied:
            op.mix(axis)
            op.ordered(axis)


@rule("CenterCropPad")
def center_crop_pad(op: Op) -> None:
    """Crops or pads around the middle: those axes are pinned, the others pass."""
    x, out = op.input(0), op.output()
    rank = len(x.shape or [])
    cut = {a % rank for a in op.attr("axes") or range(rank)}
    for axis in x.axes():
        target = out.axis(axis.position)
        if axis.position in cut:
            op.pin(axis, f"{op.node.label} cuts it around its middle")
            op.pin(target, f"{op.node.label} cuts it around its middle")
        else:
            op.tie(axis, target, zero=True)


@rule("Col2Im")
def columns_to_image(op: Op) -> None:
    """Puts the columns of a convolution back: a channel owns all places of its kernel."""
    x, out = op.input(0), op.output()
    kernel = op.numbers(2)
    if kernel is None:
        op.pin_all(f"{op.node.label} takes its kernel from the run")
        return
    op.tie(x.axis(0), out.axis(0), zero=True)
    op.link((x.axis(1), arange(x.axis(1)) // math.prod(int(k) for k in kernel)), (out.axis(1), arange(out.axis(1))))
    op.keep_zero(out.axis(1), x.axis(1))
    for axis in [x.axis(2), *out.axes()[2:]]:
        op.pin(axis, f"{op.node.label} moves blocks along it")


@rule("DFT")
def fourier(op: Op) -> None:
    """Transforms one axis, which is pinned; the others pass."""
    x, out = op.input(0), op.output()
    rank = len(x.shape or [])
    along = op.numbers(2) if op.opset >= 20 and op.has(2) else [op.attr("axis", 1 if op.opset < 20 else -2)]
    if along is None:
        op.pin_all(f"{op.node.label} takes its axis from the run")
        return
    pinned = {int(along[0]) % rank, rank - 1}
    for axis in x.axes():
        target = out.axis(axis.position)
        if axis.position in pinned:
            op.pin(axis, f"{op.node.label} transforms it")
            op.pin(target, f"{op.node.label} transforms it")
        else:
            op.tie(axis, target, zero=True)


@rule("Det")
def determinant(op: Op) -> None:
    """The matrices are pinned, batches pass."""
    x = op.input(0)
    for axis in x.axes()[:-2]:
        op.tie(axis, op.output().axis(axis.position))
    for axis in x.axes()[-2:]:
        op.pin(axis, "a determinant is taken")


@rule("TensorScatter")
def tensor_scatter(op: Op) -> None:
    """Writes into a cache at positions that data give: batch and that axis are pinned, the others pass."""
    cache, update, out = op.input(0), op.input(1), op.output()
    along = op.attr("axis", -2) % len(cache.shape or [1])
    for value in (cache, update, out):
        for position in (0, along):
            op.pin(value.axis(position), f"{op.node.label} addresses it by position")
    for axis in cache.axes():
        if axis.position not in (0, along):
            op.tie(axis, update.axis(axis.position))
            op.tie(axis, out.axis(axis.position))
            op.keep_zero(out.axis(axis.position), axis, update.axis(axis.position))
