"""Scores of the single elements of a weight, by which a criterion chooses zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import InputError
from onnxprune.extensions.points import Criterion, call
from onnxprune.extensions.views import GradientMeans, WeightView


def element_scores(
    criterion: Criterion,
    values: NDArray[Any],
    input_rms: NDArray[np.float64] | None = None,
    gradients: GradientMeans | None = None,
) -> NDArray[Any]:
    """The scores of the elements of a weight; magnitudes, where the criterion has no function for elements.

    Args:
        criterion: The criterion.
        values: The weight, dequantized.
        input_rms: See `criterion_views.WeightView`.
        gradients: See `criterion_views.WeightView`.

    Returns:
        Scores, the least important lowest; shape of the weight.

    Raises:
        InputError: The criterion returns something else than a number for each element.
    """
    if criterion.elements is None or (criterion.needs == "gradients" and gradients is None):
        magnitudes: NDArray[Any] = np.abs(values)
        return magnitudes
    found = np.asarray(call("importance", criterion.name, criterion.elements, WeightView(values, input_rms, gradients)))
    if found.shape != values.shape or found.dtype.kind not in "fiub" or _has_nan(found):
        raise InputError(
            f"importance {criterion.name!r} must return a number for each element of a weight of shape "
            f"{values.shape}, not {found.dtype} of shape {found.shape}" + (" with NaN" if _has_nan(found) else "")
        )
    return found.astype(np.float64)


def _has_nan(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" and bool(np.isnan(array).any())
