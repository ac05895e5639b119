"""Opens the calibration data of a run and splits them into samples to fit on and held-out samples."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnxprune.calibration import Progress, Samples, open_samples
from onnxprune.calibration.synthetic import Feeds
from onnxprune.extensions import sources
from onnxprune.model.model import Model
from onnxprune.options import Calibration
from onnxprune.runtime.session import session

logger = logging.getLogger(__name__)


HELD_OUT_SHARE = 0.15
"""Share of the samples that neither scores nor repair see; the reported drift is measured on them."""


SyntheticFeeds = Callable[[], list[Feeds]]
"""Makes inputs where there are no data, the first time that it is asked: scores and every repair have the same."""


@dataclass(frozen=True)
class CalibrationSplit:
    """Calibration data, divided.

    Attributes:
        fit: What scores and repair learn from.
        held: What the report is measured on; the same as `fit` where there is one sample only.
        batches: How many batches `fit` has.
    """

    fit: Samples | _Synthetic
    held: Samples | _Synthetic
    batches: int


class _First:
    """The first batches of some samples, as often as they are asked for."""

    def __init__(self, samples: Samples | _Synthetic, count: int) -> None:
        self._samples, self._count = samples, count

    def __iter__(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        seen = 0
        for feeds in self._samples.batches():
            yield feeds
            seen += max((len(v) for v in feeds.values() if v.ndim), default=1)
            if seen >= self._count:
                return


def open_data(
    model: Model, calibration: Calibration, seed: int = 0, progress: Progress | None = None
) -> CalibrationSplit | None:
    """The calibration data of a run, None where none are given; `progress` hears of every batch that is read.

    Raises:
        InputError: They cannot be read or do not fit the model.
    """
    if calibration.data is None:
        return None
    given = _from_registry(calibration.data)
    samples = open_samples(given, model.proto, limit=calibration.samples, seed=seed, progress=progress)
    fit, held = _divided(samples, HELD_OUT_SHARE)
    logger.info("calibration data: %d samples, %d of them held back", samples.count, held.count)
    learned = CalibrationSplit(fit, held, sum(1 for _ in fit.batches()))
    for feeds in itertools.islice(held.batches(), 1):
        session(model).run(None, feeds)  # before any piece of it: what does not run, or crashes, is told here
    return learned


def _from_registry(data: Any) -> Any:
    """What a registered source opens for ``NAME:REST``; anything else as it is."""
    name, colon, rest = data.partition(":") if isinstance(data, str) else ("", "", "")
    return sources.get(name)(rest) if colon and name in sources else data


def _divided(samples: Samples | _Synthetic, share: float) -> tuple[Samples | _Synthetic, Samples | _Synthetic]:
    """Two disjoint parts, the second of this share; twice the same where there are too few."""
    return samples.split(share) if samples.parts > 1 else (samples, samples)


class _Synthetic:
    """Made-up samples, held in memory."""

    labels = None

    def __init__(self, batches: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        self._batches = list(batches)

    def __iter__(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        return iter(self._batches)

    batches = __iter__

    @property
    def count(self) -> int:
        """How many samples."""
        return sum(max((len(v) for v in feeds.values() if v.ndim), default=1) for feeds in self._batches)

    @property
    def parts(self) -> int:
        """Into how many parts they can be split: batches stay whole."""
        return len(self._batches)

    def split(self, fraction: float) -> tuple[_Synthetic, _Synthetic]:
        """Two disjoint parts, the second of this share."""
        back = min(self.parts - 1, max(1, round(fraction * self.parts)))
        return _Synthetic(self._batches[:-back]), _Synthetic(self._batches[-back:])
