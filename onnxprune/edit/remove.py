"""Removal of channels from a model: slices its constants and resizes its nodes.

The ModelProto is edited in place: constants are sliced, shape constants are updated (and duplicated if their consumers
need different values), attributes are set, and shape annotations are refreshed. Nothing else changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from onnxprune.coupling.coupling import Coupling
from onnxprune.edit import computed
from onnxprune.edit.bypass import pass_on
from onnxprune.edit.index_tensors import factors_and_summands, with_positions
from onnxprune.edit.refill import refill
from onnxprune.edit.resize import Entries, KeptLengths, NewPositions, NodeEdits
from onnxprune.edit.sliced import Sliced
from onnxprune.edit.slicing import ConstantEdit, add_constant, apply_edits, constant_edits, node_index
from onnxprune.graph.contents import known
from onnxprune.graph.graph import Node, Scope, Value
from onnxprune.graph.lengths import names, parse
from onnxprune.graph.operators import operator_of
from onnxprune.graph.polynomials import Length
from onnxprune.model.model import Model
from onnxprune.model.unique_names import Names
from onnxprune.model.values import Made, Values


def remove(model: Model, coupling: Coupling, removed: NDArray[np.bool_]) -> None:
    """Removes channels from the analyzed model in place.

    Args:
        model: The model whose proto `coupling.graph` was built from.
        coupling: Its analysis.
        removed: Boolean per channel id, True for removed channels; shape (elements,).
    """
    if not removed.any():
        return
    lengths = KeptLengths(coupling, removed)
    changes = NodeEdits(coupling, lengths)
    _Patch(model, coupling, lengths, changes).run()


class _Patch:
    def __init__(self, model: Model, coupling: Coupling, lengths: KeptLengths, changes: NodeEdits) -> None:
        self.model = model
        self.coupling = coupling
        self.graph = coupling.graph
        self.lengths = lengths
        self.changes = changes
        self.constant_edits = constant_edits(coupling, lengths)
        self.names = Names(self.graph.proto, {s.name for s in self.constant_edits})

    def run(self) -> None:
        apply_edits(self.model, self.graph, self.constant_edits, _left)
        self._set_positions()
        self._set_inputs()
        self._gather_kept()
        self._multiply_means()
        refill(self.coupling, self.lengths, self.names)
        for (node, name), value in self.changes.attributes.items():
            _set_attribute(node.proto, name, value)
        for scope in self.graph.scopes():
            self._refresh(scope)
        self._leave_out_branches()

    def _leave_out_branches(self) -> None:
        """Leaves out what nothing needs without an index that is gone."""
        parts = [(branch, branch.part) for branch in self.coupling.branches]
        gone = [branch for branch, part in parts if part.index in self.lengths.removed(part.axis)]
        ends = dict(end for branch in gone for end in branch.ends)
        pass_on(self.graph.proto.graph, [(n.proto, ends[n]) for n in sorted(ends, key=lambda n: n.index)])

    def _set_positions(self) -> None:
        """Gives index tensors other positions: as a constant where the contents are known, else by nodes before it."""
        for (node, i), changes in self.changes.positions.items():
            value = node.input(i)
            entries = self.coupling.data.get(value)
            if value.tensor is not None:
                array = onnx.numpy_helper.to_array(value.tensor)
            elif entries is not None and known(entries):
                array = self.lengths.surviving(value, entries).astype(np.int64)
            else:
                self._compute_positions(node, i, value, changes)
                continue
            array = with_positions(array, changes)
            self.changes.inputs[node, i] = list(array.flat)
            self.changes.shapes[node, i] = array.shape

    def _compute_positions(self, node: Node, i: int, value: Value, changes: Sequence[NewPositions]) -> None:
        """Computes index tensors: one index of the axes that get shorter, its old positions times 0, plus the new."""
        factors, summands = factors_and_summands(changes, value.rank or 0, value.axis(-1).length or 1)
        dtype = helper.tensor_dtype_to_np_dtype(value.elem_type or TensorProto.INT64)
        for axis in [c.along for c in changes if c.along is not None]:
            self._insert(node, i, "Gather", np.zeros(1, np.int64), axis=axis)
        self._insert(node, i, "Mul", factors.astype(dtype))
        self._insert(node, i, "Add", summands.astype(dtype))

    def _insert(self, node: Node, i: int, op_type: str, operand: NDArray[Any], **attributes: Any) -> None:
        """Inserts a node with a constant operand between an input of a node and what computes it."""
        source = node.proto.input[i]
        tensor = _tensor(operand, self.names.fresh(f"{source}_operand"))
        add_constant(self.graph, node.scope, node, tensor)
        out = self.names.fresh(f"{source}_resized")
        made = helper.make_node(op_type, [source, tensor.name], [out], name=out, **attributes)
        node.scope.proto.node.insert(node_index(node), made)
        node.proto.input[i] = out

    def _set_inputs(self) -> None:
        shared: dict[str, list[tuple[Node, int, Entries]]] = {}
        for (node, i), entries in self.changes.inputs.items():
            value = node.inputs[i] if i < len(node.inputs) else None
            if value is None:
                self._set_constant_input(node, i, np.array(entries, dtype=np.int64))
            elif value.tensor is not None:
                shared.setdefault(value.key, []).append((node, i, entries))
            else:
                self._set_computed(node, i, value, entries)
        readers = Counter[str]()
        for value in self.graph.values:
            readers[value.key] += len(value.consumers)
        for key, requests in shared.items():
            self._set_shared(requests, readers[key])

    def _set_shared(self, requests: list[tuple[Node, int, Entries]], readers: int) -> None:
        """Updates a shape constant; consumers that need other values than the rest get a constant of their own."""
        node, i, _ = requests[0]
        first = node.inputs[i]
        assert first is not None and first.tensor is not None
        tensor = first.tensor
        old = onnx.numpy_helper.to_array(tensor)
        wanted = []
        for node, i, entries in requests:
            flat = (
                [
                    o if e is None or isinstance(e, Length) else e
                    for o, e in zip(old.reshape(-1).tolist(), entries, strict=True)
                ]
                if len(entries) == old.size
                else entries
            )
            array = np.array(flat, dtype=old.dtype)
            shape = old.shape if array.size == old.size else self.changes.shapes.get((node, i), array.shape)
            wanted.append((node, i, array.reshape(shape)))
        alone = len(wanted) == readers and not _is_output(first)
        if alone and all(np.array_equal(a, wanted[0][2]) for _, _, a in wanted):
            if not np.array_equal(wanted[0][2], old):
                self.model.set_array(tensor, wanted[0][2])
            return
        added: dict[tuple[str, bytes], str] = {}
        for node, i, array in wanted:
            if np.array_equal(array, old):
                continue
            key = node.scope.path, array.tobytes()  # no other scope sees what is added to this one
            if key in added:
                node.proto.input[i] = added[key]
            else:
                added[key] = self._set_constant_input(node, i, array, first)

    def _set_computed(self, node: Node, i: int, value: Value, entries: Entries) -> None:
        """Replaces a computed shape, or some of its entries, if its new value is not the required one."""
        then = self.coupling.data.get(value)
        then = None if then is None else self.lengths.surviving(value, then)
        now = self.changes.now.get(value)
        changes = computed.changes(then, now, entries, infers=operator_of(node).infers_length)
        if all(change == computed.UNCHANGED for change in changes):
            return
        dtype = helper.tensor_dtype_to_np_dtype(value.elem_type or TensorProto.INT64)
        if not any(e is None or isinstance(e, Length) for e in entries):
            shape = then.shape if then is not None and then.size == len(entries) else (len(entries),)
            shape = self.changes.shapes.get((node, i), shape)
            self._set_constant_input(node, i, np.array(entries, dtype=dtype).reshape(shape), value)
            return
        if not self._replace_constant_parts(node, i, value, changes, dtype):
            self._compute(node, i, changes, dtype)

    def _gather_kept(self) -> None:
        """Inserts a Gather of the kept indices at each constant cut whose consumers lose channels."""
        for cut in self.coupling.constant_cuts:
            name, producer, gathers = cut.made.name, cut.made.producer, []
            assert producer is not None
            for axis in (cut.read.axis(p) for p in sorted(cut.positions)):
                if self.lengths.changed(axis):
                    kept = _tensor(self.lengths.kept(axis), self.names.fresh(f"{cut.made.name}_stay"))
                    add_constant(self.graph, producer.scope, producer, kept)
                    source, name = name, self.names.fresh(f"{cut.made.name}_left")
                    gathers.append(
                        helper.make_node("Gather", [source, kept.name], [name], name=name, axis=axis.position)
                    )
            for position, gather in enumerate(gathers, start=node_index(producer) + 1):
                producer.scope.proto.node.insert(position, gather)
            for node, i in cut.read.consumers:
                node.proto.input[i] = name

    def _multiply_means(self) -> None:
        """Multiplies means over fewer indices by the share of the kept ones, since the removed ones were zero."""
        shares: dict[Node, float] = {}
        means = [m for m in self.coupling.ties.means if self.lengths.changed(m.axis)]
        for mean in means:
            shares[mean.node] = shares.get(mean.node, 1.0) * self.lengths.share(mean.axis)
        for node, mean in {m.node: m for m in means}.items():
            out, share, proto = node.outputs[0], shares[node], node.proto
            assert out is not None
            factor = helper.make_tensor(self.names.fresh(f"{out.name}_share"), out.elem_type, [], [share**mean.power])
            add_constant(self.graph, node.scope, node, factor)
            position = node_index(node)
            proto.output[0] = self.names.fresh(f"{out.name}_mean")
            name = self.names.fresh(f"{out.name}_scaled")
            node.scope.proto.node.insert(
                position + 1, helper.make_node("Mul", [proto.output[0], factor.name], [out.name], name=name)
            )
            if mean.epsilon is not None:
                _set_attribute(proto, "epsilon", mean.epsilon / share)

    def _replace_constant_parts(
        self, node: Node, i: int, value: Value, changes: Sequence[computed.Change], dtype: np.dtype[Any]
    ) -> bool:
        """Changes entries of a concatenation that stand in constants there; false where others must change too."""
        concat = value.producer
        if concat is None or concat.op_type != "Concat" or concat.scope is not node.scope:
            return False
        parts = computed.constant_parts(concat, changes)
        if parts is None:
            return False
        names = list(concat.proto.input)
        for position, entries in parts.items():
            tensor = _tensor(np.array(entries, dtype=dtype), self.names.fresh(names[position]))
            names[position] = add_constant(self.graph, concat.scope, concat, tensor)
        if len(value.consumers) == 1 and not _is_output(value):
            concat.proto.input[:] = names
            return True
        out = self.names.fresh(f"{value.name}_resized")
        made = helper.make_node("Concat", names, [out], name=out, axis=0)
        node.scope.proto.node.insert(node_index(node), made)
        node.proto.input[i] = out
        return True

    def _compute(self, node: Node, i: int, changes: Sequence[computed.Change], dtype: np.dtype[Any]) -> None:
        """Computes the entries of a shape from what they are: ``entry * factor / divisor + added``."""
        steps: list[tuple[str, list[float], int]] = [
            ("Mul", [c.factor for c in changes], 1),
            ("Div", [c.divisor for c in changes], 1),
            ("Add", [c.added for c in changes], 0),
        ]
        for op_type, numbers, neutral in steps:
            if any(n != neutral for n in numbers):
                self._insert(node, i, op_type, np.array(numbers, dtype=dtype))

    def _set_constant_input(self, node: Node, i: int, array: NDArray[Any], like: Value | None = None) -> str:
        """Adds a constant as input `i` of a node and returns its name, which is derived from `like` if given."""
        base = like.name if like is not None else f"{node.proto.name or node.proto.output[0]}_size"
        tensor = _tensor(array, self.names.fresh(base))
        while len(node.proto.input) <= i:
            node.proto.input.append("")
        node.proto.input[i] = tensor.name
        return add_constant(self.graph, node.scope, node, tensor)

    def _refresh(self, scope: Scope) -> None:
        """Updates the declared shapes of a scope; those of sequences and optional values are dropped."""
        infos = [*scope.proto.value_info, *scope.proto.input, *scope.proto.output]
        for info in infos:
            value = scope.names.get(info.name)
            if value is None or not info.type.tensor_type.HasField("shape"):
                continue
            if value.tensor is not None:  # index and shape constants change by what they hold, too
                _declare(info, value.tensor.dims)
            elif self.lengths.touches(value):
                dims = info.type.tensor_type.shape.dim
                for axis in value.axes():
                    if axis.position < len(dims) and self.lengths.changed(axis):
                        _declare_length(dims[axis.position], self.lengths.length(axis))
        if self.lengths.any_removed:
            others = [info for info in scope.proto.value_info if not info.type.HasField("tensor_type")]
            for info in others:
                scope.proto.value_info.remove(info)


def _left(edit: ConstantEdit, values: Values) -> Values:
    """What is left of a constant, with the zeros that it is stored with."""
    left = Sliced(values, edit.change)
    if not edit.padded:
        return left
    lost = [len(edit.change[axis]) if axis in edit.padded else 0 for axis in range(len(values.shape))]
    shape = [n + more for n, more in zip(left.shape, lost, strict=True)]
    return Made(shape, values.dtype, lambda: np.pad(left.array(), [(0, more) for more in lost]))


def _declare(info: onnx.ValueInfoProto, lengths: Sequence[int]) -> None:
    """Gives a declared shape the lengths of a constant, where they differ; names of axes are kept."""
    shape = info.type.tensor_type.shape
    if len(shape.dim) != len(lengths):
        del shape.dim[:]
        shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=length) for length in lengths)
    for dim, length in zip(shape.dim, lengths, strict=True):
        if dim.HasField("dim_value") and dim.dim_value != length:
            dim.dim_value = length


def _declare_length(dim: onnx.TensorShapeProto.Dimension, length: int | Length | None) -> None:
    """Gives an axis that is declared its new length; a name that is none of the old names is left out."""
    if dim.HasField("dim_value"):
        if isinstance(length, int):
            dim.dim_value = length
    elif isinstance(length, Length) and names(length) <= names(parse(dim.dim_param)):
        dim.dim_param = str(length)
    else:
        dim.Clear()


def _tensor(array: NDArray[Any], name: str) -> TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)  # ascontiguousarray gives scalars an axis


def _is_output(value: Value) -> bool:
    return any(o.name == value.name for o in value.scope.proto.output)


def _set_attribute(node: NodeProto, name: str, value: Any) -> None:
    for i, a in enumerate(node.attribute):
        if a.name == name:
            if value is None:
                del node.attribute[i]
            else:
                fresh = helper.make_attribute(name, value)
                if fresh != a:
                    a.CopyFrom(fresh)
            return
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))
