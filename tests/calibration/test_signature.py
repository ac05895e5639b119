"""The inputs of a model as calibration sees them: ranks, types and the batch axis."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from onnxprune.calibration import open_samples
from onnxprune.calibration.signature import signature_of
from onnxprune.errors import InputError
from tests.calibration.cases import FLOAT, error, model, rows, sizes


def test_models_that_cannot_be_fed():
    with pytest.raises(InputError, match="no inputs"):
        open_samples([], model())
    proto = model(("x", [1]))
    proto.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, [1])))
    with pytest.raises(InputError, match="is a sequence"):
        open_samples([], proto)


@pytest.mark.parametrize(
    ("inputs", "axes", "cut"),
    [
        ([("x", ["N", 3])], [0], True),
        ([("x", [None, 3])], [0], True),
        ([("x", ["samples", 3])], [0], True),
        ([("x", ["num_tokens", 3])], [None], False),
        ([("x", [])], [None], False),
        ([("x", [4, 3])], [0], True),
        ([("ids", ["batch", "seq"]), ("past", ["batch", 4, "past", 8])], [0, 0], True),
        ([("x", ["seq", "batch", 2]), ("h", [2, "batch", 4])], [1, 1], True),
        ([("x", [1, 128]), ("mask", [1, 128])], [0, 0], True),
        ([("x", [1, 5, 2]), ("h", [2, 1, 4])], [0, 0], False),
        ([("x", [None, 3]), ("y", [None, 3])], [0, 0], False),
        ([("x", ["batch", 3]), ("size", [2])], [0, None], False),
        ([("x", ["batch", 3]), ("y", ["batch_1", 3])], [0, 0], False),
    ],
)
def test_batch_axes(inputs, axes, cut):
    signature = signature_of(model(*inputs))
    assert [model_input.axis for model_input in signature.inputs] == axes
    assert signature.certain == cut


def test_an_input_of_undeclared_rank():
    proto = model(("x", [1]))
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert sizes(open_samples(rows(5), proto, batch=2)) == [2, 2, 1]
    assert "'x' is a scalar, but the model takes any shape" in error({"x": np.float32(1)}, proto)
