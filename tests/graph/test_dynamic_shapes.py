"""Pruned models run at other batch sizes, lengths and resolutions than they were looked at, and equal the masked original there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune.runtime.sample_inputs import sample_inputs
from tests.ops.case import build, random_feeds
from tests.support.lanes import spread
from tests.support.oracle import prune_and_mask, session
from tests.support.paths import ROOT

ZOO = ROOT.parent / "shared" / "zoo"
OWN = sorted((ROOT / "models").glob("*.onnx"))
ARCHITECTURES = [
    "hand/gqa_swiglu_dyn",
    "hand/fpn_resize_dynhw",
    "hand/unet_bilinear_dynhw",
    "hand/lstm_stacked_dyn",
    "torchvision/vit_b_32",
    "torchvision/shufflenet_v2_x0_5",
    "transformers/bert_cls",
    "transformers/electra",
    "transformers/roberta_tok",
    "transformers/t5_encoder__legacy",
    "transformers/t5_gated_encdec",
    "timm/ghostnetv2_100",
    "keras/gru_text",
    "onnxhand/matmul_add",
    "onnxhand/weight_shared_transposed",
    "paddle/mobilenet_v2",
]


def assert_equal(masked: Any, pruned: Any, feeds: dict[str, np.ndarray]) -> None:
    """The same shapes and, for floats, the same numbers."""
    for a, b in zip(masked.run(None, feeds), pruned.run(None, feeds), strict=True):
        assert a.shape == b.shape
        if a.dtype.kind == "f":
            scale = max(float(np.sqrt(np.mean(np.square(a, dtype=np.float64)))), 1e-6)
            assert float(np.sqrt(np.mean(np.square(a.astype(np.float64) - b)))) < 1e-4 * scale
        else:
            assert np.mean(a != b) < 0.01


@pytest.mark.parametrize("path", spread(OWN), ids=lambda p: p.stem)
def test_other_batches(path: Path) -> None:
    model = onnx.load(path)
    pruned, masked, count = prune_and_mask(model)
    before, after = session(masked), session(pruned)
    assert count
    name, feed = next(iter(sample_inputs(model).items()))
    for batch in (1, 2, 7):
        assert_equal(before, after, {name: np.concatenate([feed[:1] + i / 10 for i in range(batch)])})


def resized(model: onnx.ModelProto) -> Iterator[dict[str, tuple[int, ...]]]:
    """Shapes of the inputs with other numbers for the free axes: equal names get equal numbers.

    First the leading axes change, then the others, up and down by what most strides divide.
    """
    spec = json.loads(next(p.value for p in model.metadata_props if p.key == "zoo.inputs"))
    free: dict[str, tuple[int, bool]] = {}
    for info in model.graph.input:
        for i, dim in enumerate(info.type.tensor_type.shape.dim if info.name in spec else ()):
            if not dim.HasField("dim_value"):
                free.setdefault(dim.dim_param or f"{info.name}.{i}", (spec[info.name]["shape"][i], i == 0))
    step = {name: 32 if size % 16 == 0 and not leading else 3 for name, (size, leading) in free.items()}
    for change in ([(2, 0)], [(0, 1)], [(0, 2)], [(1, 1)], [(0, 4)]):
        lead, rest = change[0]
        sizes = {name: size + (lead if leading else rest * step[name]) for name, (size, leading) in free.items()}
        if all(sizes[name] == size for name, (size, _) in free.items()):
            continue
        yield {
            info.name: tuple(
                dim.dim_value if dim.HasField("dim_value") else sizes[dim.dim_param or f"{info.name}.{i}"]
                for i, dim in enumerate(info.type.tensor_type.shape.dim)
            )
            for info in model.graph.input
            if info.name in spec
        }


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_sizes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not ZOO.is_dir():
        pytest.skip("the architecture zoo is not here")
    monkeypatch.syspath_prepend(str(ZOO))
    import hydrate

    model = hydrate.load(f"{ZOO}/skeletons/{name}.onnx.gz")
    pruned, masked, count = prune_and_mask(model)
    whole, before, after = session(model), session(masked), session(pruned)
    assert count
    assert_equal(before, after, hydrate.sample_inputs(model))
    tried = 0
    for shapes in resized(model):
        feeds = fed(hydrate, model, shapes)
        try:
            whole.run(None, feeds)
        except Exception:  # a size that the original does not take either
            continue
        assert_equal(before, after, feeds)
        tried += 1
    assert tried
    sys.modules.pop("hydrate", None)


def fed(hydrate: Any, model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Inputs of other shapes, of the kind that the model wants."""
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    for entry in asked.metadata_props:
        if entry.key == "zoo.inputs":
            spec = json.loads(entry.value)
            for key, shape in shapes.items():
                spec[key]["shape"] = list(shape)
            entry.value = json.dumps(spec)
    found: dict[str, np.ndarray] = hydrate.sample_inputs(asked)
    return found


