"""Calibration data that are generated on demand: iterables, functions, onnxruntime's data readers."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from onnxprune.calibration.disk_cache import DiskCache
from onnxprune.calibration.labels import StreamLabels
from onnxprune.calibration.model_input import Feed
from onnxprune.calibration.samples import Source, select_rows
from onnxprune.calibration.selection import Selection
from onnxprune.calibration.signature import Signature
from onnxprune.errors import DataError, InputError, OnnxPruneError

Checked = tuple[Feed, "int | None", tuple[str, ...]]
"""A checked feed, the number of its samples (None if it cannot be divided), and names that are not inputs."""
_REREAD_HINT = "give data in a fixed order (no shuffling), or a one-shot iterator, which is kept: iter(data)"


class Stream(Source):
    """Feeds from an object that is iterated again for every pass, or cached if it can be iterated only once.

    One feed at a time is in memory, besides the cache. The first feed is read at once, to report errors early.

    Args:
        origin: An iterable, a callable that returns one, or an object with `get_next()`.
        signature: The model's inputs.
        where: Name of the source in messages.
        memory: Maximum size in bytes of the cache in memory; the rest is written to temporary files.

    Raises:
        InputError: There is no feed, or the first one does not fit.
    """

    random = False

    def __init__(self, origin: Any, signature: Signature, where: str, memory: int) -> None:
        self.where = where
        self.axes = signature.axes if signature.certain else None
        self._signature = signature
        self._passes, one_shot = _passes(origin, where)
        self._digest: int | None = None
        self._failure: OnnxPruneError | None = None
        self._cache = DiskCache(signature, memory) if one_shot else None
        self._labels = StreamLabels(where)
        self._source = _checked(self._passes(), signature, where, self._labels)
        try:
            self._first: Checked | None = next(self._source)
        except StopIteration:
            raise DataError(f"{where}: has no samples") from None
        self.unused = self._first[2]
        if self._cache is not None:
            self._cache.append(self._first[0])

    @property
    def labels(self) -> np.ndarray | None:  # type: ignore[override]
        """The labels of the samples that were read so far; None if they have none."""
        return self._labels.found()

    def feeds(self, selection: Selection, batch: int) -> Iterator[Feed]:
        """See `Source`."""
        start = 0
        feeds = self._new_pass() if self._cache is None else self._cached_pass(self._cache)
        while not selection.exhausted(start):
            entry = next(feeds, None)
            if entry is None:
                self.count = self.seen = start
                return
            feed, rows, _ = entry
            count = 1 if rows is None else rows
            positions = selection.within(start, start + count)
            start += count
            self.seen = max(self.seen, start)
            if len(positions):
                yield feed if rows is None or self.axes is None else select_rows(feed, self.axes, positions)

    def _new_pass(self) -> Iterator[Checked]:
        """One pass: continues the one that read the first feed, or starts another and compares its first feed."""
        if self._first is not None:
            first, self._first = self._first, None
            self._digest = _digest(first[0])
            yield first
            yield from self._source
            return
        feeds = _checked(self._passes(), self._signature, self.where, self._labels)
        first_again = next(feeds, None)
        if first_again is None or _digest(first_again[0]) != self._digest:
            what = "nothing" if first_again is None else "other samples"
            raise InputError(f"{self.where}: gives {what} the second time it is read", _REREAD_HINT)
        yield first_again
        yield from feeds

    def _cached_pass(self, cache: DiskCache) -> Iterator[Checked]:
        """One pass: the cached feeds, then those that have not been read yet; concurrent passes are allowed."""
        index = 0
        while True:
            if index == len(cache):
                if self._failure:  # a generator that has raised behaves like one that has ended
                    raise self._failure
                try:
                    entry = next(self._source, None)
                    if entry is None:
                        return
                    cache.append(entry[0])
                except OnnxPruneError as error:
                    self._failure = error
                    raise
            feed = cache[index]
            index += 1
            yield feed, self._signature.rows({name: a.shape for name, a in feed.items()}, self.where), self.unused


def _checked(items: Iterator[Any], signature: Signature, whole: str, labels: StreamLabels) -> Iterator[Checked]:
    """Yields checked feeds and collects their labels; exceptions of the caller's code are converted to `InputError`."""
    start = 0
    while True:
        where = f"{whole}: sample {start}"
        try:
            item = next(items)
        except StopIteration:
            return
        except OnnxPruneError:
            raise
        except Exception as error:
            raise DataError(f"{where} (from 0) could not be read: {type(error).__name__}: {error}") from error
        feed, rows = signature.read(item, where)
        given, count = signature.named(item, where), 1 if rows is None else rows
        label = signature.label_name(given, where)
        labels.add(start, count, label, None if label is None else given[label], where)
        # A copy: generators may reuse the same array for the next sample.
        yield {name: array.copy() for name, array in feed.items()}, rows, signature.extra(given)
        start += count


def _digest(feed: Feed) -> int:
    total = 0
    for array in feed.values():
        plain = array.astype(str) if array.dtype == object else array
        total = zlib.crc32(np.ascontiguousarray(plain).tobytes(), total)
    return total


def _passes(origin: Any, where: str) -> tuple[Callable[[], Iterator[Any]], bool]:
    """Returns a function that starts a pass, and whether it can be called only once."""
    if hasattr(origin, "get_next"):
        reader = _Reader(origin, where)
        return reader.begin, not hasattr(origin, "rewind")
    if callable(origin):
        return lambda: _call(origin, where), False
    iterator = _iterator(origin, where)
    if iterator is origin:
        return lambda: iterator, True
    return lambda: _iterator(origin, where), False


class _Reader:
    """An object with `get_next()` and mostly `rewind()`; it allows one pass at a time."""

    def __init__(self, reader: Any, where: str) -> None:
        self._reader, self._where, self._pass = reader, where, 0

    def begin(self) -> Iterator[Any]:
        self._pass += 1
        own = self._pass
        if own > 1:
            self._reader.rewind()
        while (item := self._reader.get_next()) is not None:
            yield item
            if own != self._pass:
                raise InputError(f"{self._where}: was rewound while it was being read", "finish one pass first")


def _call(function: Callable[[], Any], where: str) -> Iterator[Any]:
    try:
        made = function()
    except OnnxPruneError:
        raise
    except Exception as error:
        raise DataError(f"{where}: calling it failed: {type(error).__name__}: {error}") from error
    if hasattr(made, "get_next"):
        return _Reader(made, where).begin()
    return _iterator(made, where)


def _iterator(origin: Any, where: str) -> Iterator[Any]:
    try:
        return iter(origin)
    except Exception as error:
        raise InputError(
            f"{where}: is {type(origin).__name__}, which gives no samples",
            "give dicts of arrays, one after the other, by input name",
        ) from error
