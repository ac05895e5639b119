"""Where files of Keras 3 hold the weights of a layer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

OWN_NAMES = {"GroupQueryAttention": "GroupedQueryAttention"}
"""What classes call themselves that are exported under another name."""


def layer_paths(layers: Sequence[Any], below: str) -> list[str]:
    """Where the weights of each layer of a model are in the file."""
    counted = Counter[str]()
    found = []
    for layer in layers:
        kind = str(layer.get("class_name", "")) if isinstance(layer, dict) else ""
        name = _snake_case(OWN_NAMES.get(kind, kind))
        found.append(f"{below}layers/{name}{f'_{counted[name]}' if counted[name] else ''}/")
        counted[name] += 1
    return found


def _snake_case(name: str) -> str:
    """The name of a class as Keras writes it in files: ``BatchNormalization`` is ``batch_normalization``."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
