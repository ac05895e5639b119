"""Recipes: the options of a run in a TOML file, under their names on the command line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxprune.errors import InputError


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _texts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))


def _shapes(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(v, list) and v and all(_integer(n) for n in v) for v in value.values())
    return _texts(value)


_FUNCTION = re.compile(r"\w[\w.]*:\w[\w.]*(,|$)")
Kind = tuple[str, Callable[[object], bool]]

_NUMBER: Kind = ("a number", _number)
_INTEGER: Kind = ("a whole number", _integer)
_TEXT: Kind = ("a string", _text)
_FLAG: Kind = ("true or false", _flag)
_TEXTS: Kind = ("a string or a list of strings", _texts)
_SHAPES: Kind = ("a table of sizes by input name, or strings NAME:1,3,224,224", _shapes)

KEYS: dict[str, Kind] = {
    "ratio": _NUMBER,
    "pattern": _TEXTS,
    "global": _FLAG,
    "importance": _TEXT,
    "seed": _INTEGER,
    "repair": _TEXT,
    "only": _TEXTS,
    "ignore": _TEXTS,
    "mixing": _FLAG,
    "attention": _TEXT,
    "shrink": _TEXTS,
    "min-channels": _INTEGER,
    "round-to": _INTEGER,
    "no-verify": _FLAG,
    "no-time": _FLAG,
    "input-shape": _SHAPES,
    "dry-run": _FLAG,
    "plan": _TEXT,
    "json": _FLAG,
    "quiet": _FLAG,
    "output": _TEXT,
    "force": _FLAG,
    "target": _TEXTS,
    "calib": _TEXT,
    "samples": _INTEGER,
    "steps": _INTEGER,
    "stats": _TEXT,
    "memory": _TEXT,
    "permute": _FLAG,
    "sparse-storage": _FLAG,
    "verbose": _FLAG,
    "gate": _TEXTS,
    "keep-anyway": _FLAG,
    "metric": _TEXT,
    "max-drop": _NUMBER,
    "search": _FLAG,
    "drift-search": _FLAG,
    "run-seconds": _NUMBER,
    "run-memory": _TEXT,
}
"""Keys of a recipe, and the kind of their values. ``_`` may stand for ``-``."""


def _names_function(key: str, value: str) -> bool:
    """Whether calibration data or a metric would come from any function; those that are registered have a name."""
    if (key == "calib" and os.path.exists(value)) or _FUNCTION.match(value) is None:
        return False
    from onnxprune import extensions, metrics

    known = extensions.sources if key == "calib" else metrics.metrics
    return value.partition(":")[0] not in known


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a recipe.

    Returns:
        Values by option name, as in `KEYS`; lists where an option may be repeated, shapes as ``NAME:1,3,224,224``.

    Raises:
        InputError: The file cannot be read or is not TOML, a key is unknown or given twice, or a value is of another
            kind.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}", "--recipe names a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not TOML: {error}") from None
    found: dict[str, Any] = {}
    for key, value in data.items():
        name = key.replace("_", "-")
        if name not in KEYS:
            raise InputError(f"{path}: unknown key {key!r}", _nearest(name, KEYS))
        if name in found:
            raise InputError(f"{path}: {name!r} is given twice, with - and with _")
        what, fits = KEYS[name]
        if not fits(value):
            raise InputError(f"{path}: {key} must be {what}, not {value!r}")
        if name in ("calib", "metric") and _names_function(name, value):
            raise InputError(
                f"{path}: {key} names a function, and a recipe runs no code", f"--{name} {value}, if you mean it"
            )
        found[name] = _as_given(KEYS[name], value)
    return found


def _as_given(kind: Kind, value: Any) -> Any:
    if kind is _SHAPES and isinstance(value, dict):
        return [f"{name}:{','.join(map(str, sizes))}" for name, sizes in value.items()]
    if kind in (_TEXTS, _SHAPES) and isinstance(value, str):
        return [value]
    return value


def _nearest(name: str, known: Mapping[str, Kind]) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
