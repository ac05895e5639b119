"""Holds the gradients of a model to central differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

from onnxprune.gradients.differentiate import GradientModel, differentiate
from onnxprune.model.model import Model
from tests.gradients.cases import Row
from tests.ops.case import random_feeds
from tests.support.finite_differences import evaluator, finite_differences


def names_of(model: onnx.ModelProto) -> list[str]:
    """The floating-point constants and inputs whose gradients are checked."""
    floats = (TensorProto.FLOAT, TensorProto.DOUBLE)
    found = [t.name for t in model.graph.initializer if t.data_type in floats]
    found += [i.name for i in model.graph.input if i.type.tensor_type.elem_type in floats]
    return [name for name in found if not name.startswith(("k", "pos"))]


def feeds_of(model: onnx.ModelProto, made: GradientModel) -> dict[str, np.ndarray]:
    """Inputs of the model, seeds of its outputs, and the constants that became inputs."""
    feeds = random_feeds(model)
    rng = np.random.default_rng(1)
    for info in model.graph.output:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        feeds[made.seeds[info.name]] = rng.standard_normal(shape).astype(dtype)
    wanted = {i.name for i in made.model.proto.graph.input}
    return feeds | {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name in wanted}


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Runs a model in onnxruntime."""
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def check(row: Row, evaluate: Callable[[onnx.ModelProto], Any] = evaluator) -> None:
    """The gradients of a row equal central differences in double precision, and in onnxruntime in single precision.

    Args:
        row: The row.
        evaluate: Makes what runs models of double precision.
    """
    model = row.model("double")
    names = names_of(model)
    made = differentiate(Model(model), [o.name for o in model.graph.output], names)
    assert not made.reasons
    feeds = feeds_of(model, made)
    got = dict(zip(names, evaluate(made.model.proto).run([made.gradients[n] for n in names], feeds), strict=True))
    seeds = {o.name: feeds[made.seeds[o.name]] for o in model.graph.output}
    wanted = finite_differences(model, random_feeds(model), seeds, names, evaluate)
    for name in names:
        assert got[name].shape == wanted[name].shape
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-6, atol=2e-8)

    single = row.model("float")
    made = differentiate(Model(single), [o.name for o in single.graph.output], names)
    feeds = feeds_of(single, made)  # a gradient that is a seed lies where this does
    for name, array in zip(
        names, session(made.model.proto).run([made.gradients[n] for n in names], feeds), strict=True
    ):
        np.testing.assert_allclose(array, wanted[name], rtol=1e-4, atol=1e-5)
