"""Which samples of a source are used, by their positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Selection:
    """A selection of the samples of a source.

    Attributes:
        indices: Positions of the selected samples, ascending; None for all samples up to `end`.
        end: If all are selected, the position before which to stop; None for no limit.
    """

    indices: np.ndarray | None = None
    end: int | None = None

    def within(self, start: int, stop: int) -> np.ndarray:
        """Returns the selected positions of a range, relative to its start."""
        if self.indices is None:
            return np.arange(max(0, (stop if self.end is None else min(stop, self.end)) - start))
        low, high = np.searchsorted(self.indices, (start, stop))
        return np.asarray(self.indices[low:high]) - start

    def exhausted(self, start: int) -> bool:
        """Whether no sample is selected from this position on."""
        if self.indices is None:
            return self.end is not None and start >= self.end
        return not len(self.indices) or start > int(self.indices[-1])
