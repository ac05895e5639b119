"""What is known of the widths that inference engines compute fast, for where no times were measured.

A width that is no multiple of these costs as much as the next one that is, or leaves a fast path altogether. The
numbers are for 32-bit floats where nothing else is said. Measured times (``onnxprune measure``) know better.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.registry import one_of


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


def profile(name: str) -> EngineProfile:
    """The profile of an engine.

    Raises:
        InputError: There is none of this name.
    """
    return PROFILES[one_of("engine", name, list(PROFILES))]
