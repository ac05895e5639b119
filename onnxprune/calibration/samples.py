"""Calibration samples of any source, as batches that fit a model; limit, split and progress."""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from onnxprune.calibration.model_input import Feed
from onnxprune.calibration.selection import Selection
from onnxprune.calibration.signature import Signature
from onnxprune.common.text import plural
from onnxprune.errors import DataError, InputError

BATCH_BYTES = 2**26
"""Maximum size in bytes of a batch of more than one sample."""

Progress = Callable[[int, "int | None"], None]
"""Called after each batch with the number of samples so far in this pass and in total (None if unknown)."""


class Source(ABC):
    """A source of samples: in a fixed order, read on demand, checked and cast to the types of the inputs.

    Attributes:
        where: Name of the source in messages.
        axes: Batch axis of every input, along which feeds are cut and joined; None if feeds are not divided, and each
            counts as one sample.
        random: Whether the source supports random access.
        count: Number of samples, None if not known yet.
        seen: Number of samples that have been read so far, a lower bound of the count.
        labels: One entry for each sample, or None.
        classes: How many classes the labels are taken from, if names of folders are the labels; else None.
        unused: Names in the source that are neither inputs nor labels.
    """

    where: str = "calibration data"
    axes: dict[str, int] | None = None
    random: bool = True
    count: int | None = None
    seen: int = 0
    labels: np.ndarray | None = None
    classes: int | None = None
    unused: tuple[str, ...] = ()

    @abstractmethod
    def feeds(self, selection: Selection, batch: int) -> Iterator[Feed]:
        """Yields the selected samples in order, in feeds of any size (at most `batch` samples if they are divided)."""


