"""Augmented samples: shifted along what convolutions slide over, flipped only where flips are natural."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.calibration import open_samples
from onnxprune.graph.graph import Graph
from onnxprune.model.model import Model, load
from onnxprune.repair.augmentation import MAX_SHIFT, Variants, _zoomed
from tests.support.paths import MODELS
from tests.support.text_models import text_model


def variants_of(model: onnx.ModelProto, batches: list[dict[str, NDArray[np.float32]]]) -> Variants:
    return Variants(Model(model), Graph(model), batches, 0)


def batches_of(rng: np.random.Generator, count: int, *shape: int) -> list[dict[str, NDArray[np.float32]]]:
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize(
    ("body", "shape", "axes"),
    [
        ("y = Conv(x, w)", "N, 4, 40, 60", (2, 3)),
        ("s = Mul(x, k) t = Transpose<perm = [0, 3, 1, 2]>(s) y = Conv(t, w)", "N, 40, 60, 4", (1, 2)),
        ("y = MatMul(x, m)", "N, 8, 10, 4", None),
    ],
)
def test_samples_are_shifted_along_what_convolutions_slide_over(
    body: str, shape: str, axes: tuple[int, int] | None, rng: np.random.Generator
) -> None:
    model = text_model(rng, body, f"float[{shape}] x", "float[N, C, H, W] y", w=(2, 4, 3, 3), k=(1,), m=(4, 2))
    batches = batches_of(rng, 6, 2, *(int(n) for n in shape.split(", ")[1:]))
    variants = variants_of(model, batches)
    found = list(variants)
    assert variants.copies == (1 if axes is None else 2)
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(found[:: variants.copies], batches, strict=True))
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(found, variants, strict=True))  # the same every time
    if axes is None:
        return
    shifts = set()
    for original, augmented in zip(batches, found[1::2], strict=True):
        x = np.flip(original["x"], axes[-1]) if variants.flips else original["x"]
        most = [round(MAX_SHIFT * x.shape[a]) for a in axes]
        steps = [(i, j) for i in range(-most[0], most[0] + 1) for j in range(-most[1], most[1] + 1)]
        (shift,) = (s for s in steps if np.array_equal(augmented["x"], np.roll(x, s, axes)))
        shifts.add(shift)
    assert len({i for i, _ in shifts}) > 1 and len({j for _, j in shifts}) > 1


@pytest.mark.parametrize("mirrored", [True, False])
def test_samples_are_flipped_where_the_model_makes_the_same_of_them(mirrored: bool, rng: np.random.Generator) -> None:
    """It sums over all positions, with kernels that see the same in a flipped sample or not."""
    body = "a = Conv(x, w) b = Relu(a) y = GlobalAveragePool(b)"
    model = text_model(rng, body, "float[N, 1, 20, 20] x", "float[N, 8, 1, 1] y", w=(8, 1, 1, 7))
    kernel = numpy_helper.to_array(model.graph.initializer[0])
    kernel = kernel + kernel[..., ::-1] if mirrored else np.sign(np.arange(7) - 3) * np.abs(kernel)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(kernel.astype(np.float32), "w"))
    ramp = np.sort(rng.standard_normal((4, 4, 1, 20, 20)), axis=-1).astype(np.float32)  # from left to right
    variants = variants_of(model, [{"x": x} for x in ramp])
    assert variants.flips == mirrored
    augmented = list(variants)[1]["x"]
    assert ((np.diff(augmented, axis=-1) > 0).mean() < 0.5) == mirrored  # it falls from left to right


def test_digits_are_not_flipped() -> None:
    model = load(MODELS / "pt_resnet_bn.onnx")
    samples = open_samples(str(MODELS / "digits_calib.npz"), model.proto, limit=40, seed=0)
    variants = Variants(model, Graph(model.proto), samples, 0)
    assert variants.copies == 2 and not variants.flips


def test_whole_numbers_are_rounded(rng: np.random.Generator) -> None:
    """Else photographs would get darker by half a level."""
    photo = rng.integers(0, 256, (1, 1, 200, 200)).astype(np.uint8)
    whole = _zoomed(photo, (2, 3), np.random.default_rng(1)).mean()
    assert abs(whole - _zoomed(photo.astype(np.float64), (2, 3), np.random.default_rng(1)).mean()) < 0.05
