"""Tables of `inspect --sparsity`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from onnxprune._text import count, percent, plural, printable, short
from onnxprune.report.tables import REASON, ROWS, Part, table


def tables(data: Mapping[str, Any]) -> list[Part]:
    """The weights that products read, and why some do not suit sparse tensor cores."""
    tensors = data["tensors"]
    weights = [t for t in tensors if t["tensorrt"] is not None]
    elements = sum(math.prod(t["shape"]) for t in tensors)
    parts: list[Part] = [
        f"{printable(data['model'])}: {plural(len(tensors), 'weight')} of {count(elements)} elements, "
        f"{percent(data['zeros'] or 0, 1)} of them zero"
    ]
    rows = [
        [
            short(t["name"]),
            t["operator"],
            "x".join(map(str, t["shape"])),
            t["type"],
            percent(t["zeros"], 1),
            " ".join(t["patterns"] + t["blocks"]) or "-",
            t["tensorrt"]["precision"] or "no",
        ]
        for t in weights[:ROWS]
    ]
    if rows:
        parts.append(
            table(
                ["weight", "operator", "shape", "type", ">zeros", "patterns", "sparse in TensorRT"], rows, len(weights)
            )
        )
    for title, key in (("why not", "reasons"), ("may still run dense because", "hints")):
        found = Counter(reason for t in weights for reason in t["tensorrt"][key])
        if found:
            parts.append(
                table([title, ">weights"], [[short(r, REASON), str(n)] for r, n in found.most_common(ROWS)], len(found))
            )
    return parts
