"""What both forms of static quantisation share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def quantize(source: Path, target: Path, samples: Sequence[dict[str, np.ndarray]], form: str) -> None:
    """Quantises a model with onnxruntime's pre-processing, as its documentation says.

    8 bits, weights per channel; of these 7 bits are used, since on processors without VNNI sums of two 8-bit products
    saturate, so that a result depends on which channels are neighbours.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(target),
        _Reader(samples),
        quant_format=getattr(QuantFormat, form),
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
        reduce_range=True,
    )


class _Reader:
    """A data reader in the manner of onnxruntime's."""

    def __init__(self, samples: Sequence[dict[str, np.ndarray]]) -> None:
        self._left = iter(samples)

    def get_next(self) -> Any:
        return next(self._left, None)
