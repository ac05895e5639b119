"""Gradient rules of operators that read, write or mix at positions, held to central differences."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.gradients.differentiate import differentiate
from onnxprune.model.model import Model
from tests.gradients.cases import Row
from tests.gradients.differences import check, feeds_of, session
from tests.ops.case import build
from tests.support.lanes import spread

PLACES = np.array([[[[-1.15, -0.7], [0.11, 0.43], [0.9, -0.35]], [[0.27, 0.81], [-0.52, 1.3], [1.6, 0.2]]]])
IN_SPACE = np.array([[-1.3, -0.71, 0.23], [0.37, 0.48, -0.84], [0.93, -0.29, 0.58], [-0.13, 1.2, 0.31]])

ROWS = [
    Row(
        "GatherND",
        "(real[4,3,2] x) => (real[3,2] y) <int64[3,2] k> { y = GatherND(x, k) }",
        {"k": [[0, -1], [3, 1], [0, 2]]},
    ),
    Row(
        "GatherND of elements",
        "(real[4,3] x) => (real[2,2] y) <int64[2,2,2] k> { y = GatherND(x, k) }",
        {"k": [[[0, 1], [0, 1]], [[3, 2], [2, 0]]]},
    ),
    Row(
        "GatherND in step along one axis",
        "(real[2,4,3] x) => (real[2,3,3] y) <int64[2,3,1] k> { y = GatherND <batch_dims = 1> (x, k) }",
        {"k": [[[0], [3], [0]], [[1], [2], [-1]]]},
    ),
    Row(
        "GatherND in step along two axes",
        "(real[2,3,4] x) => (real[2,3] y) <int64[2,3,1] k> { y = GatherND <batch_dims = 2> (x, k) }",
        {"k": [[[0], [3], [2]], [[1], [2], [0]]]},
    ),
    *(
        Row(
            f"ScatterND {reduction}",
            f"(real[4,3] x, real[2,3] u) => (real[4,3] y) <int64[2,1] k> {{ y = ScatterND {reduction} (x, k, u) }}",
            {"k": [[2], [0]]},
        )
        for reduction in ("", '<reduction = "add">')
    ),
    Row(
        "ScatterND twice to a row",
        '(real[4,3] x, real[2,3] u) => (real[4,3] y) <int64[2,1] k> { y = ScatterND <reduction = "add"> (x, k, u) }',
        {"k": [[2], [2]]},
    ),
    Row(
        "ScatterND of elements before 16",
        "(real[4,3] x, real[2] u) => (real[4,3] y) <int64[2,2] k> { y = ScatterND (x, k, u) }",
        {"k": [[2, 0], [0, 1]]},
        opset=13,
    ),
    *(
        Row(
            f"ScatterElements {attributes}",
            f"(real[3,4] x, real[{shape}] u) => (real[3,4] y) <int64[{shape}] k> "
            f"{{ y = ScatterElements <{attributes}> (x, k, u) }}",
            {"k": entries},
        )
        for attributes, shape, entries in (
            ("axis = 1", "3,2", [[2, 0], [1, -1], [0, 1]]),
            ('axis = 0, reduction = "add"', "2,4", [[2, 0, 1, 1], [1, 0, -1, 1]]),
        )
    ),
    Row("TopK", "(real[3,4] x) => (real[3,2] y) <int64[1] k> { y, i = TopK (x, k) }", {"k": [2]}),
    Row(
        "TopK the least in opset 11",
        "(real[4,3] x) => (real[2,3] y) <int64[1] k> { y, i = TopK <axis = 0, largest = 0> (x, k) }",
        {"k": [2]},
        opset=11,
    ),
    *(
        Row(
            f"CumSum {exclusive} {reverse}",
            f"(real[3,4] x) => (real[3,4] y) <int64 k> {{ y = CumSum <exclusive = {exclusive}, reverse = {reverse}> (x, k) }}",
            {"k": 1},
        )
        for exclusive in (0, 1)
        for reverse in (0, 1)
    ),
    *(
        Row(
            f"Trilu {upper}",
            f"(real[2,3,4] x) => (real[2,3,4] y) <int64 k> {{ y = Trilu <upper = {upper}> (x, k) }}",
            {"k": 1},
        )
        for upper in (0, 1)
    ),
    Row("Trilu from the diagonal", "(real[3,3] x) => (real[3,3] y) { y = Trilu (x) }"),
    Row(
        "ReverseSequence",
        "(real[4,3,2] x) => (real[4,3,2] y) <int64[3] k> "
        "{ y = ReverseSequence <time_axis = 0, batch_axis = 1> (x, k) }",
        {"k": [2, 4, 3]},
    ),
    Row(
        "SplitToSequence",
        "(real[2,5] x) => (real[2,2] y, real[2,3] z) <int64[2] k, int64 k0, int64 k1> "
        "{ s = SplitToSequence <axis = 1> (x, k) y = SequenceAt(s, k0) z = SequenceAt(s, k1) }",
        {"k": [2, 3], "k0": 0, "k1": -1},
    ),
    Row(
        "SplitToSequence into equal parts",
        "(real[2,5] x) => (real[2,1] y) <int64 k, int64 k0> "
        "{ s = SplitToSequence <axis = -1> (x, k) y = SequenceAt(s, k0) }",
        {"k": 2, "k0": 2},
    ),
    Row(
        "SplitToSequence into slices",
        "(real[2,5] x) => (real[2] y) <int64 k0> "
        "{ s = SplitToSequence <axis = 1, keepdims = 0> (x) y = SequenceAt(s, k0) }",
        {"k0": 3},
    ),
    Row(
        "Col2Im",
        "(real[2,12,8] x) => (real[2,2,4,5] y) <int64[2] ki, int64[2] kb> { y = Col2Im (x, ki, kb) }",
        {"ki": [4, 5], "kb": [3, 2]},
    ),
    Row(
        "Col2Im with gaps",
        "(real[1,4,6] x) => (real[1,1,5,5] y) <int64[2] ki, int64[2] kb> "
        "{ y = Col2Im <pads = [1,0,1,0], strides = [2,1], dilations = [1,2]> (x, ki, kb) }".replace("4,6", "4,9"),
        {"ki": [5, 5], "kb": [2, 2]},
    ),
    Row(
        "MaxUnpool",
        "(real[1,1,2,2] x) => (real[1,1,4,4] y) <int64[1,1,2,2] k> "
        "{ y = MaxUnpool <kernel_shape = [2,2], strides = [2,2]> (x, k) }",
        {"k": [[[[5, 7], [13, 15]]]]},
    ),
]


GRIDS = [
    *(
        Row(
            f"GridSample {attributes}",
            f"(real[2,3,4,5] x) => (real[2,3,2,3] y) <real[2,2,3,2] g> {{ y = GridSample <{attributes}> (x, g) }}",
            {"g": np.concatenate([PLACES, -0.8 * PLACES])},
            opset=opset,
        )
        for attributes, opset in (
            ('mode = "linear"', 20),
            ('mode = "linear", padding_mode = "border"', 20),
            ('mode = "linear", align_corners = 1', 20),
            ('mode = "linear", align_corners = 1, padding_mode = "border"', 20),
            ('mode = "nearest"', 20),
        )
    ),
    Row(
        "GridSample in space",
        "(real[1,2,3,4,2] x) => (real[1,2,1,2,2] y) <real[1,1,2,2,3] g> { y = GridSample (x, g) }",
        {"g": IN_SPACE},
        opset=20,
    ),
]
"""onnx's own evaluator has places of single precision alone; onnxruntime has others."""


