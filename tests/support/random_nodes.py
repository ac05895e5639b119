"""Random operators and small blocks that can be appended to a random model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.support.graph_builder import Builder, Tensor

Step = Callable[[Builder], None]


def _conv(b: Builder) -> None:
    x = b.choose.pick(b.images())
    n, c, h, w = x.shape
    groups = b.choose.pick([1, 1, 1, *[g for g in (2, 3, 4, c) if c % g == 0]])
    per = b.choose.integer(1, 4) if groups > 1 else b.choose.integer(2, 12)
    k = b.choose.pick([1, 1, 3])
    inputs = [x.name, b.weight(groups * per, c // groups, k, k, fan_in=c // groups * k * k)]
    if b.choose.integer(0, 1):
        inputs.append(b.weight(groups * per))
    b.node("Conv", inputs, (n, groups * per, h, w), group=groups, pads=[k // 2] * 4)


def _conv_transpose(b: Builder) -> None:
    x = b.choose.pick(b.images())
    n, c, h, w = x.shape
    groups = b.choose.pick([1, *[g for g in (2, 4) if c % g == 0]])
    per = b.choose.integer(1, 5)
    inputs = [x.name, b.weight(c, per, 1, 1, fan_in=c // groups)]
    if b.choose.integer(0, 1):
        inputs.append(b.weight(groups * per))
    b.node("ConvTranspose", inputs, (n, groups * per, h, w), group=groups)


def _batch_norm(b: Builder) -> None:
    x = b.choose.pick(b.images())
    c = x.shape[1]
    scale, bias, mean = (b.weight(c) for _ in range(3))
    b.node("BatchNormalization", [x.name, scale, bias, mean, b.weight(c, positive=True)], x.shape)


def _instance_norm(b: Builder) -> None:
    x = b.choose.pick(b.images())
    b.node("InstanceNormalization", [x.name, b.weight(x.shape[1]), b.weight(x.shape[1])], x.shape)


def _unary(b: Builder) -> None:
    x = b.choose.pick([*b.images(), *b.rows()])
    b.node(
        b.choose.pick(["Relu", "Sigmoid", "Tanh", "Abs", "HardSigmoid", "Softplus", "Identity", "Neg"]),
        [x.name],
        x.shape,
    )


def _binary(b: Builder) -> None:
    x = b.choose.pick([*b.images(), *b.rows()])
    alike = [t for t in [*b.images(), *b.rows()] if t.shape == x.shape]
    b.node(b.choose.pick(["Add", "Mul", "Sub", "Max"]), [x.name, b.choose.pick(alike).name], x.shape)


def _with_constant(b: Builder) -> None:
    x = b.choose.pick([*b.images(), *b.rows()])
    axis = 1 if len(x.shape) == 4 else 2
    shape = [1] * len(x.shape)
    if b.choose.integer(0, 2):
        shape[axis] = x.shape[axis]
    b.node(b.choose.pick(["Add", "Mul", "PRelu", "Div"]), [x.name, b.weight(*shape, positive=True)], x.shape)


def _gate(b: Builder) -> None:
    """Squeeze and excitation: a channel's mean gates it."""
    x = b.choose.pick(b.images())
    n, c = x.shape[:2]
    pooled = b.node(b.choose.pick(["GlobalAveragePool", "GlobalMaxPool"]), [x.name], (n, c, 1, 1))
    gate = b.node("Sigmoid", [pooled.name], pooled.shape)
    b.node("Mul", [x.name, gate.name], x.shape)


def _concat(b: Builder) -> None:
    x = b.choose.pick(b.images())
    fit = [t for t in b.images() if (t.shape[0], *t.shape[2:]) == (x.shape[0], *x.shape[2:])]
    parts = [x, *[b.choose.pick(fit) for _ in range(b.choose.integer(1, 2))]]
    total = sum(t.shape[1] for t in parts)
    if total <= 40:
        b.node("Concat", [t.name for t in parts], (x.shape[0], total, *x.shape[2:]), axis=b.choose.pick([1, -3]))


