"""Validated options of a run: one frozen dataclass a concern, and `Options`, which composes them."""

from onnxprune.options.channels import Channels
from onnxprune.options.checks import AUTO
from onnxprune.options.cost_limits import LATENCY
from onnxprune.options.options import Options
from onnxprune.options.parts import ATTENTION, GATES, SAMPLES, Calibration, Checks, Resources, Scope, Zeros, split_gate
from onnxprune.options.repair import EPOCHS, Repair

__all__ = [
    "ATTENTION",
    "AUTO",
    "EPOCHS",
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
