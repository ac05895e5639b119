"""Recipes: the options of a run in a TOML or JSON file, under their names on the command line or in Python."""

from __future__ import annotations

import json
import os
import shlex
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


def _size(value: object) -> bool:
    return _text(value) or _integer(value)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _texts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))


def _amounts(value: object) -> bool:
    if isinstance(value, dict):
        return all(_number(v) or _text(v) for v in value.values())
    return _texts(value)


def _shapes(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(v, list) and v and all(_integer(n) for n in v) for v in value.values())
    return _texts(value)


Kind = tuple[str, Callable[[object], bool]]

_NUMBER: Kind = ("a number", _number)
_INTEGER: Kind = ("a whole number", _integer)
_TEXT: Kind = ("a string", _text)
_MULTIPLE: Kind = ("a whole number or 'auto'", _size)
_PATH: Kind = ("a string", _text)
_SIZE: Kind = ("a whole number of bytes, or a string such as '1GB'", _size)
_FLAG: Kind = ("true or false", _flag)
_TEXTS: Kind = ("a string or a list of strings", _texts)
_AMOUNTS: Kind = ("a table of numbers by name, or strings NAME=0.5", _amounts)
_SHAPES: Kind = ("a table of sizes by input name, or strings NAME:1,3,224,224", _shapes)

KEYS: dict[str, Kind] = {
    "ratio": _NUMBER,
    "pattern": _TEXTS,
    "global": _FLAG,
    "importance": _TEXT,
    "seed": _INTEGER,
    "repair": _TEXT,
    "epochs": _INTEGER,
    "minutes": _NUMBER,
    "only": _TEXTS,
    "ignore": _TEXTS,
    "mixing": _FLAG,
    "attention": _TEXT,
    "shrink": _TEXTS,
    "min-channels": _INTEGER,
    "round-to": _MULTIPLE,
    "depth": _MULTIPLE,
    "engine": _TEXT,
    "times": _PATH,
    "no-verify": _FLAG,
    "no-time": _FLAG,
    "input-shape": _SHAPES,
    "dry-run": _FLAG,
    "plan": _PATH,
    "json": _FLAG,
    "html": _PATH,
    "quiet": _FLAG,
    "progress": _FLAG,
    "output": _PATH,
    "force": _FLAG,
    "target": _AMOUNTS,
    "keep": _AMOUNTS,
    "calib": _PATH,
    "samples": _INTEGER,
    "steps": _INTEGER,
    "stats": _PATH,
    "memory": _SIZE,
    "permute": _FLAG,
    "sparse-storage": _FLAG,
    "data-chunk": _SIZE,
    "verbose": _FLAG,
    "gate": _AMOUNTS,
    "keep-anyway": _FLAG,
    "strict": _FLAG,
    "time-limit": _NUMBER,
    "metric": _TEXT,
    "max-drop": _NUMBER,
    "search": _FLAG,
    "drift-search": _FLAG,
    "run-seconds": _NUMBER,
    "run-memory": _SIZE,
}
"""Keys of a recipe, and the kind of their values. ``_`` may stand for ``-``."""
IN_PYTHON = {"global-ranking": "global", "input-shapes": "input-shape", "verify": "no-verify", "time": "no-time"}
"""Options that have another name in Python, which a recipe takes as well: the name there -> the key."""


def _names_code(key: str, value: object) -> bool:
    """Whether a metric or an engine is any function or command; those that are registered have a name."""
    if key == "metric":
        from onnxprune.extensions.metrics import metrics

        head, colon, _ = str(value).partition(":")
        return bool(colon) and head not in metrics
    if key == "engine":
        from onnxprune.engines.profiles import is_timer

        return is_timer(value)
    return False