class Samples:
    """Calibration samples, which can be iterated any number of times, in the same order each time.

    Attributes:
        unused: Names of arrays in the source that are neither inputs nor labels.
        classes: How many classes the labels are taken from, if names of folders are the labels; else None.
    """

    def __init__(
        self,
        source: Source,
        fixed: int | None,
        selection: Selection,
        *,
        batch: int,
        seed: int,
        progress: Progress | None,
    ) -> None:
        self._source = source
        self._left_out: frozenset[str] = frozenset()
        self._group = (fixed or 1) if source.axes else 1  # samples of one batch are never separated
        self._fixed = fixed
        self._selection = selection
        self._batch = batch
        self._seed = seed
        self._progress = progress
        self.unused = source.unused
        self.classes = source.classes

    @property
    def count(self) -> int | None:
        """Number of samples in a pass; None for a stream that has not been read to its end yet."""
        selection, source = self._selection, self._source
        if selection.indices is not None:
            return len(selection.indices)
        total = source.count
        if selection.end is not None and max(source.seen, total or 0) >= selection.end:
            total = selection.end
        return None if total is None else total // self._group * self._group

    @property
    def available(self) -> int | None:
        """Number of samples in the source; None where only reading it to its end tells."""
        return self._source.count if self._source.random else None

    @property
    def parts(self) -> int:
        """Maximum number of parts into which the samples can be split; a stream is read once to count it."""
        if self.count is None:
            for _ in self._source.feeds(self._selection, self._fixed or self._batch):
                pass
        return (self.count or 0) // self._group

    @property
    def positions(self) -> np.ndarray | None:
        """Position of each sample in its source, in the order of `batches`; None where their number is not known."""
        indices = self._selection.indices
        if indices is not None:
            return indices
        return None if self.count is None else np.arange(self.count)

    @property
    def labels(self) -> np.ndarray | None:
        """The labels of these samples in the order of `batches`, shape (count, ...); None if the source has none."""
        labels, indices = self._source.labels, self._selection.indices
        if labels is None:
            return None
        return labels[indices] if indices is not None else labels[: self.count]

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        """Yields batches by input name; treat the arrays as read-only.

        A batch has the model's fixed batch size, else the requested one; fewer at the end, before the shape changes
        from one sample to the next, and if the batch would exceed `BATCH_BYTES`. Samples that do not fill a fixed batch
        are dropped. Feeds that cannot be joined are yielded one at a time.

        Raises:
            InputError: A sample cannot be read or does not fit the model, or there is none.
        """
        size = self._fixed or self._batch
        feeds: Iterator[Feed] = self._source.feeds(self._selection, size)
        if axes := self._source.axes:
            first = next(feeds, None)
            if first is not None:
                feeds = itertools.chain([first], feeds)
                size = self._fixed or min(size, self._max_batch(first))
            feeds = rebatch(feeds, axes, size, exact=self._fixed is not None)
        done = 0
        for feed in feeds:
            yield {name: array for name, array in feed.items() if name not in self._left_out}
            done += self.size(feed)
            if self._progress:
                self._progress(done, self.count)
        if not done:
            raise DataError(f"{self._source.where}: no sample that fills a batch of {self._fixed or 1}")

    __iter__ = batches

    def split(self, fraction: float = 0.2) -> tuple[Samples, Samples]:
        """Splits the samples in two disjoint parts: one for fitting, one held out for evaluation.

        Each part has at least one sample (one batch, if the batch size is fixed) in the order of the source; the
        selection depends on the seed alone. A stream is read once to count it, so an endless one needs a limit.

        Args:
            fraction: Share of held-out samples, 0 < fraction < 1.

        Returns:
            The samples for fitting, and the held-out samples.

        Raises:
            InputError: The fraction is out of range, or there are too few samples for two parts.
        """
        if not 0 < fraction < 1:
            raise InputError(f"fraction must be above 0 and below 1, not {fraction:g}", "0.2 holds a fifth back")
        groups = self.parts
        indices = self._selection.indices
        positions = np.arange(self.count or 0) if indices is None else indices
        if groups < 2:
            raise InputError(
                f"{self._source.where}: {plural(len(positions), 'sample')} cannot be split in two",
                f"give at least {2 * self._group}",
            )
        held_out = np.zeros(groups, dtype=bool)
        order = np.random.default_rng([self._seed, 1]).permutation(groups)
        held_out[order[: min(groups - 1, max(1, round(fraction * groups)))]] = True
        held_out = held_out.repeat(self._group)
        return self._part(positions[~held_out]), self._part(positions[held_out])

    def folds(self, count: int) -> list[tuple[Samples, Samples]]:
        """Splits the samples for cross-validation, by the seed alone.

        Args:
            count: How many folds; fewer are made where there are fewer parts.

        Returns:
            For each fold the other samples and its own: the folds are disjoint, and together all samples.
        """
        parts, indices = self.parts, self._selection.indices  # the parts first: they count a stream
        positions = np.arange(self.count or 0) if indices is None else indices
        order = np.random.default_rng([self._seed, 2]).permutation(parts)
        fold = np.empty(parts, dtype=np.int64)
        fold[order] = np.arange(parts) % count
        fold = fold.repeat(self._group)
        positions = positions[: len(fold)]
        return [(self._part(positions[fold != i]), self._part(positions[fold == i])) for i in range(min(count, parts))]

    def in_batches(self, size: int) -> Samples:
        """The same samples in batches of at most this size, where the model takes any."""
        return self._with(_batch=min(size, self._batch))

    def in_clips(self, size: int) -> Samples:
        """The same samples in batches of this size, which are never separated; those that fill none are left out."""
        selection = self._selection
        if selection.indices is not None:
            selection = Selection(selection.indices[: len(selection.indices) // size * size])
        return self._with(_fixed=size, _selection=selection, _batch=size, _group=size if self._source.axes else 1)

    def silent(self) -> Samples:
        """The same samples, without telling progress: for a look at the first of them."""
        return self._with(_progress=None)

    def without(self, names: Iterable[str]) -> Samples:
        """The same samples without some inputs, for a model that lacks them."""
        return self._with(_left_out=self._left_out.union(names))

    def _part(self, indices: np.ndarray) -> Samples:
        return self._with(_selection=Selection(indices))

    def _with(self, **changes: Any) -> Samples:
        other = copy.copy(self)
        vars(other).update(changes)
        return other

    def _max_batch(self, feed: Feed) -> int:
        """Returns the maximum number of samples of a batch, given a feed of typical size."""
        return max(1, BATCH_BYTES * self.size(feed) // max(sum(array.nbytes for array in feed.values()), 1))

    @property
    def joined(self) -> bool:
        """Whether samples are joined to batches of a size that the model leaves open."""
        return bool(self._source.axes) and self._fixed is None and self._batch > 1

    @property
    def axes(self) -> dict[str, int] | None:
        """Batch axis of every input, along which samples are joined; None where each feed is one sample."""
        axes = self._source.axes
        return axes and {name: axis for name, axis in axes.items() if name not in self._left_out}

    def size(self, feed: Mapping[str, np.ndarray]) -> int:
        """Returns the number of samples in a batch."""
        return count_rows(feed, self._source.axes) if self._source.axes else 1


def choose(source: Source, signature: Signature, *, limit: int | None, seed: int) -> Selection:
    """Selects the samples of a source: all, or `limit` of them at random; of a stream, the first ones.

    Raises:
        InputError: The source or the limit has fewer samples than the model's fixed batch size.
    """
    group = (signature.fixed or 1) if source.axes else 1
    at_least = f"the model takes {group} samples at a time" if group > 1 else "at least 1 is needed"
    if limit is not None and limit < group:
        raise DataError(f"a limit of {limit} samples is too low: {at_least}")
    if source.count is not None and source.count < group:
        raise DataError(f"{source.where}: has {source.count} samples, but {at_least}")
    if not source.random or source.count is None:
        return Selection(end=None if limit is None else limit // group * group)
    groups = source.count // group
    wanted = np.arange(groups)
    if limit is not None and limit // group < groups:
        wanted = np.sort(np.random.default_rng([seed, 0]).permutation(groups)[: limit // group])
    return Selection((wanted[:, None] * group + np.arange(group)).ravel())


def count_rows(feed: Mapping[str, np.ndarray], axes: Mapping[str, int]) -> int:
    """Returns the number of samples in a feed."""
    name, axis = next((name, axis) for name, axis in axes.items() if name in feed)
    return int(feed[name].shape[axis])


def select_rows(feed: Feed, axes: Mapping[str, int], positions: np.ndarray) -> Feed:
    """Returns some samples of a feed; the feed itself if these are all."""
    total = count_rows(feed, axes)
    if len(positions) == total:
        return feed
    if len(positions) and int(positions[-1]) - int(positions[0]) == len(positions) - 1:  # contiguous: a view, no copy
        return _cut(feed, axes, int(positions[0]), int(positions[-1]) + 1)
    return {name: array.take(positions, axis=axes[name]) for name, array in feed.items()}


def rebatch(feeds: Iterator[Feed], axes: Mapping[str, int], size: int, *, exact: bool) -> Iterator[Feed]:
    """Cuts and joins feeds along their batch axes to batches of `size` samples, in order.

    Args:
        feeds: Feeds of any size.
        axes: The batch axis of each input.
        size: Samples per batch; a batch at the end, or before the shapes change, may have fewer.
        exact: Whether a batch of fewer samples at the end is dropped.

    Raises:
        DataError: `exact`, and the shapes change where a batch is not full: which samples are in it would not be known.
    """
    pending: list[Feed] = []
    count = 0  # samples in `pending`
    for feed in feeds:
        if pending and _fixed_lengths(pending[0], axes) != _fixed_lengths(feed, axes):
            if exact:
                raise DataError(
                    f"the model takes {size} samples at a time, and others of another shape follow {count}",
                    f"give {size} samples of each shape in a row, or a multiple",
                )
            yield _concatenate(pending, axes)
            pending, count = [], 0
        start, total = 0, count_rows(feed, axes)
        while start < total:
            stop = min(total, start + size - count)
            pending.append(feed if stop - start == total else _cut(feed, axes, start, stop))
            count, start = count + stop - start, stop
            if count == size:
                yield _concatenate(pending, axes)
                pending, count = [], 0
    if pending and not exact:
        yield _concatenate(pending, axes)


def _cut(feed: Feed, axes: Mapping[str, int], start: int, stop: int) -> Feed:
    return {name: array[(slice(None),) * axes[name] + (slice(start, stop),)] for name, array in feed.items()}


def _fixed_lengths(feed: Feed, axes: Mapping[str, int]) -> list[tuple[int, ...]]:
    """Returns the shapes without the batch axis, which must be equal for feeds to be joined."""
    return [a.shape[: axes[name]] + a.shape[axes[name] + 1 :] for name, a in feed.items()]


def _concatenate(feeds: list[Feed], axes: Mapping[str, int]) -> Feed:
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([feed[name] for feed in feeds], axis=axes[name]) for name in feeds[0]}
