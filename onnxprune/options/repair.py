"""How the remaining weights compensate for what was removed."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.errors import InputError, option
from onnxprune.extensions import points
from onnxprune.extensions.registry import one_of
from onnxprune.options import checks
from onnxprune.options.checks import AUTO

DISTILLED = "distilled"
"""The repair that trains all weights after it refitted the layers."""
EPOCHS = 40
"""Default number of passes over the calibration samples in a training."""


@dataclass(frozen=True)
class Repair:
    """Compensation for removed channels and weights.

    Attributes:
        method: ``none``; ``data-free``, on synthetic inputs; ``calibrated``, which needs calibration data;
            ``distilled``, which is calibrated and then trained on the original's outputs; a method that was added
            (`onnxprune.repair_method`); or ``auto``: ``calibrated`` where there are data, else ``data-free`` for models
            that consist mainly of convolutions and run on synthetic inputs, else ``none``.
        epochs: Passes over the calibration samples in the training of a distilled repair.
        minutes: Time after which no further pass begins; None for no limit. How many there are then depends on the
            machine.

    Raises:
        InputError: The method is unknown, or a limit of the training is out of range or that of another method.
    """

    method: str = AUTO
    epochs: int = EPOCHS
    minutes: float | None = None

    def __post_init__(self) -> None:
        one_of("repair", self.method, [AUTO, *points.repairs.names()])
        checks.whole("epochs", self.epochs, 1)
        if self.minutes is not None:
            object.__setattr__(self, "minutes", checks.positive("minutes", self.minutes))
        for name, default in (("epochs", EPOCHS), ("minutes", None)):
            if getattr(self, name) != default and not self.trains:
                raise InputError(
                    f"{option(name)} limits a training, and repair {self.method!r} has none",
                    f"give {option('repair', DISTILLED)} too",
                )

    @property
    def refits_zeros(self) -> bool:
        """Whether the method refits layers that zeros are chosen in on the way; ``auto`` does, with data."""
        return self.method in (AUTO, "data-free", "calibrated", DISTILLED)

    @property
    def trains(self) -> bool:
        """Whether all weights are trained together after the layers were refitted."""
        return self.method == DISTILLED

    @property
    def needs_data(self) -> bool:
        """Whether the method takes calibration data."""
        return self.method != AUTO and points.repairs.get(self.method).needs_data
