"""Validated options of a run: one frozen dataclass a concern, and `Options`, which composes them."""

from onnxprune.options.channels import Channels
from onnxprune.options.checks import AUTO
from onnxprune.options.cost_limits import LATENCY
from onnxprune.options.options import Options
from onnxprune.options.parts import (
    ATTENTION,
    GATES,
    SAMPLES,
    Calibration,
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
    "LATENCY",
    "SAMPLES",
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
