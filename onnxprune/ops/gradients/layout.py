"""Gradients of operators that move, join, part or repeat elements."""

from __future__ import annotations

import numpy as np

from onnxprune.ops.gradients.node_gradient import NodeGradient
from onnxprune.ops.registry import gradient

FURTHEST = 2**31 - 1
"""An end that stands for all that there is."""


@gradient("Reshape Flatten Squeeze Unsqueeze")
def reshape(g: NodeGradient) -> None:
    """The gradient in the shape of the input."""
    g.give(0, g.reshaped(g.d(), g.node.input(0)))


@gradient("Transpose")
def transpose(g: NodeGradient) -> None:
    """The inverse permutation."""
    order = g.attr("perm", None) or list(range(g.rank(g.node.input(0))))[::-1]
    g.give(0, g.emit("Transpose", g.d(), perm=[int(i) for i in np.argsort(order)]))


@gradient("Trilu")
def trilu(g: NodeGradient) -> None:
    """The same triangle."""
    g.give(0, g.emit("Trilu", g.d(), *(g.x(i) for i in (1,) if g.node.has(i)), upper=int(g.attr("upper", 1))))


@gradient("ReverseSequence")
def reverse_sequence(g: NodeGradient) -> None:
    """Turned round once more."""
    axes = {name: g.attr(name, default) for name, default in (("batch_axis", 1), ("time_axis", 0))}
    g.give(0, g.emit("ReverseSequence", g.d(), g.x(1), **axes))


@gradient("Expand")
def expand(g: NodeGradient) -> None:
    """The sum over what was repeated."""
    g.give(0, g.sum_to(g.d(), g.node.output(), g.node.input(0)))


@gradient("Tile")
def tile(g: NodeGradient) -> None:
    """The sum over the repetitions."""
    axes = range(0, 2 * g.rank(g.node.input(0)), 2)
    both = [g.write.unsqueeze(name, [1]) for name in (g.x(1), g.shape(g.node.input(0)))]
    split = g.emit("Reshape", g.emit("Concat", *both, axis=1), g.write.ints([-1]))
    g.give(0, g.write.reduce_sum(g.emit("Reshape", g.d(), split), axes, keepdims=False))


@gradient("Concat")
def concat(g: NodeGradient) -> None:
    """Each input gets its part."""
    axis, start = g.axis(g.node.output(), int(g.attr("axis"))), 0
    for i, value in enumerate(g.node.inputs):
        assert value is not None
        length = value.axis(axis).length
        if length is None:
            _concat_at_run_time(g, axis)
            return
        if g.wants(i):
            g.give(i, g.write.slice(g.d(), [start], [start + length], [axis], [1]))
        start += length


def _concat_at_run_time(g: NodeGradient, axis: int) -> None:
    start = g.write.ints([0])
    for i in range(len(g.node.inputs)):
        length = g.write.slice(g.emit("Shape", g.x(i)), [axis], [axis + 1], [0], [1])
        end = g.emit("Add", start, length)
        if g.wants(i):
            g.give(i, g.write.slice_at(g.d(), start, end, [axis]))
        start = end


@gradient("Split")
def split(g: NodeGradient) -> None:
    """The gradients of the parts, joined; zeros for a part that nothing depends on."""
    parts = [g.d_or_none(i) or g.zeros(g.node.output(i)) for i in range(len(g.node.outputs))]
    g.give(0, g.emit("Concat", *parts, axis=int(g.attr("axis", 0))))


@gradient("Slice")
def slice_(g: NodeGradient) -> None:
    """Zeros around the part that was taken."""
    x = g.node.input(0)
    name, value = g.d(), x
    for axis, start, end, step in _bounds(g):
        length = x.axis(axis).length
        if length is None:
            name = _padded_at_run_time(g, name, axis, (start, end, step))
            continue
        taken = range(length)[slice(start, end, step)]
        if step == 1:
            pads = [0] * 2 * g.rank(x)
            pads[axis], pads[axis + g.rank(x)] = taken.start, length - taken.start - len(taken)
            name = g.write.pad(name, pads)
        else:
            name = g.scattered(name, value, axis, list(taken), length)
    g.give(0, name)


def _padded_at_run_time(g: NodeGradient, name: str, axis: int, bounds: tuple[int, int | None, int]) -> str:
    """Zeros up to the length of an axis that only the run tells, around its first or its last elements."""
    (start, end, step), x = bounds, g.node.input(0)
    to_end = end is None or end >= FURTHEST
    if step != 1 or (start != 0 and not to_end):
        raise LookupError(f"the length of axis {axis} of '{x.name}', which {g.node.label} cuts, is not static")
    position = g.write.ints([axis])
    left, whole = (g.emit("Gather", g.emit("Shape", one), position) for one in (name, g.x()))
    missing, none = g.emit("Sub", whole, left), g.write.ints([0])
    pads = [none] * 2 * g.rank(x)
    pads[axis + (0 if start else g.rank(x))] = missing
    return g.write.pad_at(name, pads)


def _bounds(g: NodeGradient) -> list[tuple[int, int, int | None, int]]:
    """Axis, start, end and step of every axis that a Slice cuts; an end beyond all bounds as None."""
    if g.node.opset < 10:
        starts, ends, steps = list(g.attr("starts")), list(g.attr("ends")), None
        axes = g.attr("axes", None)
    else:
        starts, ends = g.numbers(1) or [], g.numbers(2) or []
        axes, steps = g.numbers(3), g.numbers(4)
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    found = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        length = g.node.input(0).axis(int(axis)).length or 0
        beyond = step < 0 and end < -length  # past the first element, going backwards
        found.append((g.axis(g.node.input(0), int(axis)), int(start), None if beyond else int(end), int(step)))
    return found


