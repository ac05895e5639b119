"""Variants of a model with weights of other element types, converted back where they are read.

A maker takes a model and calibration inputs and returns another model. It raises ImportError for a model without
weights that can be stored in its form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

Feeds = Mapping[str, Any]
Maker = Callable[[onnx.ModelProto, Sequence[Feeds]], onnx.ModelProto]

SMALL = 16
"""Constants with at most so many elements stay as they are."""


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def few_bits(*, symmetric: bool, block: int = 16) -> Maker:
    """Matrices of four bits, two in a byte: MatMulNBits, as onnxruntime's own quantiser writes them."""

    def make(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> onnx.ModelProto:
        made = copied(model)
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
    made = copied(model)
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
