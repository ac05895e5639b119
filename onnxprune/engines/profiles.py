"""The inference engine that a model is for: by name, or by what times models in it.

Of an engine by name it is known which widths it computes fast, for where no times were measured.

A width that is no multiple of these costs as much as the next one that is, or leaves a fast path altogether. The
numbers are for 32-bit floats where nothing else is said. Measured times (``onnxprune measure``) know better.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

from onnxprune.errors import InputError, option
from onnxprune.extensions.registry import one_of


@dataclass(frozen=True)
class EngineProfile:
    """Multiples of channels that an engine computes fast.

    Attributes:
        convolution: Of convolutions that sum over channels, on either side.
        depthwise: Of convolutions with groups.
        product: Of matrix products, recurrent layers and everything else.
        source: Where the numbers come from.
    """

    convolution: int
    depthwise: int
    product: int
    source: str


PROFILES = {
    "onnxruntime": EngineProfile(
        4, 4, 1, "measured with 1.32 on x86: convolutions leave the blocked layout where 4 divides no width"
    ),
    "onnxruntime-arm": EngineProfile(4, 4, 4, "NEON vectors of four floats, in MLAS"),
    "openvino": EngineProfile(16, 16, 1, "measured with 2026.4 on x86: steps of 16 output channels, 26% at 32 to 33"),
    "tflite": EngineProfile(
        8, 8, 8, "XNNPACK's kernels for NEON compute 8 output channels at a time (f32-gemm 6x8, f32-dwconv 9p8c)"
    ),
    "ncnn": EngineProfile(4, 4, 4, "measured with 20261020 on x86: 10 to 50% where 4 divides no width"),
    "mnn": EngineProfile(1, 1, 1, "measured with 3.6 on x86: the time grows evenly"),
    "tensorrt": EngineProfile(
        8, 8, 8, "tensor cores at float16: NVIDIA, Deep Learning Performance Documentation, multiples of 8"
    ),
    "tensorrt-int8": EngineProfile(
        16, 16, 16, "tensor cores at int8: NVIDIA, Deep Learning Performance Documentation, multiples of 16"
    ),
}
"""Engines by name."""

DEFAULT = "onnxruntime"

Timer = str | Callable[[str], float]
"""What times a model file: a command line that is given the path and prints milliseconds, a function from the path to
milliseconds, or the name of such a function as ``module:function``."""


def is_function_name(text: str) -> bool:
    """Whether a text has the form ``module:function``."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", text) is not None


def is_timer(engine: object) -> TypeGuard[Timer]:
    """Whether an engine is given by what times models in it: anything but a name of one word."""
    if isinstance(engine, str):
        return re.fullmatch(r"[\w.-]*", engine) is None
    return callable(engine)


def timed_here(engine: Timer) -> Timer:
    """The engine, which is to time models: onnxruntime, or one that is given by what times them.

    Raises:
        InputError: It is given by a name from which it cannot be run.
    """
    if not is_timer(engine) and engine != DEFAULT:
        profile(engine)
        raise InputError(
            f"{engine} cannot be run by its name",
            f"give a command that prints milliseconds, {option('engine', 'my_timer {model}')}, or module:function",
        )
    return engine


def profile(name: object) -> EngineProfile:
    """The profile of an engine.

    Raises:
        InputError: There is none of this name.
    """
    return PROFILES[one_of("engine", name, list(PROFILES))]
