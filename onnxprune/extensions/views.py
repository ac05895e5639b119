"""What criteria are given to score: a group of channels, or a weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class GroupView(Protocol):
    """What a criterion is given of one group of channels.

    Attributes:
        name: Name of the group.
        units: How many units (channels, heads, blocks) it has.
        rng: Seeded generator, the same one for all groups of a run.
    """

    name: str
    units: int
    rng: np.random.Generator

    def rows(self) -> Iterator[NDArray[Any]]:
        """What each unit owns of each weight tensor, one after the other; each of shape (units, elements a unit).

        Elements that are not finite count as zero, here and in the sums.
        """
        ...

    def sums(self, power: int) -> NDArray[np.float64]:
        """Sum of ``|w| ** power`` over all that a unit owns, power 1 or 2; shape (units,)."""
        ...

    def norm_scale(self) -> NDArray[np.float64]:
        """Sum of ``|gamma|`` over the normalisations of a unit, its l2 norm where there is none; shape (units,)."""
        ...

    def consumers(self) -> list[Any]:
        """The layers that read the group, with moments of what they read (`importance.obs.Consumer`)."""
        ...

    def gate_gradients(self) -> NDArray[np.float64] | None:
        """Derivatives of the loss of each sample by a factor 1 on each unit; shape (samples, units).

        None where no weight of the group has a gradient.
        """
        ...


@dataclass(frozen=True)
class GradientMeans:
    """Means over samples of the gradients of their losses by the elements of a weight; each of its shape.

    Attributes:
        mean: Of the gradient.
        absolute: Of its absolute value.
        square: Of its square.
    """

    mean: NDArray[np.float64]
    absolute: NDArray[np.float64]
    square: NDArray[np.float64]


@dataclass(frozen=True)
class WeightView:
    """What a criterion of zeros is given of one weight.

    Attributes:
        values: The weight, dequantized; of any shape. For a criterion that needs moments (groups, outputs, inputs).
        input_rms: Root mean square of the inputs that the elements are multiplied with; broadcastable to the shape of
            `values`. None for a criterion that does not need moments.
        gradients: Gradients by its elements; None for a criterion that does not need gradients.
    """

    values: NDArray[Any]
    input_rms: NDArray[np.float64] | None
    gradients: GradientMeans | None = None
