"""What the pages of docs/howto name besides models/: a folder of pictures, a detector, a keyword spotter, and data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from tests.support.paths import MODELS
from tests.support.text_models import text_model

DETECTOR = """
  a = Conv<pads = [1, 1, 1, 1]> (frames, backbone_1)
  b = Relu (a)
  c = Conv<pads = [1, 1, 1, 1]> (b, backbone_2)
  d = Relu (c)
  e = Conv (d, head_1)
  f = Relu (e)
  raw = Conv (f, head_scores)
  scores = Sigmoid (raw)
  boxes = Conv (f, head_boxes)
"""
KEYWORDS = """
  a = Conv<strides = [2, 2]> (features, stem)
  b = Relu (a)
  c = Conv (b, middle)
  d = Relu (c)
  e = GlobalAveragePool (d)
  f = Flatten (e)
  words = MatMul (f, classes)
"""
PICTURES = 200


def detector() -> onnx.ModelProto:
    """Scores of three classes and boxes at each position of a frame."""
    shapes = {
        "backbone_1": (16, 3, 3, 3),
        "backbone_2": (24, 16, 3, 3),
        "head_1": (16, 24, 1, 1),
        "head_scores": (3, 16, 1, 1),
        "head_boxes": (4, 16, 1, 1),
    }
    ends = "float[N,3,16,16] frames", "float[N,3,16,16] scores, float[N,4,16,16] boxes"
    return _trained(text_model(np.random.default_rng(0), DETECTOR, *ends, **shapes))


def keywords() -> onnx.ModelProto:
    """Scores of words from features of a clip."""
    shapes = {"stem": (32, 1, 4, 4), "middle": (32, 32, 3, 3), "classes": (32, 12)}
    ends = "float[N,1,49,10] features", "float[N,12] words"
    return _trained(text_model(np.random.default_rng(1), KEYWORDS, *ends, **shapes))


def _trained(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with weights of a size that keeps the activations in range."""
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        fan = array.shape[0] if array.ndim == 2 else int(np.prod(array.shape[1:]))
        tensor.CopyFrom(onnx.numpy_helper.from_array((array * np.sqrt(2 / fan)).astype(np.float32), tensor.name))
    return model


def write(folder: Path) -> None:
    """Writes all of it to a folder."""
    rng = np.random.default_rng(2)
    onnx.save(detector(), folder / "detector.onnx")
    onnx.save(keywords(), folder / "keywords.onnx")
    np.savez(folder / "frames.npz", frames=rng.random((64, 3, 16, 16)).astype(np.float32))
    np.savez(folder / "clips.npz", features=rng.standard_normal((128, 1, 49, 10)).astype(np.float32))
    _write_pictures(folder / "images")
    weights = onnx.load(MODELS / "pt_resnet_bn.onnx").graph.initializer
    np.savez(folder / "checkpoint.npz", **{t.name: onnx.numpy_helper.to_array(t) for t in weights})


def _write_pictures(folder: Path) -> None:
    """Digits as files, in a folder for each class."""
    from PIL import Image

    with np.load(MODELS / "digits_test.npz") as data:
        pictures = (data["input"][:PICTURES, 0] * 255).round().astype(np.uint8)
        for i, (picture, label) in enumerate(zip(pictures, data["labels"], strict=False)):
            (folder / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / str(label) / f"{i:04}.png")
