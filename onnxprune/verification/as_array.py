"""Outputs of models as arrays, also those that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_array(output: Any) -> NDArray[Any]:
    """An output as an array; a sequence or a map becomes one object, which has no distance from another."""
    if not isinstance(output, (list, dict)):
        return np.asarray(output)
    found = np.empty((), dtype=object)
    found[()] = output
    return found
