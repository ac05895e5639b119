"""A run on its way to another process: the same model, data and options there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from onnxprune.calibration.sent import received, sent
from onnxprune.options import Options
from onnxprune.pipeline.original import Original


@dataclass(frozen=True)
class SentRun:
    """A model with options.

    Attributes:
        original: The model.
        options: The options, whose data may not be there.
        data: The calibration data, as they are sent.
    """

    original: Original
    options: Options
    data: Any

    @classmethod
    def of(cls, original: Original, options: Options) -> SentRun:
        """What is to be sent of a run.

        Raises:
            InputError: The data cannot be read.
        """
        return cls(original, options, sent(options.calibration.data))

    def received(self) -> tuple[Original, Options]:
        """Model and options where they were sent to.

        Raises:
            FilesMissing: The data are to be sent first.
        """
        return self.original, with_data(self.options, received(self.data))


def with_data(options: Options, data: Any) -> Options:
    """Options with other calibration data."""
    return replace(options, calibration=replace(options.calibration, data=data))
