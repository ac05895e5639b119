"""Quantized, low-precision and fused variants of a model, made with onnxruntime's tools or by `stored_forms`.

Each maker takes a model and calibration inputs and returns another model; `VARIANTS` names them. Features that the
installed version of onnxruntime lacks raise ImportError.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import TensorProto

from tests.support.stored_forms import Feeds, Maker, bfloat16, blocked, copied, few_bits, float8


class _Reader:
    """Calibration data as onnxruntime asks for it."""

    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


@contextlib.contextmanager
def quiet() -> Iterator[Path]:
    """A folder; onnxruntime's tools say nothing meanwhile."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield Path(folder)
    finally:
        logging.disable(before)


def _range(weights: str) -> dict[str, bool]:
    """Seven bits for signed weights: processors without VNNI saturate the sum of two products at 16 bits, and which
    two channels such a sum joins is another thing once channels are gone.
    """
    return {"reduce_range": weights == "QInt8"}


def static(form: str, *, per_channel: bool, activations: str = "QUInt8", weights: str = "QInt8") -> Maker:
    """Quantised with calibration data, as ``QDQ`` or ``QOperator``."""

    def make(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> onnx.ModelProto:
        from onnxruntime import quantization as q

        with quiet() as folder:
            onnx.save(model, folder / "in.onnx")
            q.quantize_static(
                folder / "in.onnx",
                folder / "out.onnx",
                _Reader(feeds),
                quant_format=q.QuantFormat[form],
                per_channel=per_channel,
                activation_type=q.QuantType[activations],
                weight_type=q.QuantType[weights],
                **_range(weights),
            )
            return onnx.load(folder / "out.onnx")

    return make


def dynamic(*, per_channel: bool, weights: str = "QInt8") -> Maker:
    """Activations quantised at run time."""

    def make(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> onnx.ModelProto:
        from onnxruntime import quantization as q

        with quiet() as folder:
            onnx.save(model, folder / "in.onnx")
            # the type of what onnx's inference does not follow: behind onnxruntime's own operators
            try:
                q.quantize_dynamic(
                    folder / "in.onnx",
                    folder / "out.onnx",
                    per_channel=per_channel,
                    weight_type=q.QuantType[weights],
                    **_range(weights),
                    extra_options={"DefaultTensorType": TensorProto.FLOAT},
                )
            except onnx.shape_inference.InferenceError as error:  # old ones leave shapes of what they replaced
                raise ImportError(f"onnxruntime {ort.__version__} does not quantise it: {error}") from error
            return onnx.load(folder / "out.onnx")

    return make


def float16(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> onnx.ModelProto:
    """Half precision inside, single precision outside."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet():
        made: onnx.ModelProto = convert_float_to_float16(copied(model), keep_io_types=True)
    return made


def optimised(level: str) -> Maker:
    """What onnxruntime's graph optimiser makes of it: ``BASIC``, ``EXTENDED`` or ``ALL``."""

    def make(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> onnx.ModelProto:
        with quiet() as folder:
            options = ort.SessionOptions()
            options.optimized_model_filepath = os.fspath(folder / "out.onnx")
            options.log_severity_level = 4
            options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            return onnx.load(folder / "out.onnx")

    return make


def fused(kind: str, then: Maker | None = None) -> Maker:
    """What onnxruntime's transformer optimizer makes of a model of some kind."""

    def make(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> onnx.ModelProto:
        from onnxruntime.transformers import optimizer
        from onnxruntime.transformers.fusion_options import FusionOptions

        with quiet() as folder:
            onnx.save(model, folder / "in.onnx")
            made = optimizer.optimize_model(
                os.fspath(folder / "in.onnx"), model_type=kind, opt_level=0, optimization_options=FusionOptions(kind)
            )
            result: onnx.ModelProto = made.model
        return result if then is None else then(result, feeds)

    return make


VARIANTS: dict[str, Maker] = {
    "qdq": static("QDQ", per_channel=False),
    "qdq-channel": static("QDQ", per_channel=True),
    "qdq-s8": static("QDQ", per_channel=True, activations="QInt8"),
    "qdq-u8": static("QDQ", per_channel=False, weights="QUInt8"),
    "qoperator": static("QOperator", per_channel=False),
    "qoperator-channel": static("QOperator", per_channel=True),
    "qoperator-u8": static("QOperator", per_channel=False, weights="QUInt8"),
    "dynamic": dynamic(per_channel=False),
    "dynamic-channel": dynamic(per_channel=True),
    "dynamic-u8": dynamic(per_channel=False, weights="QUInt8"),
    "float16": float16,
    "bfloat16": bfloat16,
    "float8": float8,
    "nbits": few_bits(symmetric=True),
    "nbits-points": few_bits(symmetric=False),
    "blocked-int8": blocked(TensorProto.INT8, 8),
    "blocked-int4": blocked(TensorProto.INT4, 16),
    "blocked-int4-points": blocked(TensorProto.INT4, 8, points=True),
    "basic": optimised("BASIC"),
    "extended": optimised("EXTENDED"),
    "all": optimised("ALL"),
}

CONVOLUTIONS = [
    "qdq",
    "qdq-channel",
    "qdq-s8",
    "qdq-u8",
    "qoperator",
    "qoperator-channel",
    "qoperator-u8",
    "dynamic-u8",
    "float16",
    "bfloat16",
    "float8",
    "basic",
    "extended",
    "all",
]
"""Variants that say something of a model of convolutions."""
MATRICES = [
    "qdq",
    "qdq-channel",
    "qoperator-channel",
    "dynamic",
    "dynamic-channel",
    "dynamic-u8",
    "float16",
    "bfloat16",
    "float8",
    "nbits",
    "nbits-points",
    "blocked-int8",
    "blocked-int4",
    "blocked-int4-points",
    "basic",
    "extended",
    "all",
]
"""The same for a model of matrix products."""
