"""Quantized, low-precision and fused variants of a model, made with onnxruntime's tools or, without any, here.

Each maker takes a model and calibration inputs and returns another model; `VARIANTS` names them. Features that the
installed version of onnxruntime lacks raise ImportError.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper, version_converter

Feeds = Mapping[str, Any]


Maker = Callable[[onnx.ModelProto, Sequence[Feeds]], onnx.ModelProto]


SMALL = 16


"""Constants with fewer entries stay as they are."""


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
        made: onnx.ModelProto = convert_float_to_float16(_copy(model), keep_io_types=True)
    return made


def few_bits(*, symmetric: bool, block: int = 16) -> Maker:
    """Matrices of four bits, two in a byte: MatMulNBits, as onnxruntime's own quantiser writes them."""

    def make(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> onnx.ModelProto:
        made = _copy(model)
        weights = {t.name: t for t in made.graph.initializer}
        found = 0
        for node in made.graph.node:
            if node.op_type != "MatMul" or node.input[1] not in weights:
                continue
            array = numpy_helper.to_array(weights[node.input[1]])
            inputs, columns = array.shape
            if inputs % (2 * block):
                continue
            name, parts = node.input[1], array.T.reshape(columns, inputs // block, block)
            scale = np.abs(parts).max(axis=2, keepdims=True) / 7 + np.float32(1e-8)
            points = np.arange(parts.shape[1])[:, None] % 2 + 7 if not symmetric else np.array([[8]])
            numbers = np.clip(np.round(parts / scale) + points, 0, 15).astype(np.uint8)
            tensors = [
                numpy_helper.from_array(numbers[..., ::2] | numbers[..., 1::2] << 4, f"{name}_bits"),
                numpy_helper.from_array(scale.reshape(-1).astype(np.float32), f"{name}_scales"),
            ]
            if not symmetric:
                pairs = np.broadcast_to(points[:, 0].astype(np.uint8), (columns, len(points)))
                tensors.append(
                    numpy_helper.from_array((pairs[:, ::2] | pairs[:, 1::2] << 4).reshape(-1), f"{name}_points")
                )
            node.CopyFrom(
                helper.make_node(
                    "MatMulNBits",
                    [node.input[0], *(t.name for t in tensors)],
                    node.output,
                    name=node.name,
                    domain="com.microsoft",
                    K=inputs,
                    N=columns,
                    bits=4,
                    block_size=block,
                )
            )
            made.graph.initializer.extend(tensors)
            found += 1
        if not found:
            raise ImportError("nothing in the model can be stored so")
        used = {i for node in made.graph.node for i in node.input}
        kept = [t for t in made.graph.initializer if t.name in used]
        del made.graph.initializer[:]
        made.graph.initializer.extend(kept)
        made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        return made

    return make


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


def bfloat16(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> onnx.ModelProto:
    """Weights stored as bfloat16 and cast back where they are read."""

    def store(name: str, array: np.ndarray, matrix: tuple[int, int] | None) -> tuple[list[Any], list[Any]]:
        tensor = helper.make_tensor(f"{name}__bf16", TensorProto.BFLOAT16, array.shape, array.ravel().tolist())
        return [tensor], [helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT, name=f"{name}__cast")]

    return _stored_as(model, 13, store)


def float8(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> onnx.ModelProto:
    """Matrices stored as 8-bit floats with a scale for each output."""

    def store(name: str, array: np.ndarray, matrix: tuple[int, int] | None) -> tuple[list[Any], list[Any]] | None:
        if matrix is None:
            return None
        out, _ = matrix
        scale = np.maximum(np.abs(array).max(axis=tuple(i for i in range(array.ndim) if i != out)), 1e-6) / 448
        spread = scale.reshape([-1 if i == out else 1 for i in range(array.ndim)])
        tensor = helper.make_tensor(
            f"{name}__f8", TensorProto.FLOAT8E4M3FN, array.shape, (array / spread).ravel().tolist()
        )
        return _dequantised(name, tensor, scale.astype(array.dtype), None, axis=out)

    return _stored_as(model, 19, store)


def blocked(kind: int, block: int, *, points: bool = False) -> Maker:
    """Matrices of int8 or int4 with a scale, and maybe a zero point, for each block of inputs."""

    def make(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> onnx.ModelProto:
        def store(name: str, array: np.ndarray, matrix: tuple[int, int] | None) -> tuple[list[Any], list[Any]] | None:
            if matrix is None or array.ndim != 2 or array.shape[matrix[1]] % block:
                return None
            inputs = matrix[1]
            parts = np.stack(np.split(array, array.shape[inputs] // block, axis=inputs))
            top = 7 if kind == TensorProto.INT4 else 127
            scale = np.moveaxis(np.abs(parts).max(axis=inputs + 1) / top, 0, inputs) + np.float32(1e-8)
            zero = (np.arange(scale.size).reshape(scale.shape) % 3 - 1) * int(points)
            whole = np.round(array / np.repeat(scale, block, axis=inputs)) + np.repeat(zero, block, axis=inputs)
            tensor = helper.make_tensor(
                f"{name}__q", kind, array.shape, np.clip(whole, -top - 1, top).astype(int).ravel().tolist()
            )
            point = helper.make_tensor(f"{name}__zero", kind, zero.shape, zero.ravel().tolist()) if points else None
            return _dequantised(name, tensor, scale.astype(array.dtype), point, axis=inputs, block_size=block)

        return _stored_as(model, 21, store)

    return make


def _dequantised(
    name: str, tensor: TensorProto, scale: np.ndarray, point: TensorProto | None, **attributes: int
) -> tuple[list[Any], list[Any]]:
    tensors = [tensor, numpy_helper.from_array(scale, f"{name}__scale"), *([] if point is None else [point])]
    node = helper.make_node("DequantizeLinear", [t.name for t in tensors], [name], name=f"{name}__dq", **attributes)
    return tensors, [node]


def _stored_as(model: onnx.ModelProto, opset: int, store: Callable[..., Any]) -> onnx.ModelProto:
    """Every weight in another form, which a node turns back; `store` gives its tensors and nodes, None to leave it.

    It is told the axes of outputs and inputs of a weight that is a matrix or a kernel, None of others.
    """
    made = _copy(model)
    version = next(o for o in made.opset_import if o.domain in ("", "ai.onnx"))
    if version.version < opset:
        made = version_converter.convert_version(made, opset)
    made.ir_version = max(made.ir_version, 10)
    graph, axes = made.graph, {}
    for node in graph.node:
        turned = any(a.name == "transB" and a.i for a in node.attribute)
        if node.op_type in ("MatMul", "Gemm", "Conv"):
            axes[node.input[1]] = (0, 1) if turned or node.op_type == "Conv" else (1, 0)
    nodes, found = [], 0
    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) <= SMALL:
            continue
        kept = store(tensor.name, numpy_helper.to_array(tensor), axes.get(tensor.name))
        if kept is not None:
            graph.initializer.remove(tensor)
            graph.initializer.extend(kept[0])
            nodes += kept[1]
            found += 1
    if not found:
        raise ImportError("nothing in the model can be stored so")
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    return made


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


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
