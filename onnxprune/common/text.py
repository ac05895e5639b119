"""Formatting of numbers and names for people."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from numbers import Real

_UNITS = ("", "k", "M", "G", "T", "P")


def printable(text: str) -> str:
    """Returns the text in one line without control characters: names in models are untrusted input."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def exactly(name: str) -> str:
    """A regular expression that matches a name alone."""
    return f"^{re.escape(name)}$"


def short(name: str, limit: int = 60) -> str:
    """Returns a name for a table: printable, and shortened in the middle to `limit` characters.

    >>> short("encoder/layers.0/weight", 15)
    'encode...weight'
    """
    name = printable(name)
    half = (limit - 3) // 2
    return name if len(name) <= limit else f"{name[: limit - 3 - half]}...{name[-half:]}"


def count(number: float, unit: str = "") -> str:
    """Formats a quantity with three significant digits and a decimal prefix.

    >>> count(152042), count(615484, "B"), count(7), count(999_999)
    ('152 k', '615 kB', '7', '1.00 M')
    """
    if number < 1000:
        return f"{number:g} {unit}".rstrip()
    power = 0
    while number >= 999.5 and power < len(_UNITS) - 1:
        number, power = number / 1000, power + 1
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits}f} {_UNITS[power]}{unit}"


def duration(seconds: float) -> str:
    """Formats a time with three significant digits, from ten minutes on in whole minutes.

    >>> duration(0.00123), duration(0.25), duration(12.345), duration(999.7)
    ('1.23 ms', '250 ms', '12.3 s', '17 min')
    """
    if seconds >= 599.5:
        return f"{seconds / 60:,.0f} min"
    if seconds >= 1 or seconds == 0:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def percent(part: float, whole: float) -> str:
    """Formats a share in percent; "-" if the whole is zero.

    >>> percent(1, 4), percent(1, 0)
    ('25.0%', '-')
    """
    return f"{100 * part / whole:.1f}%" if whole else "-"


def plain_percent(share: float) -> str:
    """Formats a share of any size in percent, with two significant digits at least and no exponent.

    >>> plain_percent(1.9), plain_percent(0.0123), plain_percent(2.5e-7), plain_percent(1e-12), plain_percent(0)
    ('190%', '1.2%', '0.000025%', 'less than 0.000001%', '0%')
    """
    value = 100 * share
    if 0 < value < 1e-6:
        return "less than 0.000001%"
    digits = 0 if value >= 9.95 or value == 0 else 1 - math.floor(math.log10(value))
    return f"{value:.{digits}f}%"


def first_of(names: Sequence[str], most: int, shown: Callable[[str], str] = str) -> str:
    """The first of some names as they are shown, and how many more there are.

    >>> first_of(["a", "b", "c"], 2), first_of(["a", "b"], 2, repr)
    ('a, b and 1 more', "'a', 'b'")
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(map(shown, names[:most]))}{more}"


def plural(number: int, word: str) -> str:
    """Formats a count with its noun.

    >>> plural(1, "group"), plural(3, "group")
    ('1 group', '3 groups')
    """
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def amount(value: object) -> float | None:
    """Parses a number, or a text with an optional decimal prefix and an optional ``B`` for bytes; None if invalid.

    >>> amount("2G"), amount("4 MB"), amount(0.5), amount("1e3"), amount("x")
    (2000000000.0, 4000000.0, 0.5, 1000.0, None)
    """
    if isinstance(value, Real):
        return float(value)
    match = (
        re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]?)b?\s*", value.lower())
        if isinstance(value, str)
        else None
    )
    prefixes = [prefix.lower() for prefix in _UNITS]
    if match is None or match[2] not in prefixes:
        return None
    try:
        return float(match[1]) * 1000.0 ** prefixes.index(match[2])
    except ValueError:
        return None


def milliseconds(value: object) -> float | None:
    """Parses a time with a unit; None for anything else.

    >>> milliseconds("4ms"), milliseconds("250 us"), milliseconds("1.5s"), milliseconds("4"), milliseconds(4)
    (4.0, 0.25, 1500.0, None, None)
    """
    match = (
        re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(us|ms|s)\s*", value.lower()) if isinstance(value, str) else None
    )
    try:
        return None if match is None else float(match[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[match[2]]
    except ValueError:
        return None
