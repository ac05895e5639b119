"""Measured times of a model at several widths, as data that can be made on one machine and read on another."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from onnxprune.errors import InputError

VERSION = 1


@dataclass(frozen=True)
class TimedWidths:
    """What a model takes with some units of its groups removed.

    Attributes:
        removed: Group -> how many of its units are removed, where that is more than none.
        ratio: Time of the whole model over that of the original, measured in alternation.
        nodes: Time of the kernels that compute a node of the original, by its first output, in milliseconds; empty
            where the engine tells no more than the time of the whole model.
    """

    removed: Mapping[str, int]
    ratio: float
    nodes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Times:
    """What one device and engine take for a model, as a function of how many units of each group are left.

    Attributes:
        model: Fingerprint of the model (`planning.fingerprint`): the times hold for every checkpoint of it.
        engine: What ran it, for people: engine, version, provider, threads.
        device: Where it ran, for people.
        milliseconds: Time of the original.
        units: Units of each group that was open to pruning.
        input_shapes: Shapes of the inputs it was measured at.
        rows: The measurements.
    """

    model: str
    engine: str
    device: str
    milliseconds: float
    units: Mapping[str, int]
    input_shapes: Mapping[str, list[int]]
    rows: tuple[TimedWidths, ...]

    def __repr__(self) -> str:
        return f"Times({self.milliseconds:.3g} ms on {self.engine}, {len(self.rows)} measurements)"

    def scaled(self, milliseconds: float) -> Times:
        """The same where the original takes so long: a machine is not equally fast all the time."""
        factor = milliseconds / self.milliseconds
        rows = [replace(row, nodes={name: factor * ms for name, ms in row.nodes.items()}) for row in self.rows]
        return replace(self, milliseconds=milliseconds, rows=tuple(rows))

    def to_json(self) -> str:
        """The times as JSON text."""
        return json.dumps({"version": VERSION, **asdict(self)}, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Times:
        """Reads times.

        Raises:
            InputError: The text holds no times of this version.
        """
        try:
            data = json.loads(text)
            if data.pop("version") != VERSION:
                raise InputError(f"the times are not of version {VERSION}", "measure them again")
            rows = tuple(_row(row) for row in data.pop("rows"))
            found = cls(**data, rows=rows)
            _check(found)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError("the file holds no times", "onnxprune measure MODEL -o FILE makes them") from None
        return found


def _row(data: Mapping[str, Any]) -> TimedWidths:
    return TimedWidths(
        {str(name): int(n) for name, n in data["removed"].items()},
        float(data["ratio"]),
        {str(name): float(ms) for name, ms in data["nodes"].items()},
    )


def _check(times: Times) -> None:
    """Raises ValueError for what cannot have been measured."""
    numbers = [times.milliseconds, *(row.ratio for row in times.rows)]
    if not times.rows or not all(math.isfinite(n) and n > 0 for n in numbers):
        raise ValueError("times are positive numbers")
    if not all(ms >= 0 and math.isfinite(ms) for row in times.rows for ms in row.nodes.values()):
        raise ValueError("times are no less than zero")
    for row in times.rows:
        if not all(0 <= n < times.units[name] for name, n in row.removed.items()):
            raise ValueError("more is removed than there is")
