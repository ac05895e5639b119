"""Limits of costs: what may be left of one."""

from __future__ import annotations

import math

from onnxprune.common.text import amount, milliseconds
from onnxprune.errors import InputError
from onnxprune.extensions.points import Amount, Limit

LATENCY = "latency"
"""The cost that is measured, not counted."""


def limit_of(name: str, value: object) -> Limit:
    """Checks the limit of a cost: a number, or a text with a unit that `amount` reads; text of a number becomes one."""
    if name == LATENCY:
        return _latency(value)
    number = amount(value)
    if number is None or isinstance(value, bool):
        raise InputError(
            f"target {name}={value} is no number", "a fraction such as 0.5, or an amount such as 2G or 4MB"
        )
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"target {name}={value} leaves nothing", "a fraction such as 0.5 says what may be left")
    if isinstance(value, Amount) or (isinstance(value, str) and not value.strip()[-1:].isdigit()):
        return value
    return number


def _latency(value: object) -> Limit:
    """Checks a limit of latency: a share of the original's, or a text with a unit of time."""
    found = milliseconds(value)
    number = amount(value) if found is None else found
    if isinstance(value, bool) or number is None or not (math.isfinite(number) and number > 0):
        raise InputError(f"target latency={value} is no time", "a fraction such as 0.6, or a time such as 4ms")
    if found is None and number > 1:
        raise InputError(f"target latency={value} has no unit", f"a fraction such as 0.6, or a time: {number:g}ms")
    return number if found is None else str(value)
