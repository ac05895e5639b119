"""Between dataclasses and strict JSON data."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

OMIT_NONE = {"omit_none": True}
"""Metadata of a field that JSON leaves out where it is None."""

Value = TypeVar("Value", bound="JsonValue")


class JsonValue:
    """A dataclass that becomes strict JSON data, and is read from it."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON data; None for numbers that JSON lacks."""
        found: dict[str, Any] = plain(self)
        return found

    def to_json(self, indent: int | None = 2) -> str:
        """The fields as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_dict(cls: type[Value], data: Mapping[str, Any]) -> Value:
        """The inverse of `to_dict`; keys of other names are left aside."""
        found: Value = typed(cls, data)
        return found


def plain(value: Any) -> Any:
    """JSON data of dataclasses, mappings and sequences; None for numbers that JSON lacks."""
    if dataclasses.is_dataclass(value):
        pairs = [(f, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return {f.name: plain(v) for f, v in pairs if v is not None or "omit_none" not in f.metadata}
    if isinstance(value, Mapping):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def typed(kind: Any, data: Any) -> Any:
    """A value of a type from JSON data: the inverse of `plain` for dataclasses, lists, dicts and optional values."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        inner = [a for a in arguments if a is not type(None)]
        return data if data is None or len(inner) > 1 else typed(inner[0], data)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{f.name: typed(hints[f.name], data[f.name]) for f in dataclasses.fields(kind) if f.name in data})
    if typing.get_origin(kind) is list:
        return [typed(arguments[0], v) for v in data]
    if typing.get_origin(kind) is dict:
        return {key: typed(arguments[1], v) for key, v in data.items()}
    return data
