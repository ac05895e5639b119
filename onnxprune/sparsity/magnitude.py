"""Zeros by magnitude or another score of single elements, set in the stored weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.extensions.patterns import Pattern
from onnxprune.extensions.points import Criterion
from onnxprune.graph.graph import Value
from onnxprune.importance.element_scores import element_scores
from onnxprune.layers.dequantize import dequantised
from onnxprune.layers.real_values import real_numbers
from onnxprune.layers.weights import finite_part
from onnxprune.model.model import Model
from onnxprune.model.values import Made
from onnxprune.sparsity.layout import Weight
from onnxprune.sparsity.masks import Mask
from onnxprune.sparsity.zeroed import FLOATS, Zeroed, ZeroMask, block_masks, magnitude_bits, zero_bits


def zero_smallest(
    model: Model,
    coupling: Coupling,
    targets: Sequence[Weight],
    pattern: Pattern,
    across: bool,
    criterion: Criterion | None = None,
    scores: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, ZeroMask]:
    """Sets the smallest elements of weights to zero, in place; those of a quantized weight to its zero point.

    Args:
        model: The analyzed model.
        coupling: Its analysis.
        targets: The weights; patterns other than ``weights`` need their layout.
        pattern: The pattern.
        across: Whether to rank the elements or blocks of all weights together, after dividing each weight by its root
            mean square.
        criterion: What scores the elements, if it needs nothing but weights; by default their magnitude.
        scores: Scores of the elements of weights, by qualified name, where they are known already; they compare across
            weights, and with no other scores: a weight that has none loses the share by itself.

    Returns:
        Qualified name of each constant -> mask of the elements that were set to zero.
    """
    chosen = dict[str, Mask]()
    scorer = criterion if criterion is not None and criterion.needs == "weights" else None
    known = {} if scores is None else scores
    if across:
        ranked = [w for w in targets if scores is None or w.value.key in scores]
        sizes = [_scores(model, coupling, w.value, scorer) if scores is None else known[w.value.key] for w in ranked]
        more = {} if scores is None else {"scaled": False}
        masks = pattern.masks(sizes, [w.layout for w in ranked], **more)
        chosen = {w.value.key: mask for w, mask in zip(ranked, masks, strict=True)}
    done = {}
    for weight in targets:
        assert weight.value.tensor is not None
        key = weight.value.key
        if key not in chosen and key not in known and (scorer is None or scorer.elements is None):
            found = _zero_when_read(model, coupling, weight, pattern)
            if found is not None:
                done[key] = found
                continue
        array = model.array(weight.value.tensor)  # once: each access to an inline tensor copies it
        if key in chosen:
            zeroed = chosen[key]
        elif key in known:
            zeroed = pattern.mask(known[key], weight.layout)
        elif scorer is not None and scorer.elements is not None:
            zeroed = pattern.mask(_scores(model, coupling, weight.value, scorer, array), weight.layout)
        else:
            zeroed = pattern.mask(_magnitudes(model, coupling, weight.value, array, pattern), weight.layout)
        if zeroed.any():
            zero_elements(model, coupling, weight.value, zeroed, array)
            done[key] = ZeroMask.of(zeroed)
    return done


def _zero_when_read(model: Model, coupling: Coupling, weight: Weight, pattern: Pattern) -> ZeroMask | None:
    """Sets the smallest elements of a large weight in a data file to zero when it is read; None for any other."""
    tensor = weight.value.tensor
    assert tensor is not None
    if weight.value in coupling.ties.quantised or not model.is_streamed(tensor):
        return None
    masks = block_masks(model.values(tensor), pattern, weight.layout)
    if masks is None or not masks.count:
        return None
    model.set_values(tensor, Zeroed(masks))
    return ZeroMask(masks.count / math.prod(tensor.dims), masks.whole)


def _scores(
    model: Model, coupling: Coupling, value: Value, scorer: Criterion | None, array: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Scores of the elements of a weight by their real values; infinite for what is not finite. Shape of the weight."""
    values = real_values(model, coupling, value, array)
    finite = np.isfinite(values)
    scores = element_scores(scorer, finite_part(values)) if scorer is not None else np.abs(values)
    return scores if finite.all() else np.where(finite, scores, np.inf)


def _magnitudes(model: Model, coupling: Coupling, value: Value, array: NDArray[Any], pattern: Pattern) -> NDArray[Any]:
    """Returns scores that rank the elements of a weight by magnitude; shape of the weight.

    For floats these are the bits without the sign, which have the same order and need no conversion. Blocks are ranked
    by sums, and quantized weights by real values, so these need the magnitudes themselves.
    """
    array = np.ascontiguousarray(array)
    if not (pattern.elementwise or pattern.local) or array.dtype.name not in FLOATS or value in coupling.ties.quantised:
        return _scores(model, coupling, value, None, array)
    return magnitude_bits(array)


def zero_elements(
    model: Model, coupling: Coupling, value: Value, zeroed: Mask, array: NDArray[Any] | None = None
) -> None:
    """Sets the masked elements of one constant to zero, in place.

    Args:
        model: The analyzed model.
        coupling: Its analysis.
        value: The constant.
        zeroed: Mask of the elements; shape of the constant.
        array: The stored values, if they have been read already.
    """
    assert value.tensor is not None
    if model.is_streamed(value.tensor):
        source, mask = model.values(value.tensor), ZeroMask.of(zeroed)
        made = Made(
            source.shape, source.dtype, lambda: with_zeros(model, coupling, value, source.array(), mask.array())
        )
        model.set_values(value.tensor, made)
        return
    array = model.array(value.tensor) if array is None else array
    model.set_array(value.tensor, with_zeros(model, coupling, value, array, zeroed))


def with_zeros(model: Model, coupling: Coupling, value: Value, array: NDArray[Any], zeroed: Mask) -> NDArray[Any]:
    """Returns an array with its masked elements set to zero, or to the zero point if the constant is quantized."""
    if value in coupling.ties.quantised:
        _, zero, axis = coupling.ties.quantised[value]
        if zero is not None and zero.tensor is not None:
            points = -model.array(zero.tensor).astype(np.float32)
            nothing = dequantised(np.zeros(array.shape, np.float32), np.ones(1, np.float32), points, axis)
            return np.where(zeroed, nothing.astype(array.dtype), array)
    return zero_bits(array, zeroed)


def real_values(
    model: Model, coupling: Coupling, value: Value, array: NDArray[Any] | None = None
) -> NDArray[np.float32]:
    """Returns the real (dequantized) values of a weight; `array` are the stored values, if read already."""
    assert value.tensor is not None
    array = model.array(value.tensor) if array is None else array
    parameters = coupling.ties.quantised.get(value)
    return array.astype(np.float32) if parameters is None else real_numbers(model, array, *parameters)
