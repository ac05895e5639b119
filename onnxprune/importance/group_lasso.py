"""A penalty that makes coupled groups of channels small while a model is trained in any framework."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from onnxprune.coupling.groups import Grade, Group
from onnxprune.errors import InputError

TINY = 1e-12
"""Added to squared norms: the root has a derivative at zero then."""


def group_lasso(groups: Sequence[Group], parameters: Mapping[str, Any]) -> Any:
    """The group lasso of coupled channels: the sum of the norms of what each channel owns.

    ``sum over groups of sqrt(n) * sum over channels of |w_c|``, with n the weights that a channel owns and w_c all of
    them, in every layer that makes or reads the channel (Yuan and Lin, "Model selection and estimation in regression
    with grouped variables", 2006; Wen et al., "Learning structured sparsity in deep neural networks", NIPS 2016). It is
    computed by products, sums, powers and indices alone, so that tensors of PyTorch give one with a gradient.

    Args:
        groups: Groups of an analysis (`Analysis.groups`); those that cannot be pruned exactly are left out.
        parameters: Arrays or tensors by the names that the constants of the model have; others are left out.

    Raises:
        InputError: None of the groups has a parameter of these names.
    """
    total = None
    for group in groups:
        if group.grade is not Grade.EXACT:
            continue
        squares, size = None, 0
        for s in group.slices:
            if s.value.key in parameters:
                weight = parameters[s.value.key]
                others = tuple(axis for axis in range(len(weight.shape)) if axis != s.axis)
                along = (weight * weight).sum(others) if others else weight * weight
                part = along[s.indices].sum(1)
                squares = part if squares is None else squares + part
                size += s.indices.shape[1] * math.prod(weight.shape[axis] for axis in others)
        if squares is not None:
            term = ((squares + TINY) ** 0.5).sum() * float(size) ** 0.5
            total = term if total is None else total + term
    if total is None:
        raise InputError("no parameter has the name of a constant of the groups", "names are those of the model")
    return total