ATTENTION = """(float[B,T,6] x) => (float[B,T,2] y)
<float[6,24] wq, float[6,24] wk, float[6,24] wv, float[24,2] wo>
{
  shape = Shape(x)
  zero = Constant <value = int64 {0}> ()
  one = Constant <value = int64 {1}> ()
  batch = Gather(shape, zero)
  time = Gather(shape, one)
  first = Constant <value = int64[1] {0}> ()
  b = Unsqueeze(batch, first)
  t = Unsqueeze(time, first)
  q = MatMul(x, wq)
  k = MatMul(x, wk)
  v = MatMul(x, wv)
  wide = Shape <start = -1> (q)
  four = Constant <value = int64[1] {4}> ()
  depth = Div(wide, four)
  split = Concat <axis = 0> (b, t, four, depth)
  qr = Reshape(q, split)
  kr = Reshape(k, split)
  vr = Reshape(v, split)
  qt = Transpose <perm = [0, 2, 1, 3]> (qr)
  kt = Transpose <perm = [0, 2, 3, 1]> (kr)
  vt = Transpose <perm = [0, 2, 1, 3]> (vr)
  s = MatMul(qt, kt)
  size = Cast <to = 1> (depth)
  root = Sqrt(size)
  d = Div(s, root)
  start = Constant <value = int64 {0}> ()
  at = Range(start, time, one)
  columns = Unsqueeze(at, first)
  second = Constant <value = int64[1] {1}> ()
  rows = Unsqueeze(at, second)
  later = Greater(columns, rows)
  low = Constant <value = float {-1e4}> ()
  m = Where(later, low, d)
  p = Softmax <axis = -1> (m)
  o = MatMul(p, vt)
  ot = Transpose <perm = [0, 2, 1, 3]> (o)
  minus = Constant <value = int64[1] {-1}> ()
  join = Concat <axis = 0> (b, t, minus)
  f = Reshape(ot, join)
  y = MatMul(f, wo)
}"""

PICTURES = """(float[B,3,H,W] x) => (float[B,2,H,W] y)
<float[8,3,3,3] w, float[8] b, float[6,8,3,3] u, float[2,14,1,1] v>
{
  h = Conv <pads = [1, 1, 1, 1]> (x, w, b)
  small = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (h)
  k = Conv <pads = [1, 1, 1, 1]> (small, u)
  head = Shape <end = 2> (k)
  space = Shape <start = 2> (x)
  sizes = Concat <axis = 0> (head, space)
  up = Resize <mode = "nearest"> (k, , , sizes)
  like = Shape(h)
  flat = Constant <value = int64[3] {0, 8, -1}> ()
  g = Reshape(h, flat)
  r = Relu(g)
  back = Reshape(r, like)
  both = Concat <axis = 1> (back, up)
  y = Conv(both, v)
}"""

STATES = """(float[T,B,4] x) => (float[T,B,3] y)
<float[1,24,4] w, float[1,24,6] r, float[6,3] v>
{
  shape = Shape(x)
  from = Constant <value = int64[1] {1}> ()
  to = Constant <value = int64[1] {2}> ()
  axis = Constant <value = int64[1] {0}> ()
  batch = Slice(shape, from, to, axis)
  six = Constant <value = int64[1] {6}> ()
  one = Constant <value = int64[1] {1}> ()
  dims = Concat <axis = 0> (one, batch, six)
  start = ConstantOfShape <value = float[1] {0.0}> (dims)
  cell = Expand(start, dims)
  s = LSTM <hidden_size = 6> (x, w, r, , , start, cell)
  t = Squeeze(s, one)
  half = Constant <value = int64[1] {3}> ()
  ends = Shape <start = 2> (t)
  two = Constant <value = int64[1] {2}> ()
  a = Slice(t, axis, half, two)
  c = Slice(t, half, ends, two)
  both = Concat <axis = 2> (c, a)
  y = MatMul(both, v)
}"""


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        (ATTENTION, [{"B": 1, "T": 4}, {"B": 3, "T": 9}, {"B": 2, "T": 1}]),
        (PICTURES, [{"B": 1, "H": 8, "W": 8}, {"B": 2, "H": 12, "W": 6}, {"B": 3, "H": 2, "W": 20}]),
        (STATES, [{"T": 3, "B": 1}, {"T": 1, "B": 4}, {"T": 8, "B": 2}]),
    ],
    ids=["attention", "pictures", "states"],
)
@pytest.mark.parametrize("seed", range(3))
def test_computed_shapes(text: str, sizes: list[dict[str, int]], seed: int) -> None:
    model = build(text)
    pruned, masked, count = prune_and_mask(model, seed=seed)
    assert count >= 2
    onnx.checker.check_model(pruned, full_check=True)
    before, after = session(masked), session(pruned)
    for asked in sizes:
        fixed = onnx.ModelProto()
        fixed.CopyFrom(model)
        for dim in fixed.graph.input[0].type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = asked[dim.dim_param]
        assert_equal(before, after, random_feeds(fixed, seed=seed))
