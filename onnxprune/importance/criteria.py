"""The built-in importance criteria: pure functions of the weights of a unit, or of the layers that read it."""

from __future__ import annotations

import numpy as np

from onnxprune.extensions.points import Criterion, criteria
from onnxprune.extensions.views import GroupView, WeightView
from onnxprune.importance import activation
from onnxprune.importance.geometric_median import fpgm
from onnxprune.importance.magnitude import Scores, lamp


def _l1(group: GroupView) -> Scores:
    return group.sums(1)


def _l2(group: GroupView) -> Scores:
    norms: Scores = np.sqrt(group.sums(2))
    return norms


def _random(group: GroupView) -> Scores:
    return group.rng.random(group.units)


def _taylor(group: GroupView) -> Scores:
    """First order: how much the loss of a sample changes at the rate at which it does when a unit begins to go.

    Molchanov et al., "Pruning convolutional neural networks for resource efficient inference", ICLR 2017: the mean of
    the absolute value over the samples.
    """
    found: Scores = np.abs(_gates(group)).mean(axis=0)
    return found


def _fisher(group: GroupView) -> Scores:
    """The root of what the loss rises by to second order, with the Fisher information in place of the curvature.

    ``sqrt(E[(dL/dgate)^2] / 2)`` (Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018).
    """
    found: Scores = np.sqrt(np.square(_gates(group)).mean(axis=0) / 2)
    return found


def _gates(group: GroupView) -> Scores:
    gates = group.gate_gradients()
    assert gates is not None  # else it is scored by its weights
    return gates


def _taylor_of_elements(weight: WeightView) -> Scores:
    assert weight.gradients is not None
    found: Scores = np.abs(weight.values) * weight.gradients.absolute
    return found


def _fisher_of_elements(weight: WeightView) -> Scores:
    """Optimal brain damage with the Fisher information as the curvature (LeCun et al., NIPS 1989)."""
    assert weight.gradients is not None
    found: Scores = np.square(weight.values) * weight.gradients.square / 2
    return found


for _criterion in (
    Criterion("l1", _l1, zeros=True),
    Criterion("l2", _l2, zeros=True),
    Criterion("fpgm", lambda group: fpgm(group.rows())),
    Criterion("lamp", lambda group: lamp(group.sums(2)), scale="none"),
    Criterion("bn-scale", lambda group: group.norm_scale()),
    Criterion("random", _random, scale="none"),
    Criterion("obs", None, "moments", zeros=True, sequential=True),
    Criterion("wanda", lambda group: activation.wanda(group.consumers()), "moments", zeros=True),
    Criterion("flap", lambda group: activation.flap(group.consumers()), "moments", "standard"),
    Criterion("apoz", lambda group: activation.apoz(group.consumers()), "moments", "none"),
    Criterion("sparsegpt", None, "moments", zeros=True),
    Criterion("alps", None, "moments", zeros=True),
    Criterion("taylor", _taylor, "gradients", "none", zeros=True, elements=_taylor_of_elements),
    Criterion("fisher", _fisher, "gradients", "none", zeros=True, elements=_fisher_of_elements),
    Criterion("snip", None, "gradients", "none", zeros=True, saliency="snip"),
    Criterion("grasp", None, "gradients", "none", zeros=True, saliency="grasp"),
    Criterion("synflow", None, "weights", "none", zeros=True, saliency="synflow"),
):
    criteria.add(_criterion.name, _criterion)
