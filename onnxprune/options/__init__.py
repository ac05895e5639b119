"""What a run is asked to do, checked once: a frozen dataclass for each concern, and all of them together."""

from onnxprune.options.options import Options
from onnxprune.options.parts import (
    ATTENTION,
    AUTO,
    GATES,
    Calibration,
    Channels,
    Checks,
    Repair,
    Resources,
    Scope,
    Zeros,
    split_gate,
)

__all__ = [
    "ATTENTION",
    "AUTO",
    "GATES",
    "Calibration",
    "Channels",
    "Checks",
    "Options",
    "Repair",
    "Resources",
    "Scope",
    "Zeros",
    "split_gate",
]
