"""Models between two versions of one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxprune.model.model import Model
from onnxprune.repair.interpolation import interpolate


def model(weight: NDArray[np.generic], constant: float, index: int, bias: NDArray[np.float32] | None = None) -> Model:
    value = numpy_helper.from_array(np.full(3, constant, np.float32), "value")
    nodes = [
        helper.make_node("Conv", ["x", "w", *(["b"] if bias is not None else [])], ["c"]),
        helper.make_node("Constant", [], ["k"], value=value),
        helper.make_node("Mul", ["c", "k"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([index]), "i")]
    tensors += [numpy_helper.from_array(bias, "b")] if bias is not None else []
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "y")]
    return Model(helper.make_model(helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors)))


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_weights_constants_and_new_biases_lie_between(kind: type) -> None:
    first = model(np.full((2, 1, 1), 1, kind), 10, 3)
    second = model(np.full((2, 1, 1), 5, kind), 20, 7, np.array([4, 8], np.float32))
    before = [m.proto.SerializeToString(deterministic=True) for m in (first, second)]
    made = interpolate(first, second, 0.25)
    arrays = {t.name: numpy_helper.to_array(t) for t in made.proto.graph.initializer}
    assert arrays["w"].dtype == kind and np.array_equal(arrays["w"], np.full((2, 1, 1), 2, kind))
    assert np.array_equal(arrays["b"], np.array([1, 2], np.float32))
    assert arrays["i"].tolist() == [7]
    (value,) = (a.t for n in made.proto.graph.node if n.op_type == "Constant" for a in n.attribute)
    assert np.array_equal(numpy_helper.to_array(value), np.full(3, 12.5, np.float32))
    assert before == [m.proto.SerializeToString(deterministic=True) for m in (first, second)]


def test_the_ends_are_the_versions() -> None:
    first, second = (model(np.full((2, 1, 1), v, np.float32), v, 1) for v in (1.1, 5.3))
    for share, end in ((0.0, first), (1.0, second)):
        assert interpolate(first, second, share).proto == end.proto
