"""The built-in importance criteria: pure functions of the weights of a unit, or of the layers that read it."""

from __future__ import annotations

import numpy as np

from onnxprune.extensions.points import Criterion, GroupView, criteria
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
):
    criteria.add(_criterion.name, _criterion)