def _runs_no_code(recipe: str | os.PathLike[str], key: str, value: str) -> InputError:
    return InputError(
        f"{recipe}: {key} names what is to be run, and a recipe runs no code",
        f"--{key} {shlex.quote(value)}, if you mean it",
    )


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a recipe: a TOML file, or a JSON file with options or with a whole report (``--json``).

    Files that a recipe names are found from its own folder, those of a report from the current one, as in its run.

    Returns:
        Values by option name, as in `KEYS`: lists where an option may be repeated, shapes as ``NAME:1,3,224,224``,
        targets and gates as ``NAME=0.5``.

    Raises:
        InputError: The file cannot be read or is no TOML or JSON, a key is unknown or given twice, or a value is of
            another kind.
    """
    found: dict[str, Any] = {}
    content, folder = _content(Path(path))
    for key, value in content.items():
        name = _key(path, key)
        if name in found:
            raise InputError(f"{path}: {name!r} is given twice", "a key may be written with - or with _, once")
        what, fits = KEYS[name]
        if not fits(value):
            raise InputError(f"{path}: {key} must be {what}, not {value!r}")
        if _names_code(name, value):
            raise _runs_no_code(path, key, value)
        if KEYS[name] is _PATH:
            value = _located(path, folder, key, value)
        negated = name.startswith("no-") and not _dashed(key).startswith("no-")
        found[name] = not value if negated else _as_given(KEYS[name], value)
    return found


def _content(path: Path) -> tuple[dict[str, Any], str]:
    """The keys and values of a file, null in JSON counting as not given, and the folder of the files that they name."""
    folder = str(path.parent)
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix.lower() == ".json" else _toml(text)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror or error}", "--recipe names a TOML or JSON file"
        ) from None
    except (ValueError, RecursionError) as error:  # what both parsers and the decoding raise
        kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
        raise InputError(f"{path}: is not {kind}: {error}") from None
    if isinstance(data, dict) and "schema" in data and "options" in data:
        data, folder = data["options"], ""
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds no options", "give an object of options, or the report of a pruning run")
    return {key: value for key, value in data.items() if value is not None}, folder


def _toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    data: dict[str, Any] = tomllib.loads(text)
    return data


def _dashed(key: str) -> str:
    return key.replace("_", "-")


def _key(path: str | os.PathLike[str], key: str) -> str:
    """The key in `KEYS` of a key in a recipe."""
    name = IN_PYTHON.get(_dashed(key), _dashed(key))
    if name not in KEYS:
        raise InputError(f"{path}: unknown key {key!r}", _nearest(name, KEYS))
    return name


def _located(recipe: str | os.PathLike[str], folder: str, key: str, value: str) -> str:
    """The path of a file that a recipe names, from a folder; registered sources of data as they are.

    Raises:
        InputError: It is calibration data from a function.
    """
    path = os.path.join(folder, value) if value else value
    if key != "calib" or os.path.exists(path):
        return path
    head, *options = value.split(",")
    file = os.path.join(folder, head)
    if ":" in head and not os.path.exists(file):
        from onnxprune.extensions import points

        if head.partition(":")[0] not in points.sources:
            raise _runs_no_code(recipe, key, value)
        file = head
    return ",".join([file, *(_option_located(folder, option) for option in options)])


def _option_located(folder: str, option: str) -> str:
    """An option of calibration data, with the path of a file from a folder."""
    name, _, value = option.strip().partition("=")
    return f"{name}={os.path.join(folder, value)}" if name == "classes" and value else option


def _as_given(kind: Kind, value: Any) -> Any:
    """A value as the command line would have it."""
    if kind is _SHAPES and isinstance(value, dict):
        return [f"{name}:{','.join(map(str, sizes))}" for name, sizes in value.items()]
    if kind is _AMOUNTS and isinstance(value, dict):
        return [f"{name}={amount}" for name, amount in value.items()]
    if kind in (_TEXTS, _SHAPES, _AMOUNTS) and isinstance(value, str):
        return [value]
    return str(value) if kind is _SIZE else value


def _nearest(name: str, known: Mapping[str, Kind]) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
