"""Samples, wherever they come from, as batches that a model takes."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.model_input import Feed
from onnxprune.calibration.signature import Interface
from onnxprune.errors import DataError, InputError

BATCH_BYTES = 2**26
"""What a batch of samples may take, if it has more than one."""

Progress = Callable[[int, "int | None"], None]
"""Called with the samples handed out so far in a pass, and how many there are, where known."""


@dataclass(frozen=True)
class Chosen:
    """Which samples of a source are wanted.

    Attributes:
        indices: Their places, ascending; None for all of them.
        end: Where all are wanted, the place before which to stop; None for no limit.
    """

    indices: np.ndarray | None = None
    end: int | None = None

    def within(self, start: int, stop: int) -> np.ndarray:
        """The wanted places of a range, counted from its start."""
        if self.indices is None:
            return np.arange(max(0, (stop if self.end is None else min(stop, self.end)) - start))
        low, high = np.searchsorted(self.indices, (start, stop))
        return np.asarray(self.indices[low:high]) - start

    def ended(self, start: int) -> bool:
        """Whether nothing is wanted from this place on."""
        if self.indices is None:
            return self.end is not None and start >= self.end
        return not len(self.indices) or start > int(self.indices[-1])


class Source(ABC):
    """Where samples come from: always in the same order, read as they are asked for, already checked and cast.

    Attributes:
        where: What to call it in messages.
        axes: The axis of every input along which feeds may be cut and joined; None where feeds stay whole, and each
            counts as one sample.
        random: Whether any sample can be had without what comes before it.
        count: Samples in it, None while not known.
        seen: Samples that are there at the least.
        labels: One entry for each sample, or None.
        unused: Names in it that mean nothing to the model.
    """

    where: str = "calibration data"
    axes: dict[str, int] | None = None
    random: bool = True
    count: int | None = None
    seen: int = 0
    labels: np.ndarray | None = None
    unused: tuple[str, ...] = ()

    @abstractmethod
    def feeds(self, chosen: Chosen, batch: int) -> Iterator[Feed]:
        """The wanted samples in order, in feeds of any size (where it can be chosen, at most `batch`)."""


class Samples:
    """Calibration samples: can be passed over any number of times, in the same order each time.

    Attributes:
        unused: Names in the source that mean nothing to the model (arrays beside its inputs and labels).
    """

    def __init__(
        self, source: Source, fixed: int | None, chosen: Chosen, *, batch: int, seed: int, progress: Progress | None
    ) -> None:
        self._source = source
        self._group = (fixed or 1) if source.axes else 1  # samples that stay together
        self._fixed = fixed
        self._chosen = chosen
        self._batch = batch
        self._seed = seed
        self._progress = progress
        self.unused = source.unused

    @property
    def count(self) -> int | None:
        """Samples that a pass hands out; None for a stream that was not read to its end yet."""
        chosen, source = self._chosen, self._source
        if chosen.indices is not None:
            return len(chosen.indices)
        total = source.count
        if chosen.end is not None and max(source.seen, total or 0) >= chosen.end:
            total = chosen.end
        return None if total is None else total // self._group * self._group

    @property
    def parts(self) -> int:
        """Into how many parts the samples can be split at most; a stream is read through once, to count it."""
        if self.count is None:
            for _ in self._source.feeds(self._chosen, self._fixed or self._batch):
                pass
        return (self.count or 0) // self._group

    @property
    def labels(self) -> np.ndarray | None:
        """What the source holds under `labels` for these samples, in the order of `batches`; None if nothing.

        Shape (count, ...).
        """
        labels, indices = self._source.labels, self._chosen.indices
        if labels is None:
            return None
        return labels[indices] if indices is not None else labels[: self.count]

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        """Feeds for a model, by input name; treat the arrays as read-only.

        A batch has as many samples as the model insists on, else as many as were asked for (the last one fewer, and
        so where the shapes change from one sample to the next), or fewer where they would take more than
        `BATCH_BYTES`. What does not fill a fixed batch is dropped. Feeds
        that cannot be joined come one by one.

        Raises:
            InputError: A sample cannot be read or does not fit the model, or there is none.
        """
        size = self._fixed or self._batch
        feeds: Iterator[Feed] = self._source.feeds(self._chosen, size)
        if axes := self._source.axes:
            first = next(feeds, None)
            if first is not None:
                feeds = itertools.chain([first], feeds)
                size = self._fixed or min(size, self._fitting(first))
            feeds = regrouped(feeds, axes, size, exact=self._fixed is not None)
        done = 0
        for feed in feeds:
            yield feed
            done += self._size(feed)
            if self._progress:
                self._progress(done, self.count)
        if not done:
            raise DataError(f"{self._source.where}: no sample that fills a batch of {self._fixed or 1}")

    __iter__ = batches

    def split(self, fraction: float = 0.2) -> tuple[Samples, Samples]:
        """Two disjoint parts: one to fit on, one held out to judge on.

        Each has at least one sample (one batch, where the model insists on its size); which ones depends on the seed
        alone. Both keep the order of the source. A stream is read through once, to count it: give an
        endless one a limit.

        Args:
            fraction: Share of the samples to hold back, 0 < fraction < 1.

        Raises:
            InputError: The fraction is out of range, or there are too few samples for two parts.
        """
        if not 0 < fraction < 1:
            raise InputError(f"fraction must be above 0 and below 1, not {fraction:g}", "0.2 holds a fifth back")
        groups = self.parts
        indices = self._chosen.indices
        places = np.arange(self.count or 0) if indices is None else indices
        if groups < 2:
            raise InputError(
                f"{self._source.where}: {len(places)} sample{'s' if len(places) != 1 else ''} cannot be split in two",
                f"give at least {2 * self._group}",
            )
        held = np.zeros(groups, dtype=bool)
        order = np.random.default_rng([self._seed, 1]).permutation(groups)
        held[order[: min(groups - 1, max(1, round(fraction * groups)))]] = True
        held = held.repeat(self._group)
        return self._part(places[~held]), self._part(places[held])

    def folds(self, count: int) -> list[tuple[Samples, Samples]]:
        """Splits the samples for cross-validation, by the seed alone.

        Args:
            count: How many folds; fewer are made where there are fewer parts.

        Returns:
            For each fold the other samples and its own: the folds are disjoint, and together all samples.
        """
        indices = self._chosen.indices
        positions = np.arange(self.count or 0) if indices is None else indices
        order = np.random.default_rng([self._seed, 2]).permutation(self.parts)
        fold = np.empty(self.parts, dtype=np.int64)
        fold[order] = np.arange(self.parts) % count
        fold = fold.repeat(self._group)
        positions = positions[: len(fold)]
        return [
            (self._part(positions[fold != i]), self._part(positions[fold == i])) for i in range(min(count, self.parts))
        ]

    def in_batches(self, size: int) -> Samples:
        """The same samples in batches of at most this size, where the model takes any."""
        return Samples(
            self._source,
            self._fixed,
            self._chosen,
            batch=min(size, self._batch),
            seed=self._seed,
            progress=self._progress,
        )

    def _part(self, indices: np.ndarray) -> Samples:
        return Samples(
            self._source, self._fixed, Chosen(indices), batch=self._batch, seed=self._seed, progress=self._progress
        )

    def _fitting(self, feed: Feed) -> int:
        """How many samples of such a size a batch may have."""
        return max(1, BATCH_BYTES * self._size(feed) // max(sum(array.nbytes for array in feed.values()), 1))

    def _size(self, feed: Feed) -> int:
        return rows_of(feed, self._source.axes) if self._source.axes else 1


def choose(source: Source, interface: Interface, *, limit: int | None, seed: int) -> Chosen:
    """The samples to use of a source: all, or a number of them drawn by the seed; of a stream, the first ones.

    Raises:
        InputError: The source or the limit has fewer than the model takes at a time.
    """
    group = (interface.fixed or 1) if source.axes else 1
    at_least = f"the model takes {group} samples at a time" if group > 1 else "at least 1 is needed"
    if limit is not None and limit < group:
        raise DataError(f"a limit of {limit} samples is too low: {at_least}")
    if source.count is not None and source.count < group:
        raise DataError(f"{source.where}: has {source.count} samples, but {at_least}")
    if not source.random or source.count is None:
        return Chosen(end=None if limit is None else limit // group * group)
    groups = source.count // group
    wanted = np.arange(groups)
    if limit is not None and limit // group < groups:
        wanted = np.sort(np.random.default_rng([seed, 0]).permutation(groups)[: limit // group])
    return Chosen((wanted[:, None] * group + np.arange(group)).ravel())


def rows_of(feed: Feed, axes: Mapping[str, int]) -> int:
    """Samples in a feed."""
    name, axis = next(iter(axes.items()))
    return int(feed[name].shape[axis])


def taken(feed: Feed, axes: Mapping[str, int], places: np.ndarray) -> Feed:
    """Some samples of a feed; the feed itself where these are all."""
    total = rows_of(feed, axes)
    if len(places) == total:
        return feed
    if len(places) and int(places[-1]) - int(places[0]) == len(places) - 1:  # a view does
        return _cut(feed, axes, int(places[0]), int(places[-1]) + 1)
    return {name: array.take(places, axis=axes[name]) for name, array in feed.items()}


def regrouped(feeds: Iterator[Feed], axes: Mapping[str, int], size: int, *, exact: bool) -> Iterator[Feed]:
    """Feeds cut and joined along their batch axes to `size` samples, without changing the order.

    Args:
        feeds: What comes in, of any sizes.
        axes: The batch axis of each input.
        size: Samples in what goes out; at the end, and before shapes change, fewer may be left over.
        exact: Whether these are dropped.
    """
    pending: list[Feed] = []
    held = 0
    for feed in feeds:
        if pending and _frame(pending[0], axes) != _frame(feed, axes):
            if not exact:
                yield _joined(pending, axes)
            pending, held = [], 0
        start, total = 0, rows_of(feed, axes)
        while start < total:
            stop = min(total, start + size - held)
            pending.append(feed if stop - start == total else _cut(feed, axes, start, stop))
            held, start = held + stop - start, stop
            if held == size:
                yield _joined(pending, axes)
                pending, held = [], 0
    if pending and not exact:
        yield _joined(pending, axes)


def _cut(feed: Feed, axes: Mapping[str, int], start: int, stop: int) -> Feed:
    return {name: array[(slice(None),) * axes[name] + (slice(start, stop),)] for name, array in feed.items()}


def _frame(feed: Feed, axes: Mapping[str, int]) -> list[tuple[int, ...]]:
    """Shapes without the batch axis: what must be equal for feeds to be joined."""
    return [a.shape[: axes[name]] + a.shape[axes[name] + 1 :] for name, a in feed.items()]


def _joined(feeds: list[Feed], axes: Mapping[str, int]) -> Feed:
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([feed[name] for feed in feeds], axis=axes[name]) for name in feeds[0]}
