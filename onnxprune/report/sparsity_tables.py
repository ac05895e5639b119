"""Tables of `inspect --sparsity`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from onnxprune.common.text import count, percent, plural, printable, short
from onnxprune.report.tables import REASON, ROWS, WIDE, Part, table


def tables(data: Mapping[str, Any], width: int | None = None) -> list[Part]:
    """The weights that products read, and why some do not suit sparse tensor cores.

    Args:
        data: The weights, see `sparsity_data.zeros`.
        width: Columns of the terminal: a narrow one shows no types.
    """
    narrow = width is not None and width < WIDE
    tensors = data["tensors"]
    weights = [t for t in tensors if t["tensorrt"] is not None]
    elements = sum(math.prod(t["shape"]) for t in tensors)
    parts: list[Part] = [
        f"{printable(data['model'])}: {plural(len(tensors), 'weight')} of {count(elements)} elements, "
        f"{percent(data['zeros'] or 0, 1)} of them zero"
    ]
    rows = [
        [
            short(t["name"], 26 if narrow else 60),
            t["operator"],
            "x".join(map(str, t["shape"])),
            *([] if narrow else [t["type"]]),
            percent(t["zeros"], 1),
            " ".join(t["patterns"] + t["blocks"]) or "-",
            t["tensorrt"]["precision"] or "no",
        ]
        for t in weights[:ROWS]
    ]
    if rows:
        titles = ["weight", "operator", "shape", *([] if narrow else ["type"]), ">zeros", "patterns", "TensorRT"]
        parts.append(table(titles, rows, len(weights)))
    for title, key in (("why not", "reasons"), ("may still run dense because", "hints")):
        found = Counter(reason for t in weights for reason in t["tensorrt"][key])
        if found:
            parts.append(
                table([title, ">weights"], [[short(r, REASON), str(n)] for r, n in found.most_common(ROWS)], len(found))
            )
    return parts
