"""Pooling and resampling: channels pass, space is pinned."""

from __future__ import annotations

import pytest
from onnx import numpy_helper

from tests.ops.case import Case, check
from tests.support import oracle
from tests.support.lanes import spread

WEIGHTS = "<float[8,3,1,1] w, float[2,8,1,1] v"
UP = "(float[N,3,4,4] x) => (float[N,2,8,8] y)"
SUM = "(float[N,3,4,4] x) => (float[N,1,%s] y) <float[8,3,1,1] w, int64[1] one>"


def _pooled(line: str, size: str = "2,2", opset: int = 18) -> Case:
    return Case(f"{line}, opset {opset}", f"(float[N,3,4,4] x) => (float[N,2,{size}] y) {WEIGHTS}> "
                f"{{ h = Conv(x, w)  {line}  y = Conv(a, v) }}", {"w:0": "8 exact"}, opset)


def _summed(line: str, size: str = "2,2") -> Case:
    return Case(f"{line} summed", f"{SUM % size} {{ h = Conv(x, w)  {line}  y = ReduceSum(a, one) }}",
                {"w:0": "8 exact"}, constants={"one": 1})


def _resized(name: str, line: str, constants: str, values: dict[str, list[float]], opset: int,
             groups: dict[str, str] | None = None) -> Case:
    return Case(f"{name}, opset {opset}", f"{UP} {WEIGHTS}{constants}> {{ h = Conv(x, w)  {line}  y = Conv(a, v) }}",
                groups or {"w:0": "8 exact"}, opset, constants=values)


