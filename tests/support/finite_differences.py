"""Gradients of a model by central differences, in double precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.support.exact_operators import exact_operators
from tests.support.oracle import OLD_ONNX

STEP = 1e-6


def evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    """Runs a model in the precision of its values."""
    return ReferenceEvaluator(model, new_ops=exact_operators(model.opset_import[0].version))


def as_inputs(model: onnx.ModelProto, names: Sequence[str]) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """A copy that takes some of its constants as inputs, and their values."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in names}
    rest = [t for t in model.graph.initializer if t.name not in names]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(rest)
    for name, array in values.items():
        copy.graph.input.append(onnx.helper.make_tensor_value_info(name, TensorProto.DOUBLE, array.shape))
    return copy, values


def finite_differences(
    model: onnx.ModelProto,
    feeds: Mapping[str, Any],
    seeds: Mapping[str, NDArray[Any]],
    names: Sequence[str],
    evaluate: Callable[[onnx.ModelProto], Any] = evaluator,
) -> dict[str, NDArray[np.float64]]:
    """Gradients of the sum of the outputs times their seeds; skips where an old onnx does not compute these.

    Args:
        model: A model of double precision.
        feeds: Its inputs.
        seeds: An array for each output.
        names: Constants or inputs.
        evaluate: Makes what runs the model.
    """
    free, values = as_inputs(model, names)
    runner = evaluate(free)
    at = {**feeds, **values}

    def total(name: str, array: NDArray[Any]) -> float:
        try:
            made = runner.run(list(seeds), {**at, name: array})
            return float(sum((np.asarray(y) * s).sum() for y, s in zip(made, seeds.values(), strict=True)))
        except (ValueError, RuntimeError) as error:
            if OLD_ONNX:
                pytest.skip(f"onnx {onnx.__version__} computes it otherwise: {str(error).splitlines()[0]}")
            raise

    found = {}
    for name in names:
        gradient = np.empty(at[name].shape)
        for i in np.ndindex(gradient.shape):
            shift = np.zeros(gradient.shape)
            shift[i] = STEP
            gradient[i] = (total(name, at[name] + shift) - total(name, at[name] - shift)) / (2 * STEP)
        found[name] = gradient
    return found
