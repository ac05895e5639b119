"""Results as files of arrays, which are data: reading one runs nothing and makes nothing but what is named here."""

from __future__ import annotations

import io
import json
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np

Kind = TypeVar("Kind", bound=type)
_kinds: dict[str, type] = {}

TREE = "tree"
"""Name of the array with the JSON text of what is no array."""


def storable(kind: Kind) -> Kind:
    """Lets the instances of a dataclass be stored."""
    _kinds[kind.__qualname__] = kind
    return kind


def to_bytes(value: Any) -> bytes:
    """Arrays, numbers, texts, lists, dictionaries and storable dataclasses, in any order inside each other, as .npz."""
    arrays: dict[str, np.ndarray] = {}
    tree = json.dumps(_tree(value, arrays))
    stream = io.BytesIO()
    np.savez(stream, **{TREE: np.array(tree)}, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def from_bytes(content: bytes) -> Any:
    """What `to_bytes` stored.

    Raises:
        ValueError: It is something else, or damaged.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return _value(json.loads(str(arrays[TREE])), arrays)
    except Exception as error:
        raise ValueError("is not what was stored") from error


def _tree(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        name = f"a{len(arrays)}"
        arrays[name] = np.asarray(value)
        return {"array" if isinstance(value, np.ndarray) else "number": name}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_tree(item, arrays) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_tree(item, arrays) for item in pair] for pair in value.items()]}
    if is_dataclass(value) and type(value).__qualname__ in _kinds:
        content = {f.name: _tree(getattr(value, f.name), arrays) for f in fields(value)}
        return {"kind": type(value).__qualname__, "fields": content}
    raise TypeError(f"{type(value).__qualname__} is not storable")


def _value(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "kind" in tree:
        return _kinds[tree["kind"]](**{name: _value(item, arrays) for name, item in tree["fields"].items()})
    ((how, content),) = tree.items()
    if how == "array":
        return arrays[content]
    if how == "number":
        return arrays[content][()]
    if how == "dict":
        return {_value(key, arrays): _value(item, arrays) for key, item in content}
    return {"list": list, "tuple": tuple}[how](_value(item, arrays) for item in content)
