"""Output shapes of operators that `onnx.shape_inference` does not know: onnxruntime's own, mostly.

Each function gives the shape of every output that the input shapes tell. A length is a number, the name of a free
one, or None; what cannot be told is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnx import TensorProto

from onnxprune.graph.data_propagation import Data, Unknown
from onnxprune.graph.graph import Dim, Node, Value

Shape = list[Dim] | None

_Function = Callable[[Node, list[Shape]], list[Shape]]
_MS = "com.microsoft"
_TYPED_BY = {
    "QLinearConcat": 1,
    "MatMulIntegerToFloat": 2,
    "EmbedLayerNormalization": 2,
    "QEmbedLayerNormalization": 8,
    "DequantizeLinear": 1,
    "QuantizeLinear": 2,
    "QAttention": 3,
    "QLinearWhere": 1,
}
"""Input whose element type the outputs have."""


def outputs(node: Node) -> list[Shape]:
    """Shape of each output; empty for an operator that is not known here, or whose inputs tell too little."""
    function = _TABLE.get((node.domain, node.op_type))
    if function is None:
        return []
    try:
        return function(node, [v.shape if v is not None else None for v in node.inputs])
    except (IndexError, TypeError, ValueError, ZeroDivisionError):  # a malformed node tells nothing
        return []


def elem_type(node: Node) -> int | None:
    """Element type of the outputs where it is not that of the first input."""
    source = _TYPED_BY.get(node.op_type) if node.domain == _MS else None
    if node.op_type in ("Scaler", "Normalizer"):
        return TensorProto.FLOAT
    if node.op_type == "QGemm":
        source = 8 if len(node.inputs) > 8 and node.inputs[8] is not None else 1
    value = node.inputs[source] if source is not None and source < len(node.inputs) else None
    return value.elem_type if value is not None else None


def _need(shape: Shape) -> list[Dim]:
    if shape is None:
        raise ValueError("shape unknown")
    return shape


def _like_first(node: Node, shapes: list[Shape]) -> list[Shape]:
    return [list(_need(shapes[0]))]


def _half_last(node: Node, shapes: list[Shape]) -> list[Shape]:
    *rest, last = _need(shapes[0])
    return [[*rest, last // 2 if isinstance(last, int) else None]]


def _swiglu(node: Node, shapes: list[Shape]) -> list[Shape]:
    return _like_first(node, shapes) if len(shapes) > 1 else _half_last(node, shapes)


def _broadcast(*places: int) -> _Function:
    def function(node: Node, shapes: list[Shape]) -> list[Shape]:
        parts = [_need(shapes[i]) for i in places]
        return [_joined(parts)]

    return function


def _joined(parts: Sequence[Sequence[Dim]]) -> list[Dim]:
    """Numpy's broadcasting."""
    rank = max(map(len, parts))
    out: list[Dim] = []
    padded: list[list[Dim]] = [[*[1] * (rank - len(p)), *p] for p in parts]
    for column in zip(*padded, strict=True):
        numbers = [d for d in column if isinstance(d, int) and d != 1]
        named = [d for d in column if d != 1]
        out.append(numbers[0] if numbers else (named[0] if named and len(set(named)) == 1 else (None if named else 1)))
    return out


def _product(a_at: int, b_at: int) -> _Function:
    def function(node: Node, shapes: list[Shape]) -> list[Shape]:
        a, b = list(_need(shapes[a_at])), list(_need(shapes[b_at]))
        if len(a) < 2 or len(b) < 2:
            raise ValueError("a factor is no matrix")
        a, b = _turned(node, "A", a), _turned(node, "B", b)
        return [[*_joined([a[:-2], b[:-2]]), a[-2], b[-1]]]

    return function


def _turned(node: Node, side: str, dims: list[Dim]) -> list[Dim]:
    """Dims of a factor of FusedMatMul after its transposes."""
    if node.attribute(f"transBatch{side}", 0):
        dims = [*dims[1:-1], dims[0], dims[-1]]
    if node.attribute(f"trans{side}", 0):
        dims = [*dims[:-2], dims[-1], dims[-2]]
    return dims