@pytest.mark.slow
@pytest.mark.parametrize("row", spread(ROWS), ids=lambda row: row.name)
def test_rule(row: Row) -> None:
    check(row)


@pytest.mark.slow
@pytest.mark.parametrize("row", spread(GRIDS), ids=lambda row: row.name)
def test_samples_of_a_grid(row: Row) -> None:
    check(row, session)


def test_samples_of_a_grid_before_20() -> None:
    """Where the mode has another name."""
    found = []
    for opset, mode in ((16, "bilinear"), (20, "linear")):
        text = f"""(float[1,2,4,5] x) => (float[1,2,2,3] y) <float[1,2,3,2] g> {{ y = GridSample <mode = "{mode}"> (x, g) }}"""
        model = build(text, opset, constants={"g": PLACES})
        made = differentiate(Model(model), ["y"], ["x", "g"])
        feeds = feeds_of(model, made)
        found.append(session(made.model.proto).run([made.gradients[name] for name in ("x", "g")], feeds))
    for before, after in zip(*found, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ('ScatterND <reduction = "mul"> (x, k, x)', "writes by mul"),
        ('GridSample <padding_mode = "reflection"> (x, x)', "with reflection"),
        ('GridSample <mode = "cubic"> (x, x)', "interpolates by cubic"),
    ],
)
def test_what_has_no_gradient(node: str, says: str) -> None:
    text = f"(float[2,2,2,2] x) => (float[2,2,2,2] y) <int64[2,1] k> {{ y = {node} }}"
    made = differentiate(Model(build(text, 18)), ["y"], ["x"])
    assert says in made.reasons["x"]


def test_a_part_of_a_sequence_that_is_no_split() -> None:
    text = "(float[2] x) => (float[2] y) <int64 k> { s = SequenceConstruct(x, x) y = SequenceAt(s, k) }"
    made = differentiate(Model(build(text, constants={"k": 0})), ["y"], ["x"])
    assert "out of a sequence that is no split" in made.reasons["x"]
