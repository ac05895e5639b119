"""Copies without large values, and the size of a model."""

from __future__ import annotations

import onnx
import pytest
from onnx import parser

from onnxprune.model.model import load, skeleton
from onnxprune.model.skeleton import serialized_size
from onnxprune.model.tensors import is_external, tensors
from tests.model.cases import NESTED, decorated, network


def test_a_skeleton_lacks_only_large_values():
    proto = decorated()
    slim = skeleton(proto, limit=1024)
    assert slim.ByteSize() < 1024
    for a, b in zip(tensors(slim), tensors(proto), strict=True):
        big = b.name in ("w0", "w1", "w2", "typed")
        assert is_external(a) == big
        assert (a.name, a.dims, a.data_type, a.doc_string) == (b.name, b.dims, b.data_type, b.doc_string)
        if not big:
            assert a == b
    for message in (slim, slim.graph):
        for field in ("initializer", "graph"):
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    bare.ClearField("graph")
    assert slim.SerializeToString() == bare.SerializeToString()


def test_a_skeleton_without_limit_is_the_model():
    proto = decorated()
    assert skeleton(proto, limit=2**40).SerializeToString() == proto.SerializeToString()
    nested = parser.parse_model(NESTED)
    assert skeleton(nested, limit=2**40).SerializeToString() == nested.SerializeToString()


@pytest.mark.parametrize("make", [network, decorated, lambda: parser.parse_model(NESTED)])
def test_the_size_is_computed_without_serializing(make):
    proto = make()
    assert serialized_size(proto) == len(proto.SerializeToString())
    assert load(proto).nbytes == len(proto.SerializeToString())
