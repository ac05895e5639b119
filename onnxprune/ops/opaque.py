"""Operators that carry few channels or none: signals, images, losses, optionals and strings."""

from __future__ import annotations

from onnxprune.ops.op import Op
from onnxprune.ops.registry import rule


@rule("Optional OptionalGetElement OptionalHasElement", any_rank=True)
def optional(op: Op) -> None:
    """Optional values: pinned."""
    op.pin_all(f"{op.node.label} works on optionals")


@rule("StringNormalizer StringConcat StringSplit RegexFullMatch TfIdfVectorizer", any_rank=True)
def text(op: Op) -> None:
    """Text: pinned."""
    op.pin_all(f"{op.node.label} works on text")


@rule("ImageDecoder", any_rank=True)
@rule("NonMaxSuppression", any_rank=True, shape_from_values=True)
def image(op: Op) -> None:
    """Pictures and boxes: pinned."""
    op.pin_all(f"{op.node.label} works on pictures or boxes")


@rule("NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss", any_rank=True)
def loss(op: Op) -> None:
    """Losses of training: pinned."""
    op.pin_all(f"{op.node.label} is a loss")


@rule("Det")
def determinant(op: Op) -> None:
    """The matrices are pinned, batches pass."""
    x = op.input(0)
    for axis in x.axes()[:-2]:
        op.tie(axis, op.output().axis(axis.position))
    for axis in x.axes()[-2:]:
        op.pin(axis, "a determinant is taken")
