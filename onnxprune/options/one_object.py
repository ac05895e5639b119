"""Calls that take all options in one object, or one by one as arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from onnxprune.errors import InputError
from onnxprune.options import checks
from onnxprune.options.options import Options


def requested(function: Callable[..., Any], given: Mapping[str, Any], options: Options | None) -> Options:
    """The options of a call: one object, or the arguments; InputError where it has both."""
    if options is None:
        return Options.of(**given)
    check_alone(function, given, options)
    return options


def check_alone(function: Callable[..., Any], given: Mapping[str, Any], options: Options) -> None:
    """Raises InputError for arguments beside an object with all options."""
    checks.instance("options", options, Options)
    defaults = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    for name, value in given.items():
        if not _same(value, defaults[name]):
            raise InputError(
                f"options and {name} are both given",
                f"Options.from_dict({{**options.to_dict(), {name!r}: ...}}) has both",
            )


def _same(value: object, default: object) -> bool:
    """Whether an argument was left at its default; arrays are equal to none."""
    try:
        return value is default or bool(value == default)
    except ValueError:
        return False
