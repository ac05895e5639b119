"""Measures the times of a model at many widths, on sliced copies of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Group
from onnxprune.edit.remove import remove
from onnxprune.engines.times import TimedWidths, Times
from onnxprune.errors import InputError, RunError
from onnxprune.model.model import Model
from onnxprune.planning import plan as planning
from onnxprune.planning.fingerprint import fingerprint
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.timing.engines import Engine, device_name
from onnxprune.timing.kernels import name_nodes, nodes_of_kernels
from onnxprune.timing.samples import sampled_widths

logger = logging.getLogger(__name__)

COPIES = 48
"""Sliced copies that are timed: with fewer the predictions get worse, with more they hardly get better."""

Analyze = Callable[[Model], Coupling]
"""From a copy of the model to its analysis, in the scope of the run."""


def measure_times(
    model: Model,
    coupling: Coupling,
    groups: Sequence[Group],
    analyze: Analyze,
    engine: Engine,
    *,
    input_shapes: Mapping[str, Sequence[int]],
    copies: int = COPIES,
    seed: int = 0,
    before: Times | None = None,
    measured: Callable[[Times], None] = lambda times: None,
) -> Times:
    """The times of a model at many widths.

    Args:
        model: The model; not changed.
        coupling: Its analysis.
        groups: The groups of it whose widths are varied.
        analyze: Analyses a copy in the same way.
        engine: What times the copies.
        input_shapes: Shapes of the inputs that the engine feeds.
        copies: How many sliced copies are timed.
        seed: Seed of the choice of widths.
        before: Measurements of an earlier call that was ended, which are not made again.
        measured: Called with the times so far after each measurement.

    Raises:
        InputError: The engine runs none of the copies, or the earlier measurements are others.
        RunError: The original does not run.
    """
    named = model.copy()
    name_nodes(named.proto)
    positions = [coupling.groups.index(group) for group in groups]
    units = {g.name: g.units for g in groups}
    shapes = {name: list(shape) for name, shape in input_shapes.items()}
    if before is not None and (before.model, before.engine, before.input_shapes) != (
        fingerprint(model.proto),
        engine.name,
        shapes,
    ):
        raise InputError(
            f"the times that there are belong to another model, engine or shape: {before.engine}", "name another file"
        )
    known = {} if before is None else {tuple(sorted(row.removed.items())): row for row in before.rows}
    rows: list[TimedWidths] = []
    timed_now = False

    def found() -> Times:
        time = before.milliseconds if before is not None and not timed_now else engine.milliseconds()
        return Times(fingerprint(model.proto), engine.name, device_name(), time, units, shapes, tuple(rows))

    for removed in [np.zeros(len(groups), dtype=np.int64), *sampled_widths(groups, copies, seed)]:
        lost = {g.name: int(n) for g, n in zip(groups, removed, strict=True) if n}
        if (row := known.get(tuple(sorted(lost.items())))) is not None:
            rows.append(row)
            continue
        copy = named.copy()
        io_slices = take(copy, analyze(copy), positions, removed)
        try:
            ratio, kernels = engine.ratio(copy, io_slices), engine.kernels(copy, io_slices)
        except RunError as error:
            if not rows or error.fatal:
                raise
            logger.warning("a sliced copy does not run: %s", error)
            continue
        logger.debug("copy %d takes %.3f of the time", len(rows), ratio)
        rows.append(TimedWidths(lost, ratio, nodes_of_kernels(named.proto, kernels)))
        timed_now = True
        measured(found())
    if len(rows) < 2:
        raise InputError("no sliced copy of the model could be timed")
    return found()


def take(model: Model, coupling: Coupling, positions: Sequence[int], removed: NDArray[np.int64]) -> IoSlices:
    """Removes the last units of some groups from a model, in place: which units they are changes no time.

    Args:
        model: The model.
        coupling: Its analysis.
        positions: Positions of the groups among those of the analysis.
        removed: Units to remove from each; shape (groups,).

    Returns:
        What inputs and outputs lose.
    """
    gone = np.zeros(coupling.classes.elements, dtype=bool)
    for position, n in zip(positions, removed.tolist(), strict=True):
        group = coupling.groups[position]
        gone[group.channels[group.units - n :]] = True
    return slice_copy(model, coupling, gone)


def slice_copy(model: Model, coupling: Coupling, gone: NDArray[np.bool_]) -> IoSlices:
    """Removes channels from a copy of a model, in place.

    Args:
        model: The copy.
        coupling: Its analysis.
        gone: Boolean per channel id, True for what is removed.

    Returns:
        What inputs and outputs lose.
    """
    if not gone.any():
        return WHOLE
    io_slices = planning.io_slices(planning.make(coupling, gone))
    remove(model, coupling, gone)
    return io_slices
