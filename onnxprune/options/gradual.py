"""Options of pruning while a model is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxprune.errors import InputError, option
from onnxprune.extensions import patterns, points
from onnxprune.extensions.patterns import CHANNELS, Pattern
from onnxprune.extensions.points import Criterion
from onnxprune.extensions.registry import one_of
from onnxprune.options import checks

SCHEDULES = ("cubic", "linear")
STEPS = 10
MOVEMENT = "movement"


@dataclass(frozen=True)
class GradualOptions:
    """What is pruned while a model is trained.

    Attributes:
        schedule: How the share rises; None for nothing.
        start: Share at the beginning.
        end: Share at the end.
        steps: Number of steps.
        pattern: The pattern of zeros; None for channels.
        importance: Name of what scores.
        criterion: What scores; None for movement.
    """

    schedule: str | None = None
    start: float = 0.0
    end: float = 0.0
    steps: int = STEPS
    pattern: Pattern | None = None
    importance: str = "l2"
    criterion: Criterion | None = None

    @classmethod
    def of(
        cls,
        schedule: str | None,
        start: float | None,
        end: float | None,
        steps: int | None,
        pattern: str | Pattern | None,
        importance: str | None,
    ) -> GradualOptions:
        """The options, checked.

        Raises:
            InputError: One is unusable, or given without a schedule.
        """
        if schedule is None:
            given = {"start": start, "end": end, "steps": steps, "pattern": pattern, "importance": importance}
            asked = next((name for name, value in given.items() if value is not None), None)
            if asked is not None:
                raise InputError(
                    f"{option(asked)} says how to prune while the model is trained, which nothing asks for",
                    f"give {option('schedule', 'cubic')}",
                )
            return cls()
        one_of("schedule", schedule, SCHEDULES)
        zeros = None if pattern is None or pattern == CHANNELS else _pattern(pattern)
        last = _end(zeros, end)
        first = 0.0 if start is None else checks.number("start", start)
        if not 0 <= first <= last < 1:
            raise InputError(
                f"shares must rise from 0 at least to below 1, not from {first:g} to {last:g}",
                f"{option('start', 0)} {option('end', 0.5)}, say",
            )
        count = STEPS if steps is None else checks.whole("steps", steps, 1)
        name = "l2" if importance is None else importance
        return cls(schedule, first, last, count, zeros, name, _criterion(name, zeros))

    def to_dict(self) -> dict[str, Any]:
        """The options by their names, nothing where no schedule is asked for."""
        if self.schedule is None:
            return {}
        return {
            "schedule": self.schedule,
            "start": self.start,
            "end": self.end,
            "steps": self.steps,
            "pattern": CHANNELS if self.pattern is None else str(self.pattern),
            "importance": self.importance,
        }


def _pattern(given: str | Pattern) -> Pattern:
    return given if isinstance(given, Pattern) else patterns.parse(given)


def _end(zeros: Pattern | None, end: float | None) -> float:
    """The share at the end, which a pattern may say too."""
    if zeros is not None and not zeros.takes_share:
        if end is not None:
            raise InputError(f"pattern {str(zeros)!r} says by itself how much", f"leave {option('end')} away")
        return 1 - (zeros.kept or 0) / zeros.width
    said = None if zeros is None else zeros.share
    if said is None and end is None:
        raise InputError(
            f"{option('end')} says how much is pruned in the end, and is missing", f"give {option('end', 0.5)}, say"
        )
    if said is not None and end is not None:
        raise InputError(f"pattern {str(zeros)!r} says how much, and so does {option('end')}", "say it once")
    return checks.number("end", said if end is None else end)


def _criterion(name: str, zeros: Pattern | None) -> Criterion | None:
    """The criterion of a name; None for movement."""
    if name == MOVEMENT:
        return None
    found = points.as_criterion(name)
    fits = found.channels if zeros is None else found.zeros
    if found.from_data or not fits:
        raise InputError(
            f"importance {name!r} does not choose {'channels' if zeros is None else 'zeros'} by weights alone",
            f"{MOVEMENT}, l2 and l1 do",
        )
    return found
