"""Saliency of weights before a training: what of an untrained model its training will need.

Each function gives every element of every weight a number; a unit has the sum over what its readers have for it
(`importance.gates`). SNIP: how the loss depends on a connection, ``w dL/dw`` (Lee et al., ICLR 2019). GraSP: how the
gradient's norm, the speed at which the loss falls, depends on it, ``w (H g)`` (Wang et al., "Picking winning tickets
before training by preserving gradient flow", ICLR 2020). Synaptic flow, which needs no data, is in `synflow`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.model.model import Model
from onnxprune.statistics.weight_gradients import GradientData, SampleGradients, mean_gradients

Array = NDArray[Any]
Floats = NDArray[np.float64]

STEP = 1e-2
"""Length of the step along the gradient that curvature is measured with, as a share of that of the weights."""


def snip(model: Model, weights: Mapping[str, Array], data: GradientData) -> dict[str, Floats]:
    """``w dL/dw`` with the mean gradient over the samples, by the name of the weight.

    Args:
        model: The model.
        weights: The weights by name.
        data: The samples, with labels if possible.
    """
    gradients = mean_gradients(SampleGradients(model, weights, data))
    return {name: weights[name] * g for name, g in gradients.items()}


def grasp(model: Model, weights: Mapping[str, Array], data: GradientData) -> dict[str, Floats]:
    """``w (H g)``; the product with the Hessian is a central difference of gradients along the gradient.

    Removing a weight changes the squared norm of the gradient by -2 w (H g) to first order, so that what is lowest is
    removed first.

    Args:
        model: The model.
        weights: The weights by name.
        data: The samples, with labels if possible.
    """
    samples = SampleGradients(model, weights, data)
    gradients = mean_gradients(samples)
    length = np.sqrt(sum(float(np.square(g).sum()) for g in gradients.values()))
    size = np.sqrt(sum(float(np.square(weights[n], dtype=np.float64).sum()) for n in gradients))
    step = STEP * size / max(length, 1e-30)
    ends = []
    for sign in (1, -1):
        samples.weights = {n: (weights[n] + sign * step * g).astype(weights[n].dtype) for n, g in gradients.items()}
        ends.append(mean_gradients(samples))
    return {n: weights[n] * (ends[0][n] - ends[1][n]) / (2 * step) for n in gradients}
