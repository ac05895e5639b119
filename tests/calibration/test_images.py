"""Folders of images and their preprocessing options."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from onnx import TensorProto

from onnxprune.calibration import open_samples
from tests.calibration.cases import TWO, error, model, rows, sizes


@pytest.fixture
def pictures(tmp_path):
    """Two pictures of 4x6 pixels in a folder, and their pixels."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    (tmp_path / "set").mkdir()
    for name, array in zip(("a.png", "b.ppm"), pixels, strict=True):
        image.fromarray(array).save(tmp_path / "set" / name)
    return tmp_path / "set", pixels.astype("f")


def only(samples):
    (batch,) = samples.batches()
    return batch["x"]


def test_images_against_arithmetic(pictures):
    folder, pixels = pictures
    nchw = model(("x", ["N", 3, 4, 6]))
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    expected = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)
    got = only(open_samples(f"{folder},mean=0.485:0.456:0.406,std=0.229:0.224:0.225", nchw))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    assert np.array_equal(only(open_samples(str(folder), nchw)), pixels.transpose(0, 3, 1, 2) / np.float32(255))
    # Mean and std above 1 are in units of 0 to 255.
    got = only(open_samples(f"{folder},mean=123,std=58", nchw))
    np.testing.assert_allclose(got, (pixels.transpose(0, 3, 1, 2) - 123) / 58, rtol=1e-6)
    got = only(open_samples(f"{folder},scale=127.5,mean=1,color=bgr", nchw))
    np.testing.assert_allclose(got, (pixels[..., ::-1] / np.float32(127.5) - 1).transpose(0, 3, 1, 2), rtol=1e-6)


def test_image_layouts_and_types(pictures):
    folder, pixels = pictures
    assert np.array_equal(only(open_samples(folder, model(("x", ["N", 4, 6, 3], TensorProto.UINT8)))), pixels)
    got = only(open_samples(f"{folder},mean=128", model(("x", ["N", 4, 6, 3], TensorProto.INT8))))
    assert np.array_equal(got, pixels - 128)
    free = model(("x", ["N", "c", "h", "w"], TensorProto.FLOAT16))
    assert only(open_samples(f"{folder},layout=nhwc", free)).shape == (2, 4, 6, 3)
    grey = only(open_samples(folder, model(("x", [None, 1, None, None]))))
    np.testing.assert_allclose(grey[:, 0], pixels @ np.float32([0.299, 0.587, 0.114]) / 255, atol=1 / 255)


def test_image_sizes(pictures):
    folder, pixels = pictures
    free, fixed = model(("x", ["N", 3, "h", "w"])), model(("x", ["N", 3, 2, 2]))
    cropped = only(open_samples(f"{folder},crop=2x4,scale=1", free))
    assert np.array_equal(cropped, pixels[:, 1:3, 1:5].transpose(0, 3, 1, 2))
    assert only(open_samples(f"{folder},resize=8", free)).shape == (2, 3, 8, 12)
    assert only(open_samples(f"{folder},resize=5x7", free)).shape == (2, 3, 5, 7)
    assert only(open_samples(f"{folder},resize=8,crop=6", free)).shape == (2, 3, 6, 6)
    assert only(open_samples(folder, fixed)).shape == (2, 3, 2, 2)
    middle = only(open_samples(f"{folder},resize=4,scale=1", fixed))  # the shorter side is 4 already
    assert np.array_equal(middle, pixels[:, 1:3, 2:4].transpose(0, 3, 1, 2))
    assert sizes(open_samples(folder, model(("x", [1, 3, 4, 6])))) == [1, 1]


def test_images_of_different_sizes_and_folders(pictures):
    folder, _ = pictures
    image = pytest.importorskip("PIL.Image")
    (folder / "c").mkdir()
    image.new("RGBA", (3, 3)).save(folder / "c" / "z.png")
    free = model(("x", ["N", 3, "h", "w"]))
    assert [b["x"].shape for b in open_samples(folder, free)] == [(2, 3, 4, 6), (1, 3, 3, 3)]
    samples = open_samples(folder, free, limit=2)
    assert samples.count == 2


def test_images_are_decoded_on_demand(pictures):
    folder, _ = pictures
    (folder / "z.png").write_bytes(b"broken")
    proto = model(("x", ["N", 3, 4, 6]))
    assert "z.png: cannot be read as a picture" in error(folder, proto)
    assert open_samples(folder, proto).count == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("men=1", "unknown calibration option 'men' | did you mean 'mean'?"),
        ("mean", "mean has no value"),
        ("mean=a", "mean: 'a' is not a number"),
        ("mean=1:2", "mean has 2 numbers, but there are 3 channels"),
        ("std=0", "std must not be 0"),
        ("scale=1,scale=2", "scale is given twice"),
        ("layout=nchv", "unknown layout 'nchv' | did you mean 'nchw'?"),
        ("resize=big", "resize: 'big' is not a size"),
        ("crop=0", "crop: '0' is not a size"),
        ("crop=5", "4x6 pixels are too few to crop 5x5"),
        ("crop=3", "'x' is 1x3x3x3, but the model takes Nx3x4x6"),
        ("layout=nhwc", "the model takes 6 channels"),
    ],
)
def test_image_options_that_do_not_fit(pictures, options, words):
    assert words in error(f"{pictures[0]},{options}", model(("x", ["N", 3, 4, 6])))


def test_models_that_take_no_images(pictures):
    folder, _ = pictures
    assert "which is no batch of images" in error(folder)
    assert "images feed one input" in error(folder, TWO)
    assert "layout=nchw or" in error(folder, model(("x", ["N", "c", "h", "w"])))
    assert "takes bool, not pixels" in error(folder, model(("x", ["N", 3, 4, 6], TensorProto.BOOL)))
    assert "cannot hold" in error(f"{folder},mean=128", model(("x", ["N", 3, 4, 6], TensorProto.UINT8)))
    np.save(folder / "x.npy", rows(1))
    assert "both images and arrays" in error(folder)


def test_without_pillow(pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert "needs pillow | pip install 'onnxprune[images]'" in error(pictures[0], model(("x", ["N", 3, 4, 6])))


@pytest.mark.parametrize("memory", [2**28, 1])
def test_each_picture_is_decoded_once(pictures, monkeypatch, memory):
    """Whatever the number of passes, and whether the decoded pictures fit into memory."""
    from PIL import Image

    opened, load = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or load(path))
    samples = open_samples(str(pictures[0]), model(("x", ["N", 3, 4, 6])), memory=memory)
    passes = [only(samples) for _ in range(3)]
    assert len(opened) == len(set(opened)) == 2
    for again in passes[1:]:
        np.testing.assert_array_equal(again, passes[0])
    fit, held = samples.split(0.5)
    assert {only(fit).tobytes(), only(held).tobytes()} == {passes[0][:1].tobytes(), passes[0][1:].tobytes()}
    assert len(opened) == 2
