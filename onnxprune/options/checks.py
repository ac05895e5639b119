"""Checks of single values that a caller gave; each returns the value and raises InputError in one line otherwise."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from onnxprune.errors import DataError, InputError, option

AUTO = "auto"
"""The value of options that follow from others."""


def flag(name: str, value: object) -> bool:
    """A value that is true or false, also one of numpy."""
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    raise InputError(f"{option(name)} must be True or False, not {value!r}")


def whole(name: str, value: object, least: int) -> int:
    """A whole number, at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{option(name)} must be a whole number, not {value!r}")
    if int(value) < least:
        raise InputError(f"{option(name)} must be at least {least}, not {value}")
    return int(value)


def number(name: str, value: object) -> float:
    """A number; it need not be finite."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{option(name)} must be a number, not {value!r}")
    return float(value)


def positive(name: str, value: object) -> float:
    """A finite number above 0."""
    found = number(name, value)
    if not (math.isfinite(found) and found > 0):
        raise InputError(f"{option(name)} must be above 0, not {found:g}")
    return found


def fraction(name: str, value: object) -> float:
    """A number of at least 0 and below 1."""
    share = number(name, value)
    if not (math.isfinite(share) and 0 <= share < 1):
        raise InputError(
            f"{option(name)} must be at least 0 and below 1, not {share:g}",
            f"{option('ratio', 0.5)} takes half of the channels",
        )
    return share


def expressions(name: str, value: object) -> tuple[str, ...]:
    """Regular expressions: one, or several in a sequence."""
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, Iterable) or isinstance(texts, (bytes, Mapping)):
        raise InputError(f"{option(name)} must be a regular expression or a list of them, not {value!r}")
    found = tuple(texts)
    for text in found:
        if not isinstance(text, str):
            raise InputError(f"{option(name)} must be a regular expression or a list of them, not {value!r}")
        try:
            re.compile(text)
        except re.error as e:
            raise InputError(f"{option(name)}: {text!r} is not a regular expression: {e}") from None
    return found


def mapping(name: str, value: object, example: str, *, callables: bool = False) -> dict[Any, Any]:
    """A mapping whose keys are strings that are not empty, or functions where `callables` says so."""

    def fits(key: object) -> bool:
        return (isinstance(key, str) and bool(key)) or (callables and callable(key))

    if not isinstance(value, Mapping) or not all(fits(key) for key in value):
        raise InputError(f"{option(name)} must be a mapping such as {example}, not {value!r}")
    return dict(value)


def kept_shares(name: str, value: object) -> dict[str, float]:
    """Shares that stay, above 0 and up to 1, by regular expression."""
    given = mapping(name, value, "{'stem': 0.8}")
    expressions(name, list(given))
    for key, share in given.items():
        given[key] = found = number(f"{name} {key}", share)
        if not 0 < found <= 1:
            raise InputError(f"{option(name)} {key!r} must be above 0 and at most 1, not {found:g}", "0.8 keeps 80%")
    return given


def shapes(name: str, value: object) -> dict[str, tuple[int, ...]]:
    """Shapes by input name."""
    example = "{'input': (1, 3, 224, 224)}"
    given = mapping(name, value, example)
    for key, sizes in given.items():
        whole_numbers = isinstance(sizes, Sequence) or hasattr(sizes, "tolist")
        if isinstance(sizes, (str, bytes)) or not whole_numbers:
            raise InputError(f"{option(name)} must be a mapping such as {example}, not {value!r}")
        given[key] = tuple(whole(f"each size of {key!r} in {name}", size, 1) for size in sizes)
    return given


def path(name: str, value: object) -> str:
    """The name of a file."""
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text:
        raise InputError(f"{option(name)} must be the name of a file, not {value!r}")
    return text


def data(value: object) -> object:
    """Something that may be calibration data; whether they fit a model shows when they are opened."""
    possible = isinstance(value, (str, os.PathLike, Mapping)) or callable(value)
    if not (possible or hasattr(value, "get_next") or hasattr(value, "__iter__") or hasattr(value, "__array__")):
        raise DataError(f"{option('calib')} must be a file, a folder, arrays, an iterable or a function, not {value!r}")
    if isinstance(value, Mapping) and list(value) == ["python"] and isinstance(value["python"], str):
        raise DataError(
            f"{option('calib')} was an object in Python ({value['python']}), which is not in JSON", "give it again"
        )
    return os.fspath(value) if isinstance(value, os.PathLike) else value


_MADE_BY = {
    "Analysis": "onnxprune.analyze(model) makes one",
    "Options": "Options.of(ratio=0.5) makes one, say",
    "Plan": "Plan.from_json(text) reads one",
}


def instance(name: str, value: object, kind: type) -> None:
    """Raises InputError unless the value is of a public class of the package."""
    if not isinstance(value, kind):
        said = f"{option(name)} must be an onnxprune.{kind.__name__}, not {type(value).__name__}"
        raise InputError(said, _MADE_BY[kind.__name__])


def set_fields(part: object, **values: object) -> None:
    """Sets fields of a frozen dataclass in its `__post_init__`."""
    for name, value in values.items():
        object.__setattr__(part, name, value)
