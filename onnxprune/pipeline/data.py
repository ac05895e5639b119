"""Opens the calibration data of a run and splits them into samples to fit on and held-out samples."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from onnxprune.calibration import Progress, Samples, open_samples
from onnxprune.calibration.signature import signature_of
from onnxprune.calibration.synthetic import Feeds
from onnxprune.errors import RunError, Words, option
from onnxprune.extensions.points import call, sources
from onnxprune.model.model import Model
from onnxprune.options import SAMPLES, Calibration
from onnxprune.runtime.axis_lengths import CLIPS
from onnxprune.runtime.batching import why_not_joined
from onnxprune.runtime.process import Session
from onnxprune.runtime.session import session

logger = logging.getLogger(__name__)


HELD_OUT_SHARE = 0.15
"""Share of the samples that neither scores nor repair see; the reported drift is measured on them."""
LARGE_SHARE, ENOUGH_FITTED, MOST_HELD_OUT = 0.5, 1024, 5000
"""The same where a limit on the drop of a metric is asked for; how many samples are enough to learn from, so that the
rest is held out, and how many are held out at most. Whether a drop is within a point takes hundreds to thousands of
samples to tell, and repair gains little from as many."""
HELD_OUT_FROM = 4
"""With fewer samples than this none is held out, and the report says so."""


COMPARED = 3
"""Samples that are run both together and one by one, to see whether they can be joined."""


SyntheticFeeds = Callable[[], list[Feeds]]
"""Makes inputs where there are no data, the first time that it is asked: scores and every repair have the same."""


@dataclass(frozen=True)
class HeldOut:
    """What held-out samples are for, besides errors of outputs.

    Attributes:
        many: Whether many are needed, for a limit on the drop of a metric.
        confirm: Whether they are divided: a search selects a model on one part and confirms it on the other.
    """

    many: bool = False
    confirm: bool = False


@dataclass(frozen=True)
class CalibrationSplit:
    """Calibration data, divided.

    Attributes:
        fit: What scores and repair learn from.
        held: What the report is measured on; the same as `fit` where there are too few samples for two parts.
        cut: A note that the default limit cut the samples, and of how many; None where it did not.
        unjoined: A warning that samples are not joined to batches of any size, and why; None where they are.
        confirmation: What the model that a search selected is confirmed on; None without a limit on the drop.
    """

    fit: Samples | _Synthetic
    held: Samples | _Synthetic
    unjoined: str | None = field(default=None, kw_only=True)
    cut: str | None = field(default=None, kw_only=True)
    confirmation: Samples | _Synthetic | None = field(default=None, kw_only=True)

    @property
    def held_out(self) -> bool:
        """Whether scores and repair have not seen the samples that the report is measured on."""
        return self.held is not self.fit

    def without(self, names: Collection[str]) -> CalibrationSplit:
        """The same for a model that lacks some inputs."""
        if not names:
            return self
        fit = self.fit.without(names)
        return replace(self, fit=fit, held=self.held.without(names) if self.held_out else fit)


class FirstBatches:
    """Re-iterable prefix of the batches of some samples."""

    def __init__(self, samples: Samples | _Synthetic, count: int) -> None:
        self._samples, self._count = samples, count

    def __iter__(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        seen = 0
        for feeds in self._samples.batches():
            yield feeds
            seen += self._samples.size(feeds)
            if seen >= self._count:
                return


def open_data(
    model: Model,
    calibration: Calibration,
    seed: int = 0,
    progress: Progress | None = None,
    held_out: HeldOut = HeldOut(),
) -> CalibrationSplit | None:
    """Opens the calibration data of a run; None if there are none.

    Args:
        model: The model that they feed.
        calibration: The data.
        seed: Seed of what is drawn at random.
        progress: Called after every batch.
        held_out: What held-out samples are for.

    Raises:
        InputError: They cannot be read or do not fit the model.
    """
    if calibration.data is None:
        return None
    limit = _limit(model, calibration, many=held_out.many)
    samples, unjoined = open_undivided(model, replace(calibration, samples=limit), seed, progress)
    count = max(samples.parts, 1)
    most = MOST_HELD_OUT / count
    share = min(most, max(LARGE_SHARE, 1 - ENOUGH_FITTED / count)) if held_out.many else HELD_OUT_SHARE
    split = CalibrationSplit(*_divided(samples, share, HELD_OUT_FROM))
    if held_out.confirm and split.held_out and split.held.parts > 1:
        held, confirmation = split.held.split(0.5)
        split = replace(split, held=held, confirmation=confirmation)
    count_held = split.held.count if split.held_out else 0
    logger.info("calibration data: %s samples, %s of them held out", samples.count, count_held)
    cut = _cut(samples, limit) if calibration.samples is None else None
    return replace(split, cut=cut, unjoined=unjoined)


def open_undivided(
    model: Model, calibration: Calibration, seed: int = 0, progress: Progress | None = None
) -> tuple[Samples, str | None]:
    """Opens calibration data as one set of samples, in batches that the model takes.

    Returns:
        The samples, and a warning that they are not joined to batches of any size, and why; None where they are.

    Raises:
        InputError: See `open_data`.
    """
    given, limit = _from_registry(calibration.data), _limit(model, calibration)
    folder = None if model.path is None else model.path.parent
    samples = open_samples(given, model.proto, limit=limit, seed=seed, progress=progress, folder=folder)
    runner = session(model)
    samples, unjoined = _in_batches_that_run(runner, samples)
    if unjoined is not None:
        logger.warning("%s", unjoined)
    for feeds in itertools.islice(samples.silent().batches(), 1):
        runner.run(None, feeds)  # before any piece of it: what does not run, or crashes, is reported here
    return samples, unjoined


def _in_batches_that_run(runner: Session, samples: Samples) -> tuple[Samples, str | None]:
    """The samples in batches that the model takes, and what is said where these are not of any size."""
    if not samples.joined:
        return samples, None
    why = _why_one_by_one(runner, samples)
    if why is not None:
        return samples.in_batches(1), f"calibration samples are run one by one, since {why}"
    problem = _problem(runner, samples.in_batches(1))
    for size in CLIPS if problem is not None else ():
        clips = samples.in_clips(size)
        if clips.parts and _problem(runner, clips) is None:
            return clips, f"calibration samples are run {size} at a time, since a single one fails: {problem}"
    return samples, None


def _problem(runner: Session, samples: Samples) -> str | None:
    """Why the model does not take the first batch; None if it does."""
    try:
        runner.run(None, next(samples.silent().batches()))
    except RunError as error:
        if error.fatal:
            raise
        return error.message
    return None


def _limit(model: Model, calibration: Calibration, *, many: bool = False) -> int:
    """How many samples are used at most.

    The default is not too low for a model with a larger batch. Where many are to be held out, these come on top of it.
    """
    if calibration.samples is not None:
        return calibration.samples
    return max(SAMPLES, signature_of(model.proto).fixed or 1) + (MOST_HELD_OUT if many else 0)


def _cut(samples: Samples, limit: int) -> str | None:
    """Says that a limit cut the samples; None where it did not, or where nobody knows."""
    used, available = samples.count or 0, samples.available
    if used < limit if available is None else available <= limit:
        return None
    allows = option("samples", ...) + " allows more"
    if available is None:
        return Words(f"the first {used:,} calibration samples are used, whether or not there are others; {allows}")
    return Words(f"{used:,} of {available:,} calibration samples are used; {allows}")


def _why_one_by_one(runner: Session, samples: Samples) -> str | None:
    """Why samples must be run one by one, though the model's declaration says otherwise; None if they need not."""
    samples = samples.silent()
    joined = next(samples.in_batches(COMPARED).batches())
    singles = list(itertools.islice(samples.in_batches(1).batches(), samples.size(joined)))
    return why_not_joined(runner, joined, singles) if len(singles) > 1 else None


