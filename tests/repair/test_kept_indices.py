"""Layers that sum over another axis than the channels are fitted on the rows that survive."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.repair.kept_indices import KeptAxis, KeptIndices
from tests.ops.case import build
from tests.support.graph_builder import Seeded
from tests.support.lanes import spread
from tests.support.oracle import assert_fits_agree
from tests.support.random_graphs import random_model
from tests.test_equivalence import feeds_of, finite

FRONT = "float[8,3,3,3] w, float[8] b, float[4,8,1,1] v"
IMAGE = "h = Conv<pads = [1, 1, 1, 1]>(x, w, b)"
END = "y = Conv(r, v)"
SHAPES = {"folded": [-1, 1, 6, 5], "unfolded": [-1, 8, 6, 5]}
NETS = {
    "linear over time": (f"{IMAGE} m = MatMul(h, u) r = Add(m, c) {END}", "float[5,5] u, float[5] c", {}),
    "linear over frequencies": (
        f"{IMAGE} t = Transpose<perm = [0, 1, 3, 2]>(h) m = MatMul(t, u) r = Transpose<perm = [0, 1, 3, 2]>(m) {END}",
        "float[6,6] u",
        {},
    ),
    "matrix on the left": (f"{IMAGE} r = MatMul(u, h) {END}", "float[6,6] u", {}),
    "rows of a Gemm": (
        f"{IMAGE} f = Reshape(h, rows) g = Gemm<transB = 1>(f, u, c) r = Reshape(g, unfolded) {END}",
        "float[5,5] u, float[5] c, int64[2] rows, int64[4] unfolded",
        {"rows": [-1, 5], "unfolded": SHAPES["unfolded"]},
    ),
    "convolution of a folded batch": (
        f"{IMAGE} f = Reshape(h, folded) g = Conv<pads = [1, 1, 1, 1]>(f, u, c) r = Reshape(g, unfolded) {END}",
        "float[1,1,3,3] u, float[1] c, int64[4] folded, int64[4] unfolded",
        SHAPES,
    ),
    "convolution over channels in space": (
        f"{IMAGE} t = Transpose<perm = [0, 2, 1, 3]>(h) g = Conv(t, u, c) r = Transpose<perm = [0, 2, 1, 3]>(g) {END}",
        "float[6,6,1,1] u, float[6] c",
        {},
    ),
    "two layers over tokens": (
        f"{IMAGE} a = MatMul(h, u) k = Relu(a) m = MatMul(k, u2) r = Add(h, m) {END}",
        "float[5,7] u, float[7,5] u2",
        {},
    ),
    "LSTM of a folded batch": (
        f"""{IMAGE} t = Transpose<perm = [3, 0, 1, 2]>(h) f = Reshape(t, sequences)
            s = LSTM<hidden_size = 6>(f, lw, lr, lb) q = Reshape(s, apart) r = Transpose<perm = [1, 2, 3, 0]>(q) {END}""",
        "float[1,24,6] lw, float[1,24,6] lr, float[1,48] lb, int64[3] sequences, int64[4] apart",
        {"sequences": [5, -1, 6], "apart": [5, -1, 8, 6]},
    ),
    "normalization of a folded batch": (
        f"""{IMAGE} f = Reshape(h, folded) n = BatchNormalization(f, s, z, m, posv)
            g = Conv<pads = [1, 1, 1, 1]>(n, u) r = Reshape(g, unfolded) {END}""",
        "float[1,1,3,3] u, float[1] s, float[1] z, float[1] m, float[1] posv, int64[4] folded, int64[4] unfolded",
        SHAPES,
    ),
}
REPAIRS: dict[str, dict[str, object]] = {
    "data-free": {"repair": "data-free"},
    "calibrated": {"calib": True},
    "in steps": {"calib": True, "steps": 2},
    "flap": {"calib": True, "importance": "flap"},
    "mixing": {"calib": True, "mixing": True},
    "zeros after channels": {"calib": True, "pattern": ["channels", "2:4"]},
}


def network(name: str, batch: str = "4") -> onnx.ModelProto:
    body, weights, constants = NETS[name]
    given = {k: v for k, v in constants.items() if k in weights}
    return build(
        f"(float[{batch},3,6,5] x) => (float[{batch},4,6,5] y) <{FRONT}, {weights}> {{ {body} }}",
        constants=given,
        opset=18,
    )


def batches() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((4, 3, 6, 5)).astype(np.float32)} for _ in range(6)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "batch"), spread((name, batch) for name in NETS for batch in ("4", "N")))
def test_layers_are_fitted_to_what_they_computed_on_the_surviving_rows(name: str, batch: str) -> None:
    gone, fitted = assert_fits_agree(network(name, batch), batches())
    assert gone >= 4
    assert fitted >= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "repair"),
    [
        pytest.param(
            name, repair, marks=() if (name, repair) == ("LSTM of a folded batch", "calibrated") else pytest.mark.slow
        )
        for name in NETS
        for repair in REPAIRS
        if repair == "calibrated" or name in ("linear over time", "convolution of a folded batch")
    ],
)
def test_every_repair_takes_rows_that_lose_channels(name: str, repair: str) -> None:
    options = dict(REPAIRS[repair])
    if options.pop("calib", None):
        options["calib"] = [{"x": sample} for feeds in batches() for sample in np.split(feeds["x"], 4)]
    done = onnxprune.prune(network(name), 0.5, **options)  # type: ignore[arg-type]
    assert done.plan.removed
    assert done.report.verified


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 200, 20))
def test_fits_agree_on_random_graphs(start: int) -> None:
    removed = 0
    for seed in range(start, start + 20):
        model = random_model(Seeded(seed), steps=14)
        feeds = [feeds_of(model, 10 * seed + i) for i in range(6)]
        if all(finite(model, f) for f in feeds):
            print(f"seed {seed}")  # shown when the assertion fails
            removed += assert_fits_agree(model, feeds, seed)[0] > 0
    assert removed > 8


def test_axes_that_are_not_as_long_as_declared_stay_whole() -> None:
    kept = KeptIndices(frozenset(), {"v": {0: KeptAxis((4,), np.array([0, 3])), 1: KeptAxis((3,), np.array([1]))}})
    array = np.arange(12).reshape(4, 3)
    assert kept.rows("v", array, 1).tolist() == [[0, 1, 2], [9, 10, 11]]
    assert kept.rows("v", array, -2).tolist() == [[1], [4], [7], [10]]
    assert kept.rows("v", array[:2], 1).tolist() == array[:2].tolist()
    assert kept.rows("w", array, 1) is array
    assert kept.along("v", 0, 4).tolist() == [0, 3]
    assert kept.along("v", 0, 5).tolist() == [0, 1, 2, 3, 4]


def test_digits_of_free_axes_are_kept_at_every_length() -> None:
    """Of a free batch merged with four heads, two of these are kept; so are two places of a free one before or after."""
    kept = np.array([0, 2])
    assert KeptAxis((None, 4), kept).indices(8).tolist() == [0, 2, 4, 6]  # type: ignore[union-attr]
    assert KeptAxis((4, None), kept).indices(8).tolist() == [0, 1, 4, 5]  # type: ignore[union-attr]
    assert KeptAxis((2, None, 2), np.array([1, 2])).indices(12).tolist() == [1, 3, 5, 6, 8, 10]  # type: ignore[union-attr]
    for axis, length in (
        (KeptAxis((None, 4), kept), 6),
        (KeptAxis((4,), kept), 5),
        (KeptAxis((None, 4, None), kept), 8),
    ):
        assert axis.indices(length) is None
