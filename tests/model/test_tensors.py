"""Tensors of every element type are found, read and replaced."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxprune.errors import ModelError
from onnxprune.model.model import Model, constants, load, qualified
from onnxprune.model.tensors import encode, is_external, tensors
from tests.model.cases import KINDS, NESTED, decorated, network, values, write_external


@pytest.mark.parametrize("kind", KINDS, ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_every_element_type_is_read_and_replaced(tmp_path, kind, external):
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    low, high = (1, 2) if TensorProto.DataType.Name(kind) == "FLOAT8E8M0" else (0, 1)  # a type of powers of two
    whole = np.array([[low, high, high], [high, low, high], [high, high, low]]).astype(dtype)
    proto = network()
    proto.graph.initializer.append(encode(whole, kind))
    tensor = proto.graph.initializer[-1]
    tensor.name, tensor.doc_string = "t", "about it"
    path = tmp_path / "m.onnx"
    if external:
        path = write_external(tmp_path, proto)
    else:
        onnx.save(proto, path)
    model = Model(onnx.load(path, load_external_data=False), path)  # `load` would read so few elements
    tensor = model.proto.graph.initializer[-1]
    assert is_external(tensor) == external
    np.testing.assert_array_equal(model.array(tensor), whole, strict=True)
    model.set_array(tensor, whole[1:])
    assert not is_external(tensor)
    assert not tensor.external_data
    assert (tensor.name, tensor.doc_string, tensor.data_type) == ("t", "about it", kind)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), whole[1:], strict=True)


@pytest.mark.parametrize("kind", KINDS, ids=TensorProto.DataType.Name)
def test_new_values_replace_typed_fields(kind):
    if kind in (getattr(TensorProto, k, -1) for k in ("FLOAT6E2M3", "FLOAT6E3M2")):
        pytest.skip("onnx's own make_tensor has no typed field for it")
    tensor = helper.make_tensor("t", kind, [4], np.array([0, 1, 1, 0]))
    model = Model(network())
    model.set_array(tensor, model.array(tensor)[1:2])
    assert list(tensor.dims) == [1]
    assert model.array(tensor).astype(np.complex64) == 1
    assert not any(len(getattr(tensor, f)) for f in ("float_data", "int32_data", "int64_data", "double_data"))


def test_strings_are_read_and_replaced():
    tensor = helper.make_tensor("t", TensorProto.STRING, [3], [b"a", b"b", b"c"])
    model = Model(network())
    model.set_array(tensor, model.array(tensor)[1:])
    assert list(tensor.string_data) == [b"b", b"c"]
    assert list(tensor.dims) == [2]


def test_values_are_converted_to_the_element_type():
    tensor = numpy_helper.from_array(np.ones(2, np.float16), "t")
    Model(network()).set_array(tensor, np.array([1.5, 2.5]))
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), np.array([1.5, 2.5], np.float16), strict=True)


def test_scalars_and_empty_tensors_survive(tmp_path):
    proto = network()
    for name, array in (("scalar", np.array(3.0, "f")), ("empty", np.zeros((0, 4), "f"))):
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    model = load(write_external(tmp_path, proto))
    found = values(model)
    assert found["scalar"].shape == () and found["scalar"] == 3
    assert found["empty"].shape == (0, 4)
    model.set_array(model.proto.graph.initializer[-2], np.array(4.0))
    assert list(model.proto.graph.initializer[-2].dims) == []


def test_data_that_disagree_with_the_dimensions_are_refused():
    proto = network()
    proto.graph.initializer[0].dims[0] = 31
    with pytest.raises(ModelError, match="tensor 'w0' has 4096 bytes of data; its type and dimensions ask for 3968"):
        load(proto)


def test_constants_are_found_in_all_graphs_with_their_scope():
    found = {(scope, name): list(numpy_helper.to_array(t)) for scope, name, t in constants(parser.parse_model(NESTED))}
    assert found == {
        ("", "w"): [1, 2],
        ("", "k"): [3, 4],
        ("y/then_branch|a/then_branch", "w"): [5, 6],
        ("y/then_branch", "b"): [7, 8],
    }
    assert qualified("y/then_branch|a/then_branch", "w") == "y/then_branch|a/then_branch|w"
    assert qualified("", "w") == "w"


def test_every_tensor_is_walked_once():
    proto = decorated()
    names = [t.name for t in tensors(proto)]
    assert names == ["w0", "w1", "w2", "typed", "words", "sparse", ""]
