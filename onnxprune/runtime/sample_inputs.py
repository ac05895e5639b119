"""Sample inputs for a model without data: plausible lengths for free axes, plausible values for each type.

They are derived from names, types and downstream nodes: token ids are valid indices of the table that they index, masks
are ones, and images are large enough for the pooling layers.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxprune.errors import InputError, option
from onnxprune.graph.graph import Graph
from onnxprune.graph.operators import Copies, operator_of
from onnxprune.model.inputs import fed_inputs
from onnxprune.model.skeleton import inlined_skeleton
from onnxprune.model.tensors import all_nodes, constants
from onnxprune.runtime.axis_lengths import SIZES, Sizes

MAX_VALUES = 2**28
"""Values of one synthetic input: a model can declare any size."""
_SIZE_PATTERNS = [
    ("batch", re.compile(r"batch|^(n|b|bs)$", re.I)),
    ("sequence", re.compile(r"seq|len|time|frame|token|past|step|position", re.I)),
    ("spatial", re.compile(r"height|width|^(h|w)$", re.I)),
]


def candidate_sizes(
    proto: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None, sizes: Iterable[Sizes] = SIZES
) -> list[Sizes]:
    """Returns those of some sizes that give inputs different shapes; only the first one if no axis is free.

    Raises:
        InputError: As in `input_dims`.
    """
    return list(_by_shapes(_Inputs.of(proto, input_shapes), sizes).values())


def candidate_dims(
    proto: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> list[dict[str, tuple[int, ...]]]:
    """Returns the different shapes of all inputs that `SIZES` give; see `input_dims`.

    Raises:
        InputError: As in `input_dims`.
    """
    return [dict(shapes) for shapes in _by_shapes(_Inputs.of(proto, input_shapes), SIZES)]


def _by_shapes(inputs: _Inputs, sizes: Iterable[Sizes]) -> dict[tuple[tuple[str, tuple[int, ...]], ...], Sizes]:
    """The first of some sizes that gives each of the different shapes of inputs."""
    found: dict[tuple[tuple[str, tuple[int, ...]], ...], Sizes] = {}
    for candidate in sizes:
        found.setdefault(tuple(inputs.shapes(candidate).items()), candidate)
    return found


def input_dims(
    proto: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None, sizes: Sizes | None = None
) -> dict[str, tuple[int, ...]]:
    """Returns a concrete shape for every input that is fed.

    Axes of the same name (`dim_param`) get the same length, sums such as "past + 1" are computed, and given shapes take
    precedence.

    Args:
        proto: The model.
        input_shapes: Shapes of some or all inputs by name; they determine axes of the same name in other inputs too.
        sizes: Lengths of free axes.

    Raises:
        InputError: A given shape names no input or contradicts the model, or an input is not a tensor or has no known
            rank.
    """
    return _Inputs.of(proto, input_shapes).shapes(sizes or Sizes())


def sample_inputs(
    proto: onnx.ModelProto,
    *,
    seed: int = 0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int = 1,
    sizes: Sizes | None = None,
) -> dict[str, np.ndarray]:
    """Returns an array for every input that is fed.

    Floats are standard normal, token ids are valid indices of their table, masks are ones, booleans true, token types
    zero, other integers 0 or 1, 8-bit images uniform, strings empty. Equal seeds give equal arrays.

    Args:
        proto: The model.
        seed: Seed of the random values.
        input_shapes: Shapes by input name, see `input_dims`.
        batch: Length of a free batch axis.
        sizes: Lengths of all free axes; overrides `batch`.

    Raises:
        InputError: As in `input_dims`, or an input would be too large.
    """
    shapes = input_dims(proto, input_shapes, sizes or Sizes(batch=batch))
    for name, shape in shapes.items():
        if math.prod(shape) > MAX_VALUES:
            raise InputError(
                f"input '{name}' would take {math.prod(shape)} values", f"give smaller {option('input_shapes')}"
            )
    rows = _index_bounds(inlined_skeleton(proto) if proto.functions else proto)
    rng = np.random.default_rng(seed)
    types = {v.name: v.type.tensor_type.elem_type for v in fed_inputs(proto.graph)}
    return {name: _values(name, types[name], shape, rows.get(name), rng) for name, shape in shapes.items()}


def _values(name: str, kind: int, shape: tuple[int, ...], rows: int | None, rng: np.random.Generator) -> np.ndarray:
    """Returns the values of one input; `rows` is the length of the table that it indexes, if any."""
    if kind == TensorProto.STRING:
        return np.full(shape, "", dtype=object)
    dtype, low = np.dtype(helper.tensor_dtype_to_np_dtype(kind)), name.lower()
    if dtype.kind == "b" or "mask" in low:
        return np.ones(shape, dtype=dtype)
    if dtype.kind not in "iu":
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
    if "type" in low or "segment" in low:
        return np.zeros(shape, dtype=dtype)
    if rows is not None and "position" in low and shape:
        return np.broadcast_to(np.arange(shape[-1]) % rows, shape).astype(dtype)
    if rows is not None:  # the first rows are often padding and control tokens
        return np.asarray(rng.integers(min(3, rows - 1), rows, size=shape)).astype(dtype)
    if dtype.itemsize == 1 and len(shape) >= 3:
        info = np.iinfo(dtype)
        return np.asarray(rng.integers(info.min, info.max + 1, size=shape)).astype(dtype)
    return np.asarray(rng.integers(0, 2, size=shape)).astype(dtype)


def _index_bounds(proto: onnx.ModelProto) -> dict[str, int]:
    """Returns, for every value that indexes constant tables, the number of rows of the smallest one."""
    tables = {name: list(t.dims) for _, name, t in constants(proto)}
    bound: dict[str, int] = {}
    # One backward pass: nodes are in topological order, so the consumers of a value precede its producer.
    for node in reversed(list(all_nodes(proto.graph))):
        operator = operator_of(node)
        for table, index in operator.lookups:
            if index < len(node.input) and tables.get(node.input[table]):
                dims = tables[node.input[table]]
                axis = next((a.i for a in node.attribute if a.name in ("axis", "gather_axis")), 0)
                _tighten(bound, node.input[index], dims[axis])
        if operator.copies is not None:
            for source in node.input if operator.copies in (Copies.JOINED, Copies.MIXED) else node.input[:1]:
                for output in node.output:
                    if output in bound:
                        _tighten(bound, source, bound[output])
    return bound


def _tighten(bound: dict[str, int], name: str, rows: int) -> None:
    bound[name] = min(rows, bound.get(name, rows))


Dims = list[int | str]


@dataclass(frozen=True)
class _Inputs:
    """What is known of the lengths of all inputs, whatever lengths the free axes get.

    Attributes:
        given: Shapes that the caller gave.
        declared: Declared axes by input.
        inferred: Lengths of free axes that follow from weights, by input and axis.
        named: Lengths of the named axes of given shapes.
    """

    given: Mapping[str, Sequence[int]]
    declared: Mapping[str, Dims]
    inferred: Mapping[str, dict[int, int]]
    named: Mapping[str, int]

    @classmethod
    def of(cls, proto: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]] | None) -> _Inputs:
        """Reads them off a model; see `input_dims`."""
        given = dict(input_shapes or {})
        values = {v.name: v for v in fed_inputs(proto.graph)}
        for name in given:
            if name not in values:
                raise InputError(f"no input is called '{name}'", hint=_suggest(name, list(values)))
        inferred = _dims_from_weights(proto) if any(not _static(v) for v in values.values()) else {}
        declared = {name: _declared(value, given.get(name), inferred.get(name)) for name, value in values.items()}
        named: dict[str, int] = {}
        for name, shape in given.items():
            _check_given(name, declared[name], shape, named)
        return cls(given, declared, inferred, named)

    def shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        """Returns the shape of every input, with these lengths of free axes."""
        named = dict(self.named)
        free = {name: dims for name, dims in self.declared.items() if name not in self.given}
        for name, dims in free.items():  # plain names first: sums refer to them
            for axis, dim in enumerate(dims):
                if isinstance(dim, str) and dim.isidentifier() and dim not in named:
                    named[dim] = _guess(dim, axis, dims, self.inferred.get(name, {}), sizes)
        return {
            name: tuple(self.given[name])
            if name in self.given
            else tuple(_resolve(axis, dims, self.inferred.get(name, {}), named, sizes) for axis in range(len(dims)))
            for name, dims in self.declared.items()
        }


def _static(value: onnx.ValueInfoProto) -> bool:
    shape = value.type.tensor_type.shape
    return value.type.tensor_type.HasField("shape") and all(d.dim_value > 0 for d in shape.dim)


def _declared(value: onnx.ValueInfoProto, given: Sequence[int] | None, inferred: dict[int, int] | None) -> Dims:
    """Returns the declared axes of an input: a length if static, the name (or "") if free."""
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "value of no declared type"
        raise InputError(
            f"input '{value.name}' is a {kind.removesuffix('_type')}, not a tensor", hint="feed it yourself"
        )
    if value.type.tensor_type.HasField("shape"):
        dims = value.type.tensor_type.shape.dim
        return [d.dim_value if d.dim_value > 0 else d.dim_param for d in dims]
    if given is not None:
        return [""] * len(given)
    if inferred:
        return [""] * max(2, inferred.get(_RANK, 0))
    raise InputError(
        f"input '{value.name}' has no declared shape", f"give one: {option('input_shapes', {value.name: (1, ...)})}"
    )


def _check_given(name: str, dims: Dims, shape: Sequence[int], named: dict[str, int]) -> None:
    """Checks a given shape against the declared one, and records the lengths of named axes in `named`."""
    text = "x".join(map(str, shape))
    if len(shape) != len(dims):
        raise InputError(f"input '{name}' has {len(dims)} axes, but {text} was given for it")
    for size, dim in zip(shape, dims, strict=True):
        if size < 0 or (isinstance(dim, int) and dim != size):
            declared = "x".join(str(d or "?") for d in dims)
            raise InputError(f"input '{name}' is declared {declared}, but {text} was given for it")
        if isinstance(dim, str) and dim and named.setdefault(dim, size) != size:
            raise InputError(f"axis '{dim}' was given two sizes: {named[dim]} and {size}")


def _suggest(name: str, valid: list[str]) -> str:
    folded = {v.casefold(): v for v in valid}
    near = difflib.get_close_matches(name.casefold(), list(folded), n=1)
    listed = f"inputs: {', '.join(valid)}"
    return f"did you mean '{folded[near[0]]}'? {listed}" if near else listed


def _resolve(axis: int, dims: Dims, inferred: dict[int, int], named: dict[str, int], sizes: Sizes) -> int:
    dim = dims[axis]
    if isinstance(dim, int):
        return dim
    if dim in named:
        return named[dim]
    total = _sum(dim, named)
    return _guess(dim, axis, dims, inferred, sizes) if total is None else total


def _sum(text: str, named: dict[str, int]) -> int | None:
    """Evaluates an axis name such as "past_length + 1"; None if it is not a sum of numbers and known names."""
    terms = [t.strip() for t in text.split("+")]
    values = [int(t) if t.isdigit() else named.get(t) for t in terms]
    known = [v for v in values if v is not None]
    return sum(known) if len(known) == len(values) else None


def _guess(name: str, axis: int, dims: Dims, inferred: dict[int, int], sizes: Sizes) -> int:
    """Returns the length of a free axis from its name, from the weight that reads it, or from its position."""
    for kind, pattern in _SIZE_PATTERNS:
        if pattern.search(name):
            return int(getattr(sizes, kind))
    if axis == 0 and len(dims) != 1:
        return sizes.batch
    for position in (axis, axis - len(dims)):
        if position in inferred:
            return inferred[position]
    if len(dims) == 4:
        channels_last = isinstance(dims[3], int) and dims[3] <= 4
        if axis in ((1, 2) if channels_last else (2, 3)):
            return sizes.spatial
        return sizes.channels
    return sizes.batch if axis == 0 else sizes.sequence


_RANK = 1000  # key of the inferred rank, among keys that are axes


def _dims_from_weights(proto: onnx.ModelProto) -> dict[str, dict[int, int]]:
    """Axis lengths of inputs that follow from the weight of a layer that reads them."""
    asked: dict[str, dict[int, int]] = {}
    for node in Graph(_readers_of_inputs(proto)).main.nodes:
        declared = operator_of(node).affine
        for form in declared(node) if declared is not None else ():
            if form.x_axis not in (1, -1) or not node.has(form.x) or not node.has(form.weight):
                continue
            dims = [d for d in node.input(form.weight).shape or [] if isinstance(d, int)]
            if node.input(form.weight).tensor is None or len(dims) < 2:
                continue
            if form.kind == "conv":
                asked[node.input(form.x).name] = {1: dims[1] * int(node.attribute("group", 1)), _RANK: len(dims)}
            elif form.kind == "conv_transpose":
                asked[node.input(form.x).name] = {1: dims[0], _RANK: len(dims)}
            else:
                asked[node.input(form.x).name] = {-1: dims[-2 if form.transposed else -1], _RANK: 2}
    return asked


def _readers_of_inputs(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The nodes that read a graph input, with the constants that they read; these without their values."""
    fed = {v.name for v in fed_inputs(proto.graph)}
    nodes = [node for node in proto.graph.node if not fed.isdisjoint(node.input)]
    read = {name for node in nodes for name in node.input}
    weights = [
        TensorProto(name=name, data_type=t.data_type, dims=t.dims)
        for scope, name, t in constants(proto)
        if not scope and name in read
    ]
    graph = onnx.GraphProto(node=nodes, initializer=weights, input=[v for v in proto.graph.input if v.name in fed])
    return onnx.ModelProto(graph=graph, opset_import=proto.opset_import)