KERNEL = "kernel_shape = [2, 2], strides = [2, 2]"
CASES = [
    *(case for op in ("MaxPool", "AveragePool", "LpPool")
      for case in (_pooled(f"a = {op} <{KERNEL}> (h)"), _summed(f"a = {op} <{KERNEL}> (h)"))),
    *(case for op in ("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")
      for case in (_pooled(f"a = {op}(h)", "1,1"), _summed(f"a = {op}(h)", "1,1"))),
    *(Case(f"{op} over channels that are space to it{said}", f"""(float[N,3] x) => (float[N,1,1] y)
        <float[3,8] w, int64[1] one> {{ h = MatMul(x, w)  {line}  r = Unsqueeze(e, one)  y = {op}(r) }}""",
           {"w:1": "8 exact"}, constants={"one": 1})
      for op in ("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")
      for said, line in (("", "e = Identity(h)"), (", computed of zeros", "e = Exp(h)"))),
    _pooled("a = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (h)", "4,4"),
    _pooled("a = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (h)", "4,4", 8),
    Case("positions of a MaxPool count through all channels", """(float[N,3,4,4] x) => (float[N,2,2,2] y)
        <float[8,3,1,1] w, float[2,8,1,1] v>
        { h = Conv(x, w)  a, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (h)  f = Cast <to = 1> (i)
          s = Add(a, f)  y = Conv(s, v) }""",
         {"w:0": "8 pinned: flat indices count through all samples and channels"}),
    Case("MaxUnpool", """(float[N,3,4,4] x) => (float[N,2,4,4] y) <float[8,3,1,1] w, float[2,8,1,1] v>
        { h = Conv(x, w)  a, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (h)
          u = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (a, i)  y = Conv(u, v) }""",
         {"w:0": "8 pinned: flat indices count through all samples and channels"}),
    *(_resized("Upsample by attribute", "a = Upsample <scales = [1.0, 1.0, 2.0, 2.0]> (h)", "", {}, opset)
      for opset in (7, 8)),
    _resized("Upsample", "a = Upsample(h, s)", ", float[4] s", {"s": [1, 1, 2, 2]}, 9),
    _resized("Resize by scales", "a = Resize(h, s)", ", float[4] s", {"s": [1, 1, 2, 2]}, 10),
    *(_resized("Resize by scales", "a = Resize(h, roi, s)", ", float[0] roi, float[4] s", {"s": [1, 1, 2, 2]}, opset)
      for opset in (11, 12)),
    *(_resized("Resize by scales without roi", "a = Resize(h, , s)", ", float[4] s", {"s": [1, 1, 2, 2]}, opset)
      for opset in (13, 18)),
    *(_resized("Resize by sizes", 'a = Resize <mode = "linear"> (h, , , s)', ", int64[4] s", {"s": [2, 8, 8, 8]}, opset)
      for opset in (13, 18, 19)),
    _resized("Resize by sizes of a shape", """sh = Shape(h)  nc = Slice(sh, zero, two)  s = Concat <axis = 0> (nc, hw)
        a = Resize(h, , , s)""", ", int64[1] zero, int64[1] two, int64[2] hw", {"zero": [0], "two": [2], "hw": [8, 8]}, 13),
    _resized("Resize of some axes by sizes", "a = Resize <axes = [2, 3]> (h, , , s)", ", int64[2] s", {"s": [8, 8]}, 18),
    _resized("Resize of some axes by scales", "a = Resize <axes = [3, -2]> (h, , s)", ", float[2] s", {"s": [2, 2]}, 18),
    Case("Resize of channels", """(float[N,3,4,4] x) => (float[N,2,4,4] y) <float[8,3,1,1] w, float[2,16,1,1] v,
        float[4] s> { h = Conv(x, w)  a = Resize(h, , s)  y = Conv(a, v) }""",
         {"w:0": "8 pinned: resamples it", "v:1": "16 pinned: resamples it"}, constants={"s": [1, 2, 1, 1]}),
    Case("Resize crops by a region", f"""{UP} {WEIGHTS}, float[8] roi, float[4] s>
        {{ h = Conv(x, w)  a = Resize <coordinate_transformation_mode = "tf_crop_and_resize", mode = "linear"> (h, roi, s)
           y = Conv(a, v) }}""", {"w:0": "8 pinned: crops by a region input"}, 13,
         constants={"s": [1, 1, 2, 2], "roi": [0, 0, 0, 0, 1, 1, 1, 1]}),
    Case("Resize with channels last", """(float[N,4,4,3] x) => (float[N,8,8,2] y) <float[3,8] w, float[8,2] v, float[4] s>
        { h = MatMul(x, w)  a = Resize(h, , s)  y = MatMul(a, v) }""", {"w:1": "8 exact"}, constants={"s": [1, 2, 2, 1]}),
    Case("RoiAlign", """(float[2,3,4,4] x) => (float[2,2,2,2] y) <float[8,3,1,1] w, float[2,8,1,1] v, float[2,4] r,
        int64[2] i> { h = Conv(x, w)  a = RoiAlign <output_height = 2, output_width = 2> (h, r, i)  y = Conv(a, v) }""",
         {"w:0": "8 exact"}, constants={"i": [0, 1], "r": [[0, 0, 3, 3], [1, 0, 2, 3]]}),
    Case("MaxRoiPool", """(float[1,3,4,4] x) => (float[2,2,2,2] y) <float[8,3,1,1] w, float[2,8,1,1] v, float[2,5] r>
        { h = Conv(x, w)  a = MaxRoiPool <pooled_shape = [2, 2]> (h, r)  y = Conv(a, v) }""", {"w:0": "8 exact"},
         constants={"r": [[0, 0, 0, 3, 3], [0, 1, 0, 2, 3]]}),
    Case("GridSample", """(float[N,3,4,4] x, float[N,5,5,2] grid) => (float[N,2,5,5] y)
        <float[8,3,1,1] w, float[2,8,1,1] v> { h = Conv(x, w)  a = GridSample(h, grid)  y = Conv(a, v) }""",
         {"w:0": "8 exact"}),
    Case("AffineGrid", """(float[2,3,4,4] x, float[2,2,3] theta) => (float[2,2,4,4] y)
        <float[8,3,1,1] w, float[2,8,1,1] v>
        { h = Conv(x, w)  s = Shape(h)  grid = AffineGrid(theta, s)  a = GridSample(h, grid)  y = Conv(a, v) }""",
         {"w:0": "8 exact"}, 20, ir=9),
]


@pytest.mark.parametrize("case", spread(CASES, 4), ids=lambda c: c.name)
def test_removal_equals_masking(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("opset", [13, 18, 19])
def test_the_size_that_names_the_channels_follows(opset: int) -> None:
    case = next(c for c in CASES if c.name == f"Resize by sizes, opset {opset}")
    pruned, _, _ = oracle.prune_and_mask(case.model())
    sizes = {t.name: numpy_helper.to_array(t).tolist() for t in pruned.graph.initializer}
    assert sizes["s"] == [2, 4, 8, 8]