def _from_registry(data: Any) -> Any:
    """Opens ``NAME:REST`` with the registered source NAME; returns anything else unchanged."""
    name, colon, rest = data.partition(":") if isinstance(data, str) else ("", "", "")
    return call("calibration source", name, sources.get(name), rest) if colon and name in sources else data


def _divided(
    samples: Samples | _Synthetic, share: float, fewest: int = 2
) -> tuple[Samples | _Synthetic, Samples | _Synthetic]:
    """Two disjoint parts, the second of this share; twice the same where there are too few."""
    return samples.split(share) if samples.parts >= fewest else (samples, samples)


class _Synthetic:
    """Synthetic samples, held in memory."""

    labels = None
    positions = None

    def __init__(self, batches: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        self._batches = list(batches)

    def __iter__(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        return iter(self._batches)

    batches = __iter__

    @property
    def count(self) -> int:
        """How many samples."""
        return sum(map(self.size, self._batches))

    def size(self, feeds: Mapping[str, NDArray[Any]]) -> int:
        """How many samples a batch has: they lie along axis 0."""
        return max((len(v) for v in feeds.values() if v.ndim), default=1)

    @property
    def parts(self) -> int:
        """Into how many parts they can be split: batches are not split."""
        return len(self._batches)

    def without(self, names: Collection[str]) -> _Synthetic:
        """The same without some inputs."""
        return _Synthetic([{n: a for n, a in feeds.items() if n not in names} for feeds in self._batches])

    def split(self, fraction: float) -> tuple[_Synthetic, _Synthetic]:
        """Two disjoint parts, the second of this share."""
        back = min(self.parts - 1, max(1, round(fraction * self.parts)))
        return _Synthetic(self._batches[:-back]), _Synthetic(self._batches[-back:])
