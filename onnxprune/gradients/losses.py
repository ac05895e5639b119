"""Losses as nodes of the graph, so that they are differentiated with it.

All compare values of shape (positions, channels) with targets of the same shape, and sum over the positions with
weights of shape (positions, 1).
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto

from onnxprune.ops.gradients.writer import Writer

SMALLEST = 1e-6
"""Probabilities are taken for at least this, so that their logarithm is finite."""


def rows(write: Writer, name: str, order: Sequence[int] | None, channels: int) -> str:
    """A value as a matrix of shape (positions, channels).

    Args:
        write: Adds nodes.
        name: The value.
        order: Its axes with those of the channels at the end; None where they are there already.
        channels: Number of channels.
    """
    moved = name if order is None else write.emit("Transpose", name, perm=list(order))
    return write.reshape(moved, [-1, channels])


def centred(write: Writer, scores: str, channels: int) -> str:
    """Scores less their mean over the channels: a softmax sees only differences."""
    mean = write.emit("Mul", write.reduce_sum(scores, [1], keepdims=True), _number(write, 1 / channels))
    return write.emit("Sub", scores, mean)


def squared_error(write: Writer, values: str, target: str, weights: str | None) -> str:
    """Weighted sum of the squared differences; with the weight 1 where there are no weights."""
    gap = write.emit("Sub", values, target)
    square = write.emit("Mul", gap, gap)
    return _summed(write, square if weights is None else write.emit("Mul", square, weights))


def divergence(write: Writer, scores: str, target: str, weights: str, temperature: float) -> str:
    """Kullback-Leibler divergence of softmaxes, times the square of the temperature.

    Hinton et al., "Distilling the knowledge in a neural network", 2015: the square keeps the size of the gradients.

    Args:
        write: Adds nodes.
        scores: Scores of the model that is trained.
        target: Scores of its teacher.
        weights: Weights of the positions.
        temperature: What all scores are divided by.
    """
    cooled = [write.emit("Mul", one, _number(write, 1 / temperature)) for one in (scores, target)]
    mine, wanted = (write.emit("LogSoftmax", one, axis=1) for one in cooled)
    each = write.emit("Mul", write.emit("Exp", wanted), write.emit("Sub", wanted, mine))
    total = _summed(write, write.emit("Mul", each, weights))
    return write.emit("Mul", total, _number(write, temperature**2))


def binary_divergence(write: Writer, probabilities: str, target: str, weights: str) -> str:
    """Kullback-Leibler divergence of probabilities that stand alone, each of one class."""
    low = _number(write, SMALLEST)
    one = _number(write, 1)

    def parts(name: str) -> tuple[str, str]:
        safe = write.emit("Max", name, low)
        return safe, write.emit("Max", write.emit("Sub", one, name), low)

    terms = []
    for mine, wanted in zip(parts(probabilities), parts(target), strict=True):
        ratio = write.emit("Sub", write.emit("Log", wanted), write.emit("Log", mine))
        terms.append(write.emit("Mul", wanted, ratio))
    return _summed(write, write.emit("Mul", write.emit("Add", *terms), weights))


def cross_entropy(write: Writer, scores: str, target: str) -> str:
    """Sum over the positions of the cross-entropy of a softmax with given probabilities."""
    return write.emit("Neg", _summed(write, write.emit("Mul", target, write.emit("LogSoftmax", scores, axis=1))))


def binary_cross_entropy(write: Writer, probabilities: str, target: str) -> str:
    """Sum of the cross-entropies of probabilities that stand alone with given ones."""
    low, one = _number(write, SMALLEST), _number(write, 1)
    terms = []
    rest, other = (write.emit("Sub", one, name) for name in (probabilities, target))
    for mine, wanted in ((probabilities, target), (rest, other)):
        terms.append(write.emit("Mul", wanted, write.emit("Log", write.emit("Max", mine, low))))
    return write.emit("Neg", _summed(write, write.emit("Add", *terms)))


def binary_cross_entropy_of_scores(write: Writer, scores: str, target: str) -> str:
    """The same of the sigmoids of scores, whose gradient does not vanish where a score is surely wrong."""
    return _summed(write, write.emit("Sub", write.emit("Softplus", scores), write.emit("Mul", target, scores)))


def inner_product(write: Writer, values: str, other: str) -> str:
    """Sum of the products of two matrices' elements: its gradient by the one is the other."""
    return _summed(write, write.emit("Mul", values, other))


def weighted_total(write: Writer, terms: Sequence[tuple[str, float]]) -> str:
    """A sum of losses, each times a number."""
    scaled = [write.emit("Mul", name, _number(write, weight)) for name, weight in terms]
    return write.total(scaled)


def _summed(write: Writer, name: str) -> str:
    """The sum of all elements, as a vector of one."""
    flat = write.reshape(name, [-1])
    return write.reduce_sum(flat, [0], keepdims=True)


def _number(write: Writer, value: float) -> str:
    return write.number(value, TensorProto.FLOAT)
