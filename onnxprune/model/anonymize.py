"""Strips weights and names from a model, so that it can be attached to a bug report.

Everything that the analysis reads is kept: operators, attributes, types, shapes, and the small tensors from which
shapes and indices are computed. Fields are copied one by one, so fields that this module does not know are dropped.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
)

from onnxprune.model.external_data import make_external
from onnxprune.model.model import Model
from onnxprune.model.tensors import STRIPPED, elements, encode

MAX_ENTRIES_OF_TYPE: dict[int, int] = {TensorProto.INT64: 4096, TensorProto.BOOL: 4096}
MAX_ENTRIES = 4
"""Number of entries up to which a tensor keeps its values: for types of shapes and indices, and for all others."""
MAX_TEXT, MAX_FLOATS = 64, 16
"""Bytes of a string and number of floats up to which an attribute is kept as a setting; larger ones are content."""
_PUBLIC = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
_STANDARD = {"", "ai.onnx"}


def anonymised(model: Model) -> ModelProto:
    """Returns a copy of a model without weights, names, texts and metadata.

    Equal names are replaced by equal names. Tensors without values are marked as external data at `STRIPPED`.

    Args:
        model: The model; not modified.
    """
    return _Copier(model).model()


class _Copier:
    def __init__(self, model: Model) -> None:
        self._source = model
        self._names: dict[tuple[str, str], str] = {}
        self._functions = {(f.domain, f.name) for f in model.proto.functions}

    def model(self) -> ModelProto:
        proto = self._source.proto
        copy = ModelProto(
            ir_version=proto.ir_version, producer_name=proto.producer_name, producer_version=proto.producer_version
        )
        for opset in proto.opset_import:
            copy.opset_import.add(domain=self._domain(opset.domain), version=opset.version)
        self._graph(proto.graph, copy.graph)
        for function in proto.functions:
            self._function(function, copy.functions.add())
        return copy

    def _name(self, kind: str, name: str) -> str:
        """Returns the replacement of a name; the empty name, which marks an absent value, is kept."""
        if not name:
            return ""
        return self._names.setdefault((kind, name), f"{kind}{len(self._names)}")

    def _value(self, name: str) -> str:
        return self._name("v", name)

    def _domain(self, domain: str) -> str:
        private = domain not in _PUBLIC and any(domain == d for d, _ in self._functions)
        return self._name("domain", domain) if private else domain

    def _graph(self, graph: GraphProto, copy: GraphProto) -> None:
        copy.name = "graph"
        for name in ("input", "output", "value_info"):
            for info in getattr(graph, name):
                self._info(info, getattr(copy, name).add())
        for tensor in graph.initializer:
            self._tensor(tensor, copy.initializer.add())
        for sparse in graph.sparse_initializer:
            self._sparse(sparse, copy.sparse_initializer.add())
        for annotation in graph.quantization_annotation:
            twin = copy.quantization_annotation.add(tensor_name=self._value(annotation.tensor_name))
            for entry in annotation.quant_parameter_tensor_names:
                twin.quant_parameter_tensor_names.add(key=entry.key, value=self._value(entry.value))
        for node in graph.node:
            self._node(node, copy.node.add())

    def _info(self, info: ValueInfoProto, copy: ValueInfoProto) -> None:
        copy.name = self._value(info.name)
        if info.HasField("type"):
            copy.type.CopyFrom(info.type)
            self._type(copy.type)

    def _type(self, message: Any) -> None:
        """Renames symbolic dimensions and clears denotations at any depth of a type."""
        for field, value in message.ListFields():
            if field.name == "dim_param":
                message.dim_param = self._name("d", value)
            elif field.name == "denotation":
                message.ClearField("denotation")
            elif field.message_type is not None:
                for item in [value] if isinstance(value, Message) else value:
                    self._type(item)

    def _tensor(self, tensor: TensorProto, copy: TensorProto) -> None:
        count = elements(tensor)
        if tensor.data_type == TensorProto.STRING:
            copy.string_data.extend([b""] * count)
        elif count <= MAX_ENTRIES_OF_TYPE.get(tensor.data_type, MAX_ENTRIES):
            copy.CopyFrom(encode(self._source.array(tensor), tensor.data_type, tuple(tensor.dims)))
        else:
            make_external(copy, STRIPPED, 0, 0)
        copy.name = self._value(tensor.name)
        copy.data_type = tensor.data_type
        copy.dims[:] = tensor.dims

    def _sparse(self, sparse: SparseTensorProto, copy: SparseTensorProto) -> None:
        copy.dims[:] = sparse.dims
        self._tensor(sparse.values, copy.values)
        self._tensor(sparse.indices, copy.indices)

    def _node(self, node: NodeProto, copy: NodeProto) -> None:
        copy.name = self._name("n", node.name)
        copy.domain, copy.op_type = self._domain(node.domain), node.op_type
        if (node.domain, node.op_type) in self._functions and node.domain not in _PUBLIC:
            copy.op_type = self._name("Function", node.op_type)
        if node.overload:
            copy.overload = self._name("o", node.overload)
        copy.input.extend(map(self._value, node.input))
        copy.output.extend(map(self._value, node.output))
        for attribute in node.attribute:
            self._attribute(node, attribute, copy.attribute.add(name=attribute.name, type=attribute.type))

    def _attribute(self, node: NodeProto, source: AttributeProto, copy: AttributeProto) -> None:
        content = node.op_type == "Constant" or node.domain not in _PUBLIC
        copy.ref_attr_name = source.ref_attr_name
        for name in ("f", "i"):
            if source.HasField(name):
                setattr(copy, name, getattr(source, name))
        if source.HasField("s"):
            copy.s = b"" if content or len(source.s) > MAX_TEXT else source.s
        copy.ints.extend(source.ints)
        weights = len(source.floats) > MAX_FLOATS or node.domain == "ai.onnx.ml"
        copy.floats.extend([0.0] * len(source.floats) if weights else source.floats)
        is_setting = node.domain in _STANDARD and not content
        copy.strings.extend(source.strings if is_setting else [b""] * len(source.strings))
        if source.HasField("t"):
            self._tensor(source.t, copy.t)
        if source.HasField("g"):
            self._graph(source.g, copy.g)
        for tensor in source.tensors:
            self._tensor(tensor, copy.tensors.add())
        for graph in source.graphs:
            self._graph(graph, copy.graphs.add())
        if source.HasField("sparse_tensor"):
            self._sparse(source.sparse_tensor, copy.sparse_tensor)
        for sparse in source.sparse_tensors:
            self._sparse(sparse, copy.sparse_tensors.add())
        if source.HasField("tp"):
            copy.tp.CopyFrom(source.tp)
            self._type(copy.tp)

    def _function(self, function: FunctionProto, copy: FunctionProto) -> None:
        public = function.domain in _PUBLIC
        copy.name = function.name if public else self._name("Function", function.name)
        copy.domain = self._domain(function.domain)
        if function.overload:
            copy.overload = self._name("o", function.overload)
        copy.input.extend(map(self._value, function.input))
        copy.output.extend(map(self._value, function.output))
        copy.attribute.extend(function.attribute)
        for default in function.attribute_proto:
            self._attribute(NodeProto(), default, copy.attribute_proto.add(name=default.name, type=default.type))
        for opset in function.opset_import:
            copy.opset_import.add(domain=self._domain(opset.domain), version=opset.version)
        for node in function.node:
            self._node(node, copy.node.add())
