"""What a decoder takes beside its tokens: empty caches, and the mask and positions of a text that begins.

Texts are samples of ids alone; a decoder that was exported with caches of keys and values takes more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.model_input import ModelInput

CACHE, MASK, POSITIONS = (re.compile(words, re.I) for words in ("past|cache", "mask", "position"))


def made_up(given: Mapping[str, Sequence[int]], inputs: Sequence[ModelInput]) -> dict[str, NDArray[np.generic]]:
    """Arrays for inputs of a decoder that data lack, where these have texts as ids.

    Caches have length 0, masks are ones and positions count from 0. Nothing is made up for models without caches, and
    nothing that would need a guess: a cache has one free axis beside that of the batch.

    Args:
        given: Shapes of the arrays that there are, by name.
        inputs: The inputs of the model.
    """
    caches = [p for p in inputs if CACHE.search(p.name) and _free(p) is not None]
    texts = [given[p.name] for p in inputs if p.name in given and p.dtype.kind == "i" and len(given[p.name]) == 2]
    if not caches or not texts:
        return {}
    count, length = texts[0]
    made: dict[str, NDArray[np.generic]] = {}
    for one in inputs:
        flat = one.dims is not None and len(one.dims) == 2
        if one.name in given:
            continue
        if one in caches:
            dims = [d if isinstance(d, int) else 0 for d in one.dims or ()]
            dims[one.axis or 0] = count
            made[one.name] = np.zeros(dims, dtype=one.dtype)
        elif MASK.search(one.name) and flat:
            made[one.name] = np.ones((count, length), dtype=one.dtype)
        elif POSITIONS.search(one.name) and flat:
            made[one.name] = np.tile(np.arange(length), (count, 1)).astype(one.dtype)
    return made


def _free(one: ModelInput) -> int | None:
    """The free axis of a cache beside that of the batch; None where there is not exactly one, or the batch is fixed."""
    if one.dims is None or len(one.dims) < 3 or one.axis is None or one.fixed is not None or one.dtype.kind != "f":
        return None
    free = [i for i, d in enumerate(one.dims) if not isinstance(d, int) and i != one.axis]
    return free[0] if len(free) == 1 else None