@gradient("Pad")
def pad(g: NodeGradient) -> None:
    """What is inside; padding that repeats elements is added to them."""
    x, mode = g.node.input(0), g.attr("mode", "constant")
    amounts = list(g.attr("pads")) if g.node.opset < 11 else [int(n) for n in g.numbers(1) or []]
    axes = range(g.rank(x)) if not g.node.has(3) else [g.axis(x, int(n)) for n in g.numbers(3) or []]
    name, half = g.d(), len(amounts) // 2
    for i, axis in enumerate(axes):
        before, after, length = amounts[i], amounts[half + i], x.axis(axis).length
        if not before and not after:
            continue
        if length is None:
            raise LookupError(f"the length of axis {axis} of '{x.name}', which {g.node.label} pads, is not static")
        if mode == "constant" and before >= 0 and after >= 0:
            name = g.write.slice(name, [before], [before + length], [axis], [1])
        elif before >= 0 and after >= 0 and mode in ("reflect", "edge", "wrap"):
            sources = np.pad(np.arange(length), (before, after), mode=mode)
            name = g.scattered(name, x, axis, list(sources), length)
        else:
            raise LookupError(f"{g.node.label} cuts its input")
    g.give(0, name)


@gradient("DepthToSpace")
def depth_to_space(g: NodeGradient) -> None:
    """Back to depth."""
    size, (_, channels, *_space) = int(g.attr("blocksize")), g.lengths(g.node.output())
    name = g.emit("SpaceToDepth", g.d(), blocksize=size)
    if g.attr("mode", "DCR") == "CRD":
        parted = g.write.reshape(name, [0, size * size, channels, -1])
        name = g.emit("Transpose", parted, perm=[0, 2, 1, 3])
    g.give(0, g.reshaped(name, g.node.input(0)))


@gradient("SpaceToDepth")
def space_to_depth(g: NodeGradient) -> None:
    """Back to space."""
    g.give(0, g.emit("DepthToSpace", g.d(), blocksize=int(g.attr("blocksize"))))


@gradient("Resize Upsample")
def resize(g: NodeGradient) -> None:
    """Interpolation is linear: each axis by the transpose of its matrix, which the operator makes of the identity."""
    x, out = g.node.input(0), g.node.output()
    name = g.d()
    if g.attr("coordinate_transformation_mode", "") == "tf_crop_and_resize" or g.attr("antialias", 0):
        raise LookupError(f"{g.node.label} crops or filters")
    attributes = {
        a: g.attr(a, None)
        for a in ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside")
    }
    scales = _scales(g)
    for axis in range(g.rank(x)):
        scale = None if scales is None else scales[axis]
        lengths = [one.axis(axis).length for one in (x, out)]
        stays = scale is None and x.shape is not None and out.shape is not None and x.shape[axis] == out.shape[axis]
        if scale == 1 or (stays and x.shape is not None and x.shape[axis] is not None):
            continue
        if None in lengths:
            matrix = _matrix_at_run_time(g, axis, scale, attributes)
        else:
            short, long = (int(n or 0) for n in lengths)
            eye = g.write.constant(np.eye(short, dtype=g.dtype(x))[None, None])
            matrix = g.write.reshape(
                _resized(g, eye, scale, g.write.ints([1, 1, short, long]), attributes), [short, long]
            )
        name = g.product_along(name, out, axis, g.emit("Transpose", matrix, perm=[1, 0]))
    g.give(0, name)


def _matrix_at_run_time(g: NodeGradient, axis: int, scale: float | None, attributes: dict[str, object]) -> str:
    """The matrix of an axis whose lengths only the run tells."""
    short, long = (g.write.slice(g.emit("Shape", name), [axis], [axis + 1], [0], [1]) for name in (g.x(), g.y()))
    zeros = g.emit("Expand", g.number(0), g.emit("Concat", short, short, axis=0))
    eye = g.write.unsqueeze(g.emit("EyeLike", zeros), [0, 1])
    lengths = g.emit("Concat", g.write.ints([1, 1]), short, long, axis=0)
    made = _resized(g, eye, scale, lengths, attributes)
    return g.emit("Reshape", made, g.emit("Concat", short, long, axis=0))


def _scales(g: NodeGradient) -> list[float] | None:
    """Scale of every axis; None where lengths are given instead."""
    if g.node.op_type == "Upsample" or g.node.opset < 11:
        given = g.attr("scales", None) or g.numbers(1)
    else:
        given = g.numbers(2) if g.node.has(2) else None
    if g.attr("axes", None):
        raise LookupError(f"{g.node.label} names the axes that it resizes")
    return [float(s) for s in given] if given else None


def _resized(g: NodeGradient, eye: str, scale: float | None, lengths: str, attributes: dict[str, object]) -> str:
    """Emits the same interpolation of another value of four axes, along the last one."""
    scales = None if scale is None else [1.0, 1.0, 1.0, scale]
    if g.node.op_type == "Upsample" or g.node.opset < 11:
        assert scales is not None
        if g.node.opset < 9:
            return g.emit("Upsample", eye, mode=attributes["mode"], scales=scales)
        return g.emit(g.node.op_type, eye, g.write.constant(np.array(scales, np.float32)), mode=attributes["mode"])
    nothing = _nothing(g)
    if scales is not None:
        return g.emit("Resize", eye, nothing, g.write.constant(np.array(scales, np.float32)), **attributes)
    return g.emit("Resize", eye, nothing, nothing, lengths, **attributes)


def _nothing(g: NodeGradient) -> str:
    """What stands for an input of Resize that is not given, an empty vector where an input could not be left out."""
    return "" if g.write.opset >= 13 else g.write.constant(np.zeros(0, np.float32))