def _gemm(a_at: int, b_at: int) -> _Function:
    def function(node: Node, shapes: list[Shape]) -> list[Shape]:
        a, b = _need(shapes[a_at]), _need(shapes[b_at])
        return [[a[1 if node.attribute("transA", 0) else 0], b[0 if node.attribute("transB", 0) else 1]]]

    return function


def _matmul_nbits(node: Node, shapes: list[Shape]) -> list[Shape]:
    return [[*_need(shapes[0])[:-1], node.attribute("N")]]


def _convolution(x_at: int, w_at: int) -> _Function:
    def function(node: Node, shapes: list[Shape]) -> list[Shape]:
        x, w = _need(shapes[x_at]), _need(shapes[w_at])
        if node.attribute("channels_last", 0):
            return [[x[0], *_windows(node, x[1:-1], w[2:]), w[0]]]
        return [[x[0], w[0], *_windows(node, x[2:], w[2:])]]

    return function


def _nhwc_convolution(node: Node, shapes: list[Shape]) -> list[Shape]:
    x, w = _need(shapes[0]), _need(shapes[1])
    return [[x[0], *_windows(node, x[1:-1], w[1:-1]), w[0]]]


def _windows(node: Node, space: Sequence[Dim], kernel: Sequence[Dim]) -> list[Dim]:
    """Lengths of space after sliding a window over it."""
    n = len(space)
    strides = node.attribute("strides") or [1] * n
    dilations = node.attribute("dilations") or [1] * n
    pads = node.attribute("pads") or [0] * (2 * n)
    auto = node.attribute("auto_pad", "NOTSET")
    out: list[Dim] = []
    for i, (length, size) in enumerate(zip(space, kernel, strict=True)):
        if not isinstance(length, int) or not isinstance(size, int) or node.attribute("ceil_mode", 0):
            out.append(None)
        elif auto.startswith("SAME"):
            out.append(math.ceil(length / strides[i]))
        else:
            padded = length + (0 if auto == "VALID" else pads[i] + pads[i + n])
            out.append((padded - dilations[i] * (size - 1) - 1) // strides[i] + 1)
    return out


def _pool(node: Node, shapes: list[Shape]) -> list[Shape]:
    x = _need(shapes[0])
    last = bool(node.attribute("channels_last", 0))
    space = x[1:-1] if last else x[2:]
    kernel = node.attribute("kernel_shape")
    small = [1] * len(space) if kernel is None else _windows(node, space, kernel)
    return [[x[0], *small, x[-1]] if last else [x[0], x[1], *small]]


def _concat(node: Node, shapes: list[Shape]) -> list[Shape]:
    parts = [_need(s) for s in shapes[2::3]]
    along = node.attribute("axis") % len(parts[0])
    lengths = [p[along] for p in parts]
    whole = sum(d for d in lengths if isinstance(d, int)) if all(isinstance(d, int) for d in lengths) else None
    return [[whole if i == along else d for i, d in enumerate(parts[0])]]


def _mean(node: Node, shapes: list[Shape]) -> list[Shape]:
    x = _need(shapes[0])
    over = {a % len(x) for a in node.attribute("axes") or range(len(x))}
    keep = node.attribute("keepdims", 1)
    return [[1 if i in over else d for i, d in enumerate(x) if keep or i not in over]]


def _normalised(node: Node, shapes: list[Shape]) -> list[Shape]:
    x = _need(shapes[0])
    first = node.attribute("axis", -1) % len(x)
    small: list[Dim] = [*x[:first], *([1] * (len(x) - first))]
    return [list(x), small, small, list(x)]


def _embedding(node: Node, shapes: list[Shape]) -> list[Shape]:
    ids, width = _need(shapes[0]), _need(shapes[2])[1]
    return [[*ids, width], [ids[0]], [*ids, width]]


def _group_norm(node: Node, shapes: list[Shape]) -> list[Shape]:
    return [list(_need(shapes[0])), list(_need(shapes[0]))]


def _attention(node: Node, shapes: list[Shape]) -> list[Shape]:
    x, w = _need(shapes[0]), _need(shapes[1])
    sizes = node.attribute("qkv_hidden_sizes")
    width = sizes[2] if sizes else (w[1] // 3 if isinstance(w[1], int) else None)
    key = sizes[1] if sizes else width
    heads = node.attribute("num_heads")
    present: list[Dim] = [2, x[0], heads, None, key // heads if isinstance(key, int) else None]
    return [[x[0], x[1], width], present]


def _multi_head(node: Node, shapes: list[Shape]) -> list[Shape]:
    q, heads = _need(shapes[0]), node.attribute("num_heads")
    key = shapes[1] if len(shapes) > 1 else None
    value = shapes[2] if len(shapes) > 2 else None
    if len(q) != 3:  # packed
        return [[q[0], q[1], heads * q[4] if isinstance(q[4], int) else None]] if len(q) == 5 else []
    width = q[2]
    if value is not None:
        width = value[2] if len(value) == 3 else (heads * value[3] if isinstance(value[3], int) else None)
    cache: list[Shape] = []
    for size in (q[2] if key is not None else None, width):
        cache.append([q[0], heads, None, size // heads if isinstance(size, int) else None])
    return [[q[0], q[1], width], *cache]


def _grouped_query(node: Node, shapes: list[Shape]) -> list[Shape]:
    q = _need(shapes[0])
    heads, pairs = node.attribute("num_heads"), node.attribute("kv_num_heads")
    packed = len(shapes) < 2 or shapes[1] is None
    size = q[2] // (heads + 2 * pairs if packed else heads) if isinstance(q[2], int) else None
    cache: list[Dim] = [q[0], pairs, None, size]
    return [[q[0], q[1], heads * size if size is not None else None], cache, list(cache)]


def _lstm(node: Node, shapes: list[Shape]) -> list[Shape]:
    x, r = _need(shapes[0]), _need(shapes[2])
    return [[x[0], r[0], x[1], r[1]], [r[0], x[1], r[1]], [r[0], x[1], r[1]]]


_TABLE: dict[tuple[str, str], _Function] = {
    **{
        (_MS, name): _like_first
        for name in (
            "Gelu",
            "BiasGelu",
            "FastGelu",
            "QuickGelu",
            "BiasAdd",
            "BiasDropout",
            "BiasSoftmax",
            "ScaledSiLU",
            "RotaryEmbedding",
            "QLinearLeakyRelu",
            "QLinearSigmoid",
            "QLinearSoftmax",
            "QuantizeLinear",
            "DequantizeLinear",
            "GatedAdd",
            "MoE",
            "QMoE",
            "Trilu",
            "RemovePadding",
            "NGramRepeatBlock",
        )
    },
    **{
        (_MS, name): _normalised
        for name in (
            "SkipLayerNormalization",
            "SkipSimplifiedLayerNormalization",
            "LayerNormalization",
            "SimplifiedLayerNormalization",
        )
    },
    ("", "SimplifiedLayerNormalization"): _normalised,
    ("", "LayerNormalization"): _normalised,  # onnxruntime's optimiser writes it into models of older opsets
    **{("ai.onnx.ml", name): _like_first for name in ("Scaler", "Normalizer", "Imputer", "Binarizer")},
    ("", "GroupNormalization"): _like_first,  # a function whose body onnx cannot follow
    **{(_MS, name): _broadcast(0, 3) for name in ("QLinearAdd", "QLinearMul")},
    (_MS, "QLinearWhere"): _broadcast(0, 1, 4),
    **{
        (_MS, name): _product(0, 1)
        for name in (
            "FusedMatMul",
            "TransposeMatMul",
            "FusedMatMulActivation",
            "GemmFastGelu",
            "DynamicQuantizeMatMul",
            "MatMulIntegerToFloat",
        )
    },
    (_MS, "FusedGemm"): _gemm(0, 1),
    (_MS, "QGemm"): _gemm(0, 3),
    (_MS, "MatMulNBits"): _matmul_nbits,
    (_MS, "NhwcConv"): _nhwc_convolution,
    (_MS, "FusedConv"): _convolution(0, 1),
    (_MS, "QLinearConv"): _convolution(0, 3),
    **{(_MS, name): _pool for name in ("QLinearGlobalAveragePool", "QLinearAveragePool")},
    (_MS, "QLinearConcat"): _concat,
    (_MS, "QLinearReduceMean"): _mean,
    (_MS, "BiasSplitGelu"): _half_last,
    (_MS, "SwiGLU"): _swiglu,
    (_MS, "EmbedLayerNormalization"): _embedding,
    (_MS, "QEmbedLayerNormalization"): _embedding,
    (_MS, "GroupNorm"): _group_norm,
    (_MS, "SkipGroupNorm"): _group_norm,
    (_MS, "Attention"): _attention,
    (_MS, "QAttention"): _attention,
    (_MS, "MultiHeadAttention"): _multi_head,
    (_MS, "GroupQueryAttention"): _grouped_query,
    (_MS, "DynamicQuantizeLSTM"): _lstm,
}


def dims(entries: Sequence[object]) -> list[Dim]:
    """Lengths for what a shape operand holds: -1 is not known, free entries have their name."""
    return [e if isinstance(e, int) and e >= 0 else (e.name if isinstance(e, Unknown) else None) for e in entries]


def told(node: Node, data: dict[Value, Data]) -> list[Dim] | None:
    """Output shape of a node by the contents of its shape input."""
    if node.domain or len(node.inputs) == 0:
        return None
    source = node.inputs[0]
    operand = node.inputs[1] if len(node.inputs) > 1 else None
    if source is None:
        return None
    if node.op_type == "ConstantOfShape" and source in data:
        return dims(list(data[source].flat))
    if operand is None or operand not in data:
        return None
    entries = list(data[operand].flat)
    if node.op_type == "Reshape":
        return _reshaped(source.shape, entries, bool(node.attribute("allowzero", 0)))
    if node.op_type == "Expand" and source.shape is not None:
        rank = max(len(entries), len(source.shape))
        have: list[Dim] = [*[1] * (rank - len(source.shape)), *source.shape]
        want = [*[1] * (rank - len(entries)), *entries]
        return [h if h != 1 and (h is not None) else d for h, d in zip(have, dims(want), strict=True)]
    return None


def parts(node: Node) -> list[list[Dim]]:
    """Output shapes of a Split whose sizes only the run will tell."""
    source = node.inputs[0] if node.op_type == "Split" and not node.domain and node.inputs else None
    if source is None or not source.shape:
        return []
    axis = node.attribute("axis", 0) % len(source.shape)
    return [[None if i == axis else d for i, d in enumerate(source.shape)] for _ in node.outputs]


def _reshaped(shape: list[Dim] | None, entries: Sequence[object], allow_zero: bool) -> list[Dim]:
    out: list[Dim] = []
    for i, e in enumerate(entries):
        if e == 0 and not allow_zero:
            out.append(shape[i] if shape is not None and i < len(shape) else None)
        else:
            out.append(dims([e])[0])
    if shape is not None and -1 in entries:
        hole = entries.index(-1)
        rest: list[Dim] = [d for i, d in enumerate(out) if i != hole]
        total: list[Dim] = list(shape)
        for d in list(rest):
            if d is not None and not isinstance(d, int) and d in total:
                rest.remove(d)
                total.remove(d)
        if all(isinstance(d, int) for d in rest + total):
            count = math.prod(int(d or 0) for d in total)
            size = math.prod(int(d or 0) for d in rest)
            out[hole] = count // size if size else None
        elif all(isinstance(d, int) for d in rest) and len([d for d in total if not isinstance(d, int)]) == 1:
            size, count = math.prod(int(d or 0) for d in rest), math.prod(d for d in total if isinstance(d, int))
            if size == count:
                out[hole] = next(d for d in total if not isinstance(d, int))
    return out
