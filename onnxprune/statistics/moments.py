"""Moments of the inputs of linear layers, gathered from calibration data.

All statistics are sums over samples, so that moments of parts of the data can be gathered separately and added.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.common.checkpoint import step_of_run
from onnxprune.common.executor import each, sorted_by_task
from onnxprune.common.progress import part
from onnxprune.common.storable import storable
from onnxprune.cost.measure import static_shapes
from onnxprune.graph.graph import Graph
from onnxprune.layers.find import linear_layers
from onnxprune.layers.linear import LinearLayer
from onnxprune.model.model import Model
from onnxprune.model.skeleton import inlined_skeleton
from onnxprune.runtime.free_memory import heaps
from onnxprune.runtime.parallel import in_order
from onnxprune.runtime.partition import assemble, partition
from onnxprune.runtime.session import Feeds, local_session
from onnxprune.statistics.covariance import Centred, mean

Batches = Iterable[Mapping[str, NDArray[np.generic]]]

MAX_ROWS = 120_000
"""Maximum number of sampled positions (rows) of a layer."""
MAX_BYTES = 2**28
"""Maximum size in bytes of the sampled patches of a layer, and of its sampled outputs."""
SHARDS = 16
"""Parts of the batches that moments are gathered from one by one, at most: each may be gathered on another machine."""
FEWEST = 2
"""Batches of such a part, at least: while the moments of one are computed, the next is run."""
BATCHES_HELD = 4
"""Batches whose activations are in memory at a time: one is read, two are run ahead, one is being computed."""
MANY_COLUMNS = 512
"""Columns from which on the moments of one layer at a time are computed, on all cores."""


@dataclass(frozen=True)
class Rows:
    """How many positions (rows) are sampled of a layer, up to `MAX_ROWS`.

    Attributes:
        a_column: For each column of its matrix.
        least: At least.
    """

    a_column: int
    least: int

    def share(self, share: float) -> Rows:
        """As many for a share of the samples."""
        return Rows(round(share * self.a_column), round(share * self.least))


REPAIR_ROWS = Rows(200, 16_384)
"""For a layer that is refitted."""
MOMENT_ROWS = Rows(50, 16_384)
"""For moments, which need fewer rows since they only rank channels."""


@storable
@dataclass
class Moments:
    """First and second moments of a layer's input patches.

    Attributes:
        count: Number of rows.
        total: Sum of the rows; shape (groups, columns).
        gram: Sum of the outer products of the rows; shape (groups, columns, columns).
        zeros: Number of zeros; shape (groups, columns).
    """

    count: int
    total: NDArray[np.float64]
    gram: NDArray[np.float64]
    zeros: NDArray[np.int64]

    @classmethod
    def of(cls, rows: NDArray[np.float32]) -> Moments:
        """Returns the moments of rows of shape (groups, n, columns); rows that are not finite are skipped."""
        finite = np.isfinite(rows).all(axis=(0, 2))
        rows = rows if finite.all() else rows[:, finite]
        count, seen = rows.shape[1], Centred.of(rows)
        zeros = np.rint(count * mean((rows == 0).astype(np.float32))).astype(np.int64)
        return cls.from_covariance(count, count * seen.mean, seen.covariance, zeros)

    @classmethod
    def from_covariance(
        cls, count: int, total: NDArray[np.float64], covariance: NDArray[np.float64], zeros: NDArray[np.int64]
    ) -> Moments:
        """Returns the moments of `count` rows from their sum and covariance; shapes as those of the attributes."""
        mean = total / max(count, 1)
        return cls(count, total, count * (covariance + mean[:, :, None] * mean[:, None]), zeros)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count, self.total + other.total, self.gram + other.gram, self.zeros + other.zeros
        )

    def covariance(self, group: int) -> NDArray[np.float64]:
        """Returns the covariance of one group; shape (columns, columns)."""
        mean = self.total[group] / max(self.count, 1)
        result: NDArray[np.float64] = self.gram[group] / max(self.count, 1) - np.outer(mean, mean)
        return result


def means(moments: Mapping[str, Moments]) -> dict[str, NDArray[np.float64]]:
    """Returns the means of the inputs of layers, by name; shape (groups, columns) each."""
    return {name: seen.total / max(seen.count, 1) for name, seen in moments.items()}


def rows_for(columns: int, batches: int, rows: Rows = REPAIR_ROWS, *, width: int = 0, memory: int | None = None) -> int:
    """Returns the number of positions to sample per batch for a layer.

    Args:
        columns: Columns of the layer's matrix, of one group.
        batches: Number of batches.
        rows: How many rows to sample in total.
        width: Elements of a row that are held: columns of all groups, or outputs where these are more.
        memory: Maximum size in bytes of the activations in memory, of which sampled outputs may take a third.
    """
    room = MAX_BYTES if memory is None else min(MAX_BYTES, memory // 3)
    total = min(max(rows.least, rows.a_column * columns), MAX_ROWS, max(1, room // (4 * max(columns, width))))
    return -(-total // max(batches, 1))


def observe(
    model: Model, layers: Sequence[LinearLayer], batches: Batches, *, count: int, seed: int = 0, memory: int = 2**30
) -> dict[str, Moments]:
    """Gathers the moments of the inputs of linear layers, in one or several passes over the batches.

    Args:
        model: The model that the layers belong to.
        layers: Its layers, in topological order.
        batches: Calibration feeds.
        count: Number of batches.
        seed: Seed of the sampled positions.
        memory: Maximum size in bytes of the activations in memory; if they are larger, several passes are made.

    Returns:
        Moments by name of the layer.

    Raises:
        CannotCut: The input of a layer cannot be the output of a session (see `partition`).
    """
    found: dict[str, Moments] = {}
    first = next(iter(batches), None)
    if first is None:
        return found
    parts = _split_layers(model, layers, first, memory // BATCHES_HELD)
    size = max(FEWEST, -(-count // SHARDS))
    shards = -(-count // size)
    for number, mine in enumerate(parts):
        with part(number / len(parts), (number + 1) / len(parts)):
            gathering = _Gathering(model, mine, first, count, seed, memory)
            tasks = ((mine[0].name, shard) for shard in _shards(batches, size))
            found |= step_of_run("moments", partial(_summed, gathering, tasks, shards))
        heaps.trim(memory // 4)
    return found


def _summed(gathering: _Gathering, tasks: Iterable[tuple[str, _Shard]], count: int) -> dict[str, Moments]:
    found: dict[str, Moments] = {}
    for seen in sorted_by_task(each(gathering, tasks, count)):
        for name, moments in seen.items():
            found[name] = found[name] + moments if name in found else moments
    return found


@dataclass(frozen=True)
class _Shard:
    """Consecutive batches: what is gathered from them does not depend on who gathers the rest."""

    number: int
    batches: list[Mapping[str, NDArray[np.generic]]]


def _shards(batches: Batches, size: int) -> Iterator[_Shard]:
    rest = iter(batches)
    for number in itertools.count():
        taken = list(itertools.islice(rest, size))
        if not taken:
            return
        yield _Shard(number, taken)


class _Gathering:
    """Gathers the moments of the inputs of some layers from a shard."""

    def __init__(
        self, model: Model, layers: Sequence[LinearLayer], first: Feeds, count: int, seed: int, memory: int
    ) -> None:
        names = list(dict.fromkeys(name for layer in layers for name in (layer.x.name, layer.name)))
        (piece,) = partition(model.proto, [names], first)
        self._model, self._layers, self._first = model, layers, first
        self._count, self._seed, self._memory = count, seed, memory
        self._outputs = piece.outputs
        self._runner = local_session(model.part(assemble(model.proto, piece, {})))

    def __reduce__(self) -> tuple[Any, ...]:
        names = [layer.name for layer in self._layers]
        return _received, (self._model, names, dict(self._first), self._count, self._seed, self._memory)

    def __call__(self, shard: _Shard) -> dict[str, Moments]:
        found: dict[str, Moments] = {}
        draws = {
            layer.name: np.random.default_rng([self._seed, layer.node.index, shard.number]) for layer in self._layers
        }
        held: dict[str, list[NDArray[np.float32]]] = {layer.name: [] for layer in self._layers}
        inputs = ({name: feeds[name] for name in self._runner.inputs if name in feeds} for feeds in shard.batches)
        for feeds, outputs in zip(shard.batches, self._runner.each(inputs, self._outputs, ahead=2), strict=True):
            values = {**feeds, **dict(zip(self._outputs, outputs, strict=True))}
            last = feeds is shard.batches[-1]
            for layer, seen in self._of_batch(values, draws, held, last):
                found[layer] = found[layer] + seen if layer in found else seen
        return found

    def _of_batch(
        self,
        values: Mapping[str, Any],
        draws: Mapping[str, np.random.Generator],
        held: Mapping[str, list[NDArray[np.float32]]],
        last: bool,
    ) -> Iterator[tuple[str, Moments]]:
        """Moments of the layers, those with few columns at a time, of the others one by one.

        Rows are held until there are as many as columns: products of fewer cost little beside the matrices that they
        make, which are as large then.

        Args:
            values: Activations of a batch.
            draws: Generators of the positions of each layer.
            held: The rows of earlier batches that are not counted yet, by layer; changed.
            last: Whether no batch follows.
        """

        def of(layer: LinearLayer) -> tuple[str, Moments] | None:
            width = layer.groups * layer.columns
            rows = rows_for(layer.columns, self._count, MOMENT_ROWS, width=width, memory=self._memory)
            positions = layer.draw(values[layer.name].shape, draws[layer.name], rows)
            mine = held[layer.name]
            mine.append(layer.patches(np.asarray(values[layer.x.name]), positions))
            if not last and sum(one.shape[1] for one in mine) < layer.columns:
                return None
            together = mine[0] if len(mine) == 1 else np.concatenate(mine, axis=1)
            mine.clear()
            return layer.name, Moments.of(together)

        yield from filter(None, in_order(of, [layer for layer in self._layers if layer.columns < MANY_COLUMNS]))
        yield from filter(None, map(of, [layer for layer in self._layers if layer.columns >= MANY_COLUMNS]))


def _received(model: Model, names: Sequence[str], first: Feeds, count: int, seed: int, memory: int) -> _Gathering:
    layers = {layer.name: layer for layer in linear_layers(Graph(model.proto))}
    return _Gathering(model, [layers[name] for name in names], first, count, seed, memory)


def _split_layers(model: Model, layers: Sequence[LinearLayer], feeds: Feeds, memory: int) -> list[list[LinearLayer]]:
    """Splits layers into parts whose inputs and outputs take at most `memory` bytes per batch."""
    proto = inlined_skeleton(model.proto)
    shapes = static_shapes(proto, {name: a.shape for name, a in feeds.items()})
    found: list[list[LinearLayer]] = []
    size = memory
    for layer in layers:
        known = [shapes.get(v) for v in (layer.x.name, layer.name)]
        more = sum(4 * math.prod(s) if s is not None else memory // 8 for s in known)
        if size + more > memory:
            found.append([])
            size = 0
        found[-1].append(layer)
        size += more
    return found
