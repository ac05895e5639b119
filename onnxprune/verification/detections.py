"""What an output finds that decides at many positions of a sample, beside what its original finds there.

Most positions are background, and equal choices there say nothing. So what counts are the positions where either model
finds something: F1 with the original's finds as the truth, 2 both / (before + after). In a map of classes (of a
segmentation, say) classes count alike, however few positions they have: the mean over classes of the intersection over
the union. What is lost counts every difference by how much more probable the original's choice was to the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph.operators import Postprocessing
from onnxprune.verification.comparable_outputs import Component
from onnxprune.verification.decisions import Decisions, class_mean_estimate, ratio_estimate, softmax
from onnxprune.verification.output_values import BACKGROUND, Reference, Values

Array = NDArray[Any]
Floats = NDArray[np.float64]
_Key = tuple[str, int, bool]
"""An output, its number of channels, and whether it is a map of classes."""
FOUND = 0.5
"""A sigmoid finds what it gives a higher probability."""


class DetectionSums:
    """Collects what the outputs of two models find, sample by sample."""

    def __init__(self, components: Sequence[Component]) -> None:
        """Begins without a sample.

        Args:
            components: What the outputs are that arrays are given of.
        """
        self._components = components
        self._counts: dict[_Key, list[Floats]] = {}

    def add(self, before: Sequence[Reference | None], after: Sequence[Values | None]) -> None:
        """Adds a batch of compared values."""
        batch: dict[_Key, Floats] = {}
        for component, a, b in zip(self._components, before, after, strict=True):
            if component.scores is None or a is None or b is None or b.at is None or a.array.shape != b.array.shape:
                continue
            shape, channels = (b.at[0], -1, a.array.shape[1]), a.array.shape[1]
            scores = a.array.reshape(shape), np.nan_to_num(b.array).reshape(shape)
            found = (_of_sigmoid if component.scores is Postprocessing.SIGMOID else _of_softmax)(*scores)
            is_map = component.scores is Postprocessing.SOFTMAX and sum(length > 1 for length in b.at[1:]) > 1
            key = component.output, channels, is_map
            batch[key] = batch[key] + found if key in batch else found  # heads of one output
        for key, found in batch.items():
            self._counts.setdefault(key, []).append(found)

    def decisions(self) -> Mapping[str, Decisions]:
        """What was found, by output; nothing of those that find nothing, or at one position only."""
        made = [(key[0], _decisions(key, np.concatenate(parts))) for key, parts in self._counts.items()]
        worst: dict[str, Decisions] = {}
        for output, one in made:
            if one is not None and (output not in worst or worst[output].lost.mean < one.lost.mean):
                worst[output] = one
        return worst


def _of_softmax(before: Array, after: Array) -> Floats:
    """Counts of each class: found before, after, by both, and what is lost; shape (samples, classes, 4)."""
    classes = before.shape[2]
    p = softmax(before, 2)
    a, b = before.argmax(axis=2), after.argmax(axis=2)
    less = np.take_along_axis(p, a[..., None], 2)[..., 0] - np.take_along_axis(p, b[..., None], 2)[..., 0]

    def counts(i: int) -> Array:
        x, y, lost = a[i], b[i], less[i]
        both, differ = x[x == y], x != y
        missed, false = (np.bincount(c[differ], lost[differ], minlength=classes) for c in (x, y))
        return np.stack([*(np.bincount(c, minlength=classes) for c in (x, y, both)), missed + false], axis=1)

    return np.stack([counts(i) for i in range(len(a))]).astype(np.float64)


def _of_sigmoid(before: Array, after: Array) -> Floats:
    """The same for channels that are classes each by itself, and for the background as a class before all others."""
    a, b = before > FOUND, after > FOUND
    lost = np.where(a != b, np.abs(before - FOUND) / FOUND, 0.0)
    found = np.stack([x.sum(axis=1) for x in (a, b, a & b, lost)], axis=2).astype(np.float64)
    empty = np.zeros((len(found), 1, 4))
    empty[..., :3] = before.shape[1] * before.shape[2]
    return np.concatenate([empty, found], axis=1)


def _decisions(key: _Key, counts: Floats) -> Decisions | None:
    """Agreement and loss over all classes but the background; None where none of them is found."""
    output, _, is_map = key
    total = counts[..., 0].sum(axis=0)
    background = int(total.argmax())
    if total[background] > BACKGROUND * total.sum():
        counts = np.delete(counts, background, axis=1)
    if not counts[..., :2].any():
        return None
    before, after, both, lost = np.moveaxis(counts, -1, 0)
    known = before.sum(axis=0) > 0
    if is_map and known.any():
        union = before + after - both
        same, gone = (class_mean_estimate(parts, union, known) for parts in (both, lost))
        return Decisions(output, same, gone, positions=True, by_class=True)
    before, after, both, lost = (one.sum(axis=1) for one in (before, after, both, lost))
    return Decisions(
        output, ratio_estimate(2 * both, before + after), ratio_estimate(lost, before + after), positions=True
    )