def _split(b: Builder) -> None:
    x = b.choose.pick(b.images())
    n, c, h, w = x.shape
    if c < 2:
        return
    if c % 2 == 0 and b.choose.integer(0, 1):
        t = b.node("Split", [x.name], (n, c // 2, h, w), outputs=2, axis=1)
        sizes = [c // 2, c // 2]
    else:
        first = b.choose.integer(1, c - 1)
        sizes = [first, c - first]
        t = b.node("Split", [x.name, b.constant(np.array(sizes))], (n, first, h, w), outputs=2, axis=1)
    b.tensors.append(Tensor(f"{t.name}_1", (n, sizes[1], h, w)))


def _slice(b: Builder) -> None:
    x = b.choose.pick(b.images())
    n, c, h, w = x.shape
    start, step = b.choose.integer(0, c - 1), b.choose.pick([1, 1, 1, 2, 3, -1])
    stop = b.choose.integer(start + 1, c) if step > 0 else -1000
    taken = len(range(c)[slice(start, stop if step > 0 else None, step)])
    constants = [b.constant(np.array([v])) for v in (start, stop, 1, step)]
    b.node("Slice", [x.name, *constants], (n, taken, h, w))


def _gather(b: Builder) -> None:
    x = b.choose.pick(b.images())
    n, c, h, w = x.shape
    index = np.array([b.choose.integer(-c, c - 1) for _ in range(b.choose.integer(1, c))])
    b.node("Gather", [x.name, b.constant(index)], (n, len(index), h, w), axis=1)


def _pad(b: Builder) -> None:
    x = b.choose.pick(b.images())
    n, c, h, w = x.shape
    before, after = b.choose.integer(0, 3), b.choose.integer(-1 if c > 2 else 0, 3)
    pads = np.array([0, before, 0, 0, 0, after, 0, 0])
    inputs = [x.name, b.constant(pads)]
    if b.choose.integer(0, 1):
        inputs.append(b.constant(np.array(b.choose.pick([0.0, 0.5]), dtype=np.float32)))
    b.node("Pad", inputs, (n, c + before + after, h, w))


def _tile(b: Builder) -> None:
    x = b.choose.pick(b.images())
    n, c, h, w = x.shape
    if c <= 12:
        times = b.choose.integer(2, 3)
        b.node("Tile", [x.name, b.constant(np.array([1, times, 1, 1]))], (n, times * c, h, w))


def _expand(b: Builder) -> None:
    """A mean over channels, spread over as many channels again."""
    x = b.choose.pick(b.images())
    n, c, h, w = x.shape
    one = (
        b.node("ReduceMean", [x.name], (n, 1, h, w), axes=[1])
        if b.choose.integer(0, 1)
        else b.node("ReduceSum", [x.name, b.constant(np.array([1]))], (n, 1, h, w))
    )
    if b.choose.integer(0, 1):
        width = b.choose.pick([c, 5])
        wide = b.node("Expand", [one.name, b.constant(np.array([1, width, 1, 1]))], (n, width, h, w))
        if width == c:
            b.node("Add", [x.name, wide.name], x.shape)


def _shuffle(b: Builder) -> None:
    x = b.choose.pick(b.images())
    n, c, h, w = x.shape
    groups = [g for g in (2, 3, 4, 6) if c % g == 0 and c > g]
    if not groups:
        return
    g = b.choose.pick(groups)
    a = b.node("Reshape", [x.name, b.constant(np.array([-1, g, c // g, h, w]))], (n, g, c // g, h, w))
    t = b.node("Transpose", [a.name], (n, c // g, g, h, w), perm=[0, 2, 1, 3, 4])
    b.node("Reshape", [t.name, b.constant(np.array([0, c, h, w]) if n == 1 else np.array([-1, c, h, w]))], x.shape)


def _group_norm(b: Builder) -> None:
    x = b.choose.pick(b.images())
    n, c, h, w = x.shape
    groups = [g for g in (1, 2, 3, 4, c) if c % g == 0]
    g = b.choose.pick(groups)
    a = b.node("Reshape", [x.name, b.constant(np.array([0, g, -1]))], (n, g, c // g * h * w))
    ones = b.constant(np.ones(g, np.float32)), b.constant(np.zeros(g, np.float32))
    i = b.node("InstanceNormalization", [a.name, *ones], a.shape)
    back = b.node("Reshape", [i.name, b.constant(np.array([-1, c, h, w]))], x.shape)
    b.node("Mul", [back.name, b.weight(c, 1, 1)], x.shape)


def _depth_to_space(b: Builder) -> None:
    x = b.choose.pick(b.images())
    n, c, h, w = x.shape
    if c % 4 == 0 and h <= 8:
        up = b.node(
            "DepthToSpace", [x.name], (n, c // 4, 2 * h, 2 * w), blocksize=2, mode=b.choose.pick(["DCR", "CRD"])
        )
        b.node("SpaceToDepth", [up.name], x.shape, blocksize=2)


def _pool(b: Builder) -> None:
    x = b.choose.pick(b.images())
    b.node(b.choose.pick(["MaxPool", "AveragePool"]), [x.name], x.shape, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def _resize(b: Builder) -> None:
    x = b.choose.pick(b.images())
    n, c, h, w = x.shape
    if h > 4:
        return
    if b.choose.integer(0, 1):
        b.node("Resize", [x.name, "", b.constant(np.array([1, 1, 2, 2], np.float32))], (n, c, 2 * h, 2 * w))
    else:
        b.node("Resize", [x.name, "", "", b.constant(np.array([n, c, 2 * h, 2 * w]))], (n, c, 2 * h, 2 * w))


def _to_rows(b: Builder) -> None:
    """Image to tokens: spatial places become rows, channels features."""
    x = b.choose.pick(b.images())
    n, c, h, w = x.shape
    flat = b.node("Reshape", [x.name, b.constant(np.array([0, 0, -1]))], (n, c, h * w))
    b.node("Transpose", [flat.name], (n, h * w, c), perm=[0, 2, 1])


def _linear(b: Builder) -> None:
    if not b.rows():
        return _to_rows(b)
    x = b.choose.pick(b.rows())
    n, s, d = x.shape
    width = b.choose.pick([4, 6, 8, 12])
    y = b.node("MatMul", [x.name, b.weight(d, width, fan_in=d)], (n, s, width))
    if b.choose.integer(0, 1):
        b.node("Add", [y.name, b.weight(width)], y.shape)
    return None


def _layer_norm(b: Builder) -> None:
    if b.rows():
        x = b.choose.pick(b.rows())
        b.node("LayerNormalization", [x.name, b.weight(x.shape[2]), b.weight(x.shape[2])], x.shape, axis=-1)


def _attention(b: Builder) -> None:
    """Multi-head attention written out, with shared key and value heads now and then."""
    if not b.rows():
        return
    x = b.choose.pick(b.rows())
    n, s, d = x.shape
    heads, size = b.choose.pick([2, 3, 4]), b.choose.pick([2, 3])
    shared = b.choose.pick([1, 1, heads]) if heads != 4 else b.choose.pick([1, 2, 4])
    kv = heads // shared

    def project(count: int) -> Tensor:
        y = b.node("MatMul", [x.name, b.weight(d, count * size, fan_in=d)], (n, s, count * size))
        y = b.node("Add", [y.name, b.weight(count * size)], y.shape)
        r = b.node("Reshape", [y.name, b.constant(np.array([0, 0, count, size]))], (n, s, count, size))
        return b.node("Transpose", [r.name], (n, count, s, size), perm=[0, 2, 1, 3])

    def repeat(t: Tensor) -> Tensor:
        if shared == 1:
            return t
        u = b.node("Unsqueeze", [t.name, b.constant(np.array([2]))], (n, kv, 1, s, size))
        e = b.node("Expand", [u.name, b.constant(np.array([1, 1, shared, 1, 1]))], (n, kv, shared, s, size))
        return b.node("Reshape", [e.name, b.constant(np.array([0, heads, s, size]))], (n, heads, s, size))

    q, k, v = project(heads), repeat(project(kv)), repeat(project(kv))
    kt = b.node("Transpose", [k.name], (n, heads, size, s), perm=[0, 1, 3, 2])
    a = b.node("Softmax", [b.node("MatMul", [q.name, kt.name], (n, heads, s, s)).name], (n, heads, s, s), axis=-1)
    o = b.node("MatMul", [a.name, v.name], (n, heads, s, size))
    back = b.node("Transpose", [o.name], (n, s, heads, size), perm=[0, 2, 1, 3])
    flat = b.node("Reshape", [back.name, b.constant(np.array([0, 0, heads * size]))], (n, s, heads * size))
    out = b.node("MatMul", [flat.name, b.weight(heads * size, d, fan_in=heads * size)], (n, s, d))
    b.node("Add", [x.name, out.name], x.shape)


def _recurrent(b: Builder) -> None:
    if not b.rows():
        return
    x = b.choose.pick(b.rows())
    n, s, d = x.shape
    kind, hidden = b.choose.pick([("LSTM", 4), ("GRU", 3), ("RNN", 1)]), b.choose.pick([3, 4, 5])
    op_type, gates = kind
    ways = b.choose.integer(1, 2)
    t = b.node("Transpose", [x.name], (s, n, d), perm=[1, 0, 2])
    inputs = [
        t.name,
        b.weight(ways, gates * hidden, d, fan_in=d),
        b.weight(ways, gates * hidden, hidden, fan_in=hidden),
    ]
    if b.choose.integer(0, 1):
        inputs.append(b.weight(ways, 2 * gates * hidden))
    y = b.node(
        op_type,
        inputs,
        (s, ways, n, hidden),
        hidden_size=hidden,
        direction="bidirectional" if ways == 2 else b.choose.pick(["forward", "reverse"]),
    )
    m = b.node("Transpose", [y.name], (n, s, ways, hidden), perm=[2, 0, 1, 3])
    b.node("Reshape", [m.name, b.constant(np.array([0, 0, -1]))], (n, s, ways * hidden))


STEPS: dict[str, Step] = {
    "conv": _conv,
    "conv again": _conv,
    "conv transpose": _conv_transpose,
    "batch norm": _batch_norm,
    "instance norm": _instance_norm,
    "unary": _unary,
    "binary": _binary,
    "binary again": _binary,
    "constant": _with_constant,
    "gate": _gate,
    "concat": _concat,
    "split": _split,
    "slice": _slice,
    "gather": _gather,
    "pad": _pad,
    "tile": _tile,
    "expand": _expand,
    "shuffle": _shuffle,
    "group norm": _group_norm,
    "depth to space": _depth_to_space,
    "pool": _pool,
    "resize": _resize,
    "rows": _to_rows,
    "linear": _linear,
    "linear again": _linear,
    "layer norm": _layer_norm,
    "attention": _attention,
    "recurrent": _recurrent,
}
