"""Pooling and resampling: channels pass, space is pinned."""

from __future__ import annotations

from onnxprune.graph.node_shapes import pooling_shape
from onnxprune.graph.operators import Copies, Postprocessing
from onnxprune.ops.conv import pin_space
from onnxprune.ops.op import Op
from onnxprune.ops.registry import output_shape, rule
from onnxprune.ops.ties import NewShape


@rule("GlobalAveragePool GlobalMaxPool GlobalLpPool")
def global_pool(op: Op) -> None:
    """Averages (or the like) over all of space, each channel alone: a reduction over what is space to it."""
    x, out = op.input(0), op.output()
    for i in (0, 1):
        op.tie(x.axis(i), out.axis(i), zero=True)
    for axis in x.axes()[2:]:
        if op.type == "GlobalMaxPool":
            op.refill(axis)
        elif op.type == "GlobalLpPool":
            op.sum_over(axis, reduces=True)
        else:
            op.mean_over(axis, reduces=True)


@rule("MaxPool", copies=Copies.SOME)
@rule("AveragePool LpPool")
def pool(op: Op) -> None:
    """Windows over space, each channel alone."""
    x = op.input(0)
    for out in op.outputs:
        pin_space(op, x, out)
        for i in (0, 1):
            op.tie(x.axis(i), out.axis(i), zero=out is op.outputs[0])
    if any(out.consumers or out.is_returned for out in op.outputs[1:]):
        for i in (0, 1):
            op.pin(x.axis(i), "flat indices count through all samples and channels")


output_shape("MaxPool AveragePool LpPool")(pooling_shape)


@rule("MaxUnpool")
def max_unpool(op: Op) -> None:
    """Its indices count through all channels: pinned."""
    op.pin_all("flat indices count through all channels")


@rule("Resize Upsample", postprocessing=Postprocessing.INTERPOLATION)
def resize(op: Op) -> None:
    """Axes that keep their length pass, resampled ones are pinned; a size that names a pruned axis follows it."""
    x, out = op.input(0), op.output()
    if op.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        op.pin_all("crops by a region input")
        return
    scales_at = 1 if op.opset < 11 else 2
    listed = op.attr("axes") or range(len(x.shape or []))
    axes = [a % len(x.shape or [1]) for a in listed]
    entries = op.entries(3) if op.has(3) else None
    scales = op.attr("scales") if op.opset < 9 else (op.entries(scales_at) if op.has(scales_at) else None)

    def resampled(i: int, position: int) -> bool:
        scale = scales[i] if scales is not None and i < len(scales) else None
        if isinstance(scale, (int, float)):
            return scale != 1  # indices are repeated even where rounding leaves the length as it is
        length = x.axis(position).length
        return length is None or length != out.axis(position).length or position >= 2

    pinned = [position for i, position in enumerate(axes) if resampled(i, position)]
    op.carry(x, out, pinned, f"{op.node.label} resamples it")
    if entries is not None:

        def follow(new: NewShape) -> None:
            new.set_input(3, [new.length(out.axis(a)) for a in axes])

        op.resize(follow)


@rule("RoiAlign MaxRoiPool")
def roi(op: Op) -> None:
    """Channels pass; regions and space are pinned."""
    x, out = op.input(0), op.output()
    op.tie(x.axis(1), out.axis(1), zero=True)
    for value in [x, out, *op.inputs[1:]]:
        for axis in value.axes():
            if axis.position != 1 or value not in (x, out):
                op.pin(axis, f"{op.node.label} reads regions")


@rule("GridSample AffineGrid")
def grid_sample(op: Op) -> None:
    """Channels pass; the grid and space are pinned."""
    out = op.output()
    for value in op.inputs + op.outputs:
        for axis in value.axes()[0 if op.type == "AffineGrid" else 1 :]:
            if op.type == "AffineGrid" or axis.position != 1 or value not in (op.input(0), out):
                op.pin(axis, f"{op.node.label} samples along it")
    if op.type == "GridSample":
        op.tie(op.input(0).axis(1), out.axis(1), zero=True)
