"""Convolutions: channels contract, groups go whole or lose the same places, space stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.ops.case import Case, build, check, random_feeds
from tests.support import oracle
from tests.support.lanes import spread

IMAGE = "(float[N,3,6,6] x) => (float[N,2,6,6] y)"

CASES = [
    Case("Conv", f"""{IMAGE} <float[8,3,3,3] w, float[8] b, float[2,8,1,1] v>
        {{ h = Conv <pads = [1, 1, 1, 1]> (x, w, b)  r = Relu(h)  y = Conv(r, v) }}""", {"w:0": "8 exact"}),
    Case("Conv in one dimension", """(float[N,3,6] x) => (float[N,2,6] y) <float[8,3,1] w, float[2,8,1] v>
        { h = Conv(x, w)  y = Conv(h, v) }""", {"w:0": "8 exact"}),
    Case("Conv in three dimensions", """(float[N,3,2,2,2] x) => (float[N,2,2,2,2] y)
        <float[8,3,1,1,1] w, float[2,8,1,1,1] v> { h = Conv(x, w)  y = Conv(h, v) }""", {"w:0": "8 exact"}),
    Case("Conv without padding", """(float[N,3,6,6] x) => (float[N,2,2,2] y) <float[8,3,3,3] w, float[2,8,3,3] v>
        { h = Conv(x, w)  y = Conv(h, v) }""", {"w:0": "8 exact"}),
    Case("channels in the space of a kernel with one position", """(float[N,4,3] x) => (float[N,6,2] y)
        <float[3,8] w, float[6,4,1] u, float[6] c, float[8,2] v>
        { h = MatMul(x, w)  m = Conv(h, u, c)  y = MatMul(m, v) }""", {"w:1": "8 exact"}),
    Case("channels in the space of a transposed kernel with one position", """(float[N,4,3] x) => (float[N,6,2] y)
        <float[3,8] w, float[4,6,1] u, float[8,2] v>
        { h = MatMul(x, w)  m = ConvTranspose(h, u)  y = MatMul(m, v) }""", {"w:1": "8 exact"}),
    *(Case(f"channels in space with {what}", f"""(float[N,4,3] x) => (float[N,6,A] y)
        <float[3,8] w, float[6,4,{kernel}] u, float[{length},2] v>
        {{ h = MatMul(x, w)  m = Conv <{attribute}> (h, u)  y = MatMul(m, v) }}""",
           {"w:1": "8 pinned: a window of"})
      for what, kernel, attribute, length in (("a stride", 1, "strides = [2]", 4), ("padding", 1, "pads = [1, 0]", 9),
                                              ("a wider kernel", 3, "pads = [1, 1]", 8))),
    Case("a kernel with one position along one axis", """(float[N,4,6,3] x) => (float[N,5,6,2] y)
        <float[3,8] w, float[5,4,3,1] u, float[8,2] v>
        { h = MatMul(x, w)  m = Conv <pads = [1, 0, 1, 0]> (h, u)  y = MatMul(m, v) }""",
         {"w:1": "8 exact"}),
    Case("two convolutions read one", f"""{IMAGE} <float[8,3,1,1] w, float[2,8,1,1] v, float[2,8,3,3] u>
        {{ h = Conv(x, w)  a = Conv(h, v)  b = Conv <pads = [1, 1, 1, 1]> (h, u)  y = Add(a, b) }}""",
         {"w:0": "8 exact"}),
    Case("Conv with a bias only sums what is zero once masked", """(float[N,3,4,4] x) => (float[N,1,4,4] y)
        <float[8,3,1,1] w, float[8] b, int64[1] one> { h = Conv(x, w, b)  y = ReduceSum(h, one) }""",
         {"w:0": "8 exact"}, constants={"one": 1}),
    Case("depthwise", f"""{IMAGE} <float[8,3,1,1] w, float[8,1,3,3] d, float[8] b, float[2,8,1,1] v>
        {{ h = Conv(x, w)  r = Conv <group = 8, pads = [1, 1, 1, 1]> (h, d, b)  y = Conv(r, v) }}""",
         {"w:0": "8 exact"}),
    Case("depth multiplier", f"""{IMAGE} <float[4,3,1,1] w, float[12,1,3,3] d, float[2,12,1,1] v>
        {{ h = Conv(x, w)  r = Conv <group = 4, pads = [1, 1, 1, 1]> (h, d)  y = Conv(r, v) }}""", {"w:0": "4 exact"}),
    Case("places within groups", f"""{IMAGE} <float[16,3,1,1] w, float[24,8,1,1] g, float[24] b, float[2,24,1,1] v>
        {{ h = Conv(x, w)  r = Conv <group = 2> (h, g, b)  y = Conv(r, v) }}""", {"w:0": "8 exact", "g:0": "12 exact"}),
    Case("whole groups, being narrow", f"""{IMAGE} <float[15,3,1,1] w, float[10,3,1,1] g, float[2,10,1,1] v>
        {{ h = Conv(x, w)  r = Conv <group = 5> (h, g)  y = Conv(r, v) }}""", {"w:0": "5 exact"}),
    Case("groups on a pinned input keep it, the output loses places", """(float[N,8,4,4] x) => (float[N,2,4,4] y)
        <float[12,4,1,1] g, float[2,12,1,1] v> { r = Conv <group = 2> (x, g)  y = Conv(r, v) }""", {"g:0": "6 exact"}),
    Case("one group a channel on a pinned input", """(float[N,4,4,4] x) => (float[N,2,4,4] y)
        <float[4,1,3,3] d, float[2,4,1,1] v> { r = Conv <group = 4, pads = [1, 1, 1, 1]> (x, d)  y = Conv(r, v) }""",
         {"d:0": "4 pinned: leaves no way to carry its channels"}),
    Case("ResNeXt block", f"""{IMAGE} <float[32,3,1,1] w, float[32,8,3,3] g, float[32,32,1,1] e, float[2,32,1,1] v>
        {{ s = Conv(x, w)  a = Conv <group = 4, pads = [1, 1, 1, 1]> (s, g)  b = Conv(a, e)  r = Add(s, b)
           y = Conv(r, v) }}""", {"w:0": "8 exact", "g:0": "8 exact"}),
    Case("ConvTranspose", """(float[N,3,4,4] x) => (float[N,2,8,8] y) <float[3,8,2,2] w, float[8] b, float[2,8,1,1] v>
        { h = ConvTranspose <strides = [2, 2]> (x, w, b)  y = Conv(h, v) }""", {"w:1": "8 exact"}),
    Case("ConvTranspose consumes", """(float[N,3,4,4] x) => (float[N,2,8,8] y) <float[8,3,1,1] w, float[8,2,2,2] v>
        { h = Conv(x, w)  y = ConvTranspose <strides = [2, 2]> (h, v) }""", {"w:0": "8 exact"}),
    Case("ConvTranspose, places within groups", """(float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[16,3,1,1] w, float[16,6,1,1] g, float[12] b, float[2,12,1,1] v>
        { h = Conv(x, w)  r = ConvTranspose <group = 2> (h, g, b)  y = Conv(r, v) }""",
         {"w:0": "8 exact", "g:1": "6 exact"}),
    Case("ConvTranspose, whole groups", """(float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[12,3,1,1] w, float[12,2,1,1] g, float[8] b, float[2,8,1,1] v>
        { h = Conv(x, w)  r = ConvTranspose <group = 4> (h, g, b)  y = Conv(r, v) }""", {"w:0": "4 exact"}),
    Case("ConvTranspose depthwise", """(float[N,3,4,4] x) => (float[N,2,8,8] y)
        <float[6,3,1,1] w, float[6,1,2,2] d, float[2,6,1,1] v>
        { h = Conv(x, w)  r = ConvTranspose <group = 6, strides = [2, 2]> (h, d)  y = Conv(r, v) }""",
         {"w:0": "6 exact"}),
    Case("DeformConv", """(float[N,3,4,4] x, float[N,18,4,4] offset) => (float[N,2,4,4] y)
        <float[8,3,1,1] w, float[6,8,3,3] d, float[6] b, float[2,6,1,1] v>
        { h = Conv(x, w)  r = DeformConv <pads = [1, 1, 1, 1]> (h, d, offset, b)  y = Conv(r, v) }""",
         {"w:0": "8 exact", "d:0": "6 exact"}, opset=19, ir=9),
    Case("DeformConv with computed offsets and a mask", """(float[N,3,4,4] x, float[N,9,4,4] mask) => (float[N,2,4,4] y)
        <float[8,3,1,1] w, float[18,8,1,1] o, float[6,8,3,3] d, float[6] b, float[2,6,1,1] v>
        { h = Conv(x, w)  offset = Conv(h, o)  r = DeformConv <pads = [1, 1, 1, 1]> (h, d, offset, b, mask)
          y = Conv(r, v) }""", {"w:0": "8 exact", "d:0": "6 exact", "o:0": "18 pinned: sampling offsets"}, opset=19, ir=9),
    Case("DeformConv with offset groups", """(float[N,3,4,4] x, float[N,36,4,4] offset) => (float[N,2,4,4] y)
        <float[8,3,1,1] w, float[6,8,3,3] d, float[2,6,1,1] v>
        { h = Conv(x, w)  r = DeformConv <pads = [1, 1, 1, 1], offset_group = 2> (h, d, offset)  y = Conv(r, v) }""",
         {"d:0": "6 exact", "w:0": "8 pinned: offset groups split the channels"}, opset=19, ir=9),
]


@pytest.mark.parametrize("case", spread(CASES, 4), ids=lambda c: c.name)
def test_removal_equals_masking(case: Case) -> None:
    check(case)


def pruned_shapes(name: str) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Shapes of the weights after half of every exact group went, and the `group` of every convolution."""
    case = next(c for c in CASES if c.name == name)
    pruned, _, _ = oracle.prune_and_mask(case.model())
    groups = {n.output[0]: a.i for n in pruned.graph.node for a in n.attribute if a.name == "group"}
    return {t.name: list(t.dims) for t in pruned.graph.initializer}, groups


def test_depthwise_convolution_loses_groups() -> None:
    shapes, groups = pruned_shapes("depthwise")
    assert groups == {"r": 4}
    assert (shapes["w"], shapes["d"], shapes["b"]) == ([4, 3, 1, 1], [4, 1, 3, 3], [4])


def test_depth_multiplier_stays() -> None:
    shapes, groups = pruned_shapes("depth multiplier")
    assert groups == {"r": 2}
    assert (shapes["w"], shapes["d"], shapes["v"]) == ([2, 3, 1, 1], [6, 1, 3, 3], [2, 6, 1, 1])


def test_places_leave_the_number_of_groups() -> None:
    shapes, groups = pruned_shapes("places within groups")
    assert groups == {"r": 2}
    assert (shapes["w"], shapes["g"], shapes["v"]) == ([8, 3, 1, 1], [12, 4, 1, 1], [2, 12, 1, 1])


def test_whole_groups_keep_their_width() -> None:
    shapes, groups = pruned_shapes("whole groups, being narrow")
    assert groups == {"r": 2}  # of five three go
    assert (shapes["w"], shapes["g"], shapes["v"]) == ([6, 3, 1, 1], [4, 3, 1, 1], [2, 4, 1, 1])


def test_surviving_weights_keep_their_values() -> None:
    model = build(f"{IMAGE} <float[8,3,1,1] w, float[2,8,1,1] v> {{ h = Conv(x, w)  y = Conv(h, v) }}")
    pruned, masked, _ = oracle.prune_and_mask(model)
    new = {t.name: numpy_helper.to_array(t) for t in pruned.graph.initializer}
    old = {t.name: numpy_helper.to_array(t) for t in masked.graph.initializer}
    stay = np.flatnonzero(np.abs(old["w"]).sum(axis=(1, 2, 3)))
    assert len(stay) == 4
    assert np.array_equal(new["w"], old["w"][stay]) and np.array_equal(new["v"], old["v"][:, stay])


def test_weights_that_are_computed_are_not_cut() -> None:
    """A weight that the graph computes from an input stays, and so does everything around it."""
    model = build("""(float[N,3,4,4] x, float[8,3,1,1] w) => (float[N,2,4,4] y) <float[2,8,1,1] v>
        { h = Conv(x, w)  y = Conv(h, v) }""")
    onnx.checker.check_model(model, full_check=True)
    assert oracle.assert_equivalent(model, random_feeds(model)) == 0
