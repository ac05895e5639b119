"""Embeddings: which outputs hold them, and how many samples keep their nearest neighbour."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.model.model import Model
from onnxprune.verification.comparable_outputs import outputs_without_scores
from onnxprune.verification.neighbours import Neighbours, NeighbourSums, _nearest
from tests.support.text_models import text_model


def found(before: np.ndarray, after: np.ndarray) -> Neighbours | None:
    sums = NeighbourSums("y")
    for a, b in zip(np.array_split(before, 3), np.array_split(after, 3), strict=True):
        sums.add(a, b)
    return sums.neighbours()


def pairs(rng: np.random.Generator, count: int = 20) -> np.ndarray:
    """Embeddings of which each two are neighbours of each other."""
    return np.repeat(rng.standard_normal((count, 64)), 2, axis=0) + 0.01 * rng.standard_normal((2 * count, 64))


def test_neighbours_do_not_depend_on_scale_or_rotation(rng: np.random.Generator) -> None:
    before = pairs(rng)
    turned = 7 * before @ np.linalg.qr(rng.standard_normal((64, 64)))[0]
    one = found(before, turned)
    assert one is not None and one.same.mean == 1 and one.same.low < 0.95 and abs(one.cosine) < 0.5
    same = found(before, 2 * before)
    assert same is not None and (same.cosine, same.same.mean) == (pytest.approx(1), 1)


def test_samples_that_move_lose_their_neighbours() -> None:
    """Five samples leave their partners, which then have another nearest one, and come between those of other pairs."""
    first, second = np.eye(64)[:20], np.eye(64)[20:40]
    before = np.stack([first, first + 0.1 * second], axis=1).reshape(40, 64)
    after = before.copy()
    after[30:40:2] = first[:5] - 0.01 * second[:5]
    kept = np.ones(40)
    kept[30:] = 0
    kept[0:10:2] = 0
    one = found(before, after)
    assert one is not None and one.same.mean == kept.mean() == 25 / 40
    assert one.cosine == pytest.approx(35 / 40)


@pytest.mark.parametrize("shape", [(20, 8), (20, 8, 8), (20,), (2, 64), (20, 1)])
def test_what_is_no_embedding(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    numbers = rng.standard_normal(shape)
    assert found(numbers, numbers) is None


def test_axes_of_length_1_do_not_matter_and_what_is_not_finite_does(rng: np.random.Generator) -> None:
    numbers = pairs(rng).reshape(-1, 64, 1, 1)
    assert found(numbers, numbers) is not None
    assert found(numbers.astype(np.int64), numbers.astype(np.int64)) is None
    broken = numbers.copy()
    broken[0, 0] = np.nan
    assert found(broken, broken) is None
    one = found(numbers, broken)
    assert one is not None and one.same.mean >= 0.9


@pytest.mark.parametrize(
    ("body", "output", "plain"),
    [
        ("y = MatMul(x, w)", "float[N,48] y", ["y"]),
        ("h = MatMul(x, w) y = LpNormalization(h)", "float[N,48] y", ["y"]),
        ("h = MatMul(x, w) y = Softmax(h)", "float[N,48] y", []),
        ("h = MatMul(x, w) y = Sigmoid(h)", "float[N,48] y", []),
        ("h = MatMul(x, w) y = ArgMax<axis = 1>(h)", "int64[N,1] y", []),
    ],
)
def test_the_graph_tells_which_outputs_are_scores(body: str, output: str, plain: list[str]) -> None:
    model = text_model(np.random.default_rng(0), body, "float[N,4] x", output, w=(4, 48))
    assert outputs_without_scores(Model(model)) == plain


def embedder() -> onnx.ModelProto:
    body = "a = MatMul(x, w) b = Relu(a) y = MatMul(b, v)"
    return text_model(np.random.default_rng(0), body, "float[N,16] x", "float[N,48] y", w=(16, 64), v=(64, 48))


@pytest.mark.slow
def test_a_report_has_neighbours_of_embeddings_only(rng: np.random.Generator) -> None:
    data = {"x": rng.standard_normal((400, 16)).astype(np.float32)}
    report = onnxprune.prune(embedder(), 0.3, calib=data, time=False).report
    kept = report.calibration.neighbours
    assert kept is not None and kept.output == "y" and 0.3 < kept.same.mean < 1 and kept.cosine > 0.8
    assert report.to_dict()["calibration"]["neighbours"]["same"]["mean"] == kept.same.mean
    whole = onnxprune.prune(embedder(), 0.0, calib=data, time=False).report.calibration
    assert whole is None or whole.neighbours is None or whole.neighbours.same.mean == 1
    column = onnxprune.compare(embedder(), embedder(), calib=data).models[1]
    assert column.neighbours is not None and column.neighbours.same.mean == 1


def test_many_samples_are_compared_part_by_part(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each two are neighbours of each other, whatever is held at a time."""
    rows = pairs(rng)
    monkeypatch.setattr("onnxprune.verification.neighbours.ELEMENTS", 7 * len(rows))
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_array_equal(_nearest(directions), np.arange(len(rows)) ^ 1)
