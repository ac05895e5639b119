"""Which criterion options may ask for."""

from __future__ import annotations

from typing import Any

from onnxprune.errors import InputError, option
from onnxprune.extensions import points
from onnxprune.extensions.patterns import Pattern
from onnxprune.extensions.points import Criterion
from onnxprune.options.parts import choosers

BY_DATA, BY_WEIGHTS = "obs", "l2"
"""Default criteria: with data, and without."""
NO_STEPS = "steps need calibration data, importance 'obs' and channels to remove"


def or_empty(value: Any) -> Any:
    """The value; an empty mapping for None."""
    return {} if value is None else value


def from_data(name: str) -> bool:
    """Whether a criterion takes calibration data."""
    return points.criteria.get(name).from_data


def by_moments(name: str) -> bool:
    """Whether a criterion takes moments of data, which statistics in a file are."""
    return points.criteria.get(name).needs == "moments"


def check_importance(wanted: Criterion | None, removes: bool, zeros: Pattern | None) -> None:
    """Raises InputError for a criterion that ranks neither channels nor zeros as requested."""
    if wanted is None:
        return
    if zeros is None and not wanted.channels:
        raise InputError(
            f"importance {wanted.name!r} chooses zeros, not channels", f"give a pattern, say {option('pattern', '2:4')}"
        )
    if not removes and not wanted.zeros:
        raise InputError(f"importance {wanted.name!r} ranks channels, not zeros", f"{', '.join(choosers())} do")
