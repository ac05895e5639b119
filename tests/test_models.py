"""The trained models in `models/` are what their index and their README say."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from tests.support.paths import MODELS

ENTRIES: list[dict[str, Any]] = json.loads((MODELS / "INDEX.json").read_text())["models"]
SIZE_LIMIT = 1_000_000  # bytes

each_model = pytest.mark.parametrize("entry", ENTRIES, ids=[e["file"] for e in ENTRIES])


def load_array(name: str, key: str) -> NDArray[Any]:
    """Read one array of a data file in `models/`."""
    with np.load(MODELS / name) as data:
        array: NDArray[Any] = data[key]
    return array


def test_index_is_complete() -> None:
    """Every model file is in the index, once, and at least three frameworks are represented."""
    assert sorted(e["file"] for e in ENTRIES) == sorted(p.name for p in MODELS.glob("*.onnx"))
    assert len({e["framework"].split()[0] for e in ENTRIES}) >= 3


@each_model
def test_file(entry: dict[str, Any]) -> None:
    """The file has the stated content, is small and is valid ONNX."""
    content = (MODELS / entry["file"]).read_bytes()
    assert len(content) == entry["bytes"] < SIZE_LIMIT
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    constants = [a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute]
    stored = [*model.graph.initializer, *constants]
    floats = [t for t in stored if t.data_type == onnx.TensorProto.FLOAT and t.dims]
    assert sum(math.prod(t.dims) for t in floats) == entry["params"]


@each_model
def test_interface(entry: dict[str, Any]) -> None:
    """The input and the class scores are as stated, and the batch axis is dynamic."""
    graph = onnx.load(MODELS / entry["file"]).graph
    (image,) = graph.input
    dims = image.type.tensor_type.shape.dim
    assert image.name == entry["input"]
    assert not dims[0].HasField("dim_value")
    assert [d.dim_value for d in dims[1:]] == entry["input_shape"][1:]
    assert entry["output"] in [o.name for o in graph.output]


@pytest.mark.slow
@each_model
def test_accuracy(entry: dict[str, Any]) -> None:
    """The stated accuracy on the held-out samples is reproduced, in batches of any size."""
    session = ort.InferenceSession(str(MODELS / entry["file"]), providers=["CPUExecutionProvider"])
    x, labels = load_array(entry["test"], entry["input"]), load_array(entry["test"], entry["labels_key"])
    assert x.dtype == np.float32 and labels.dtype == np.int64
    assert len(x) == len(labels) == entry["n"]
    batches = np.split(x, [1, 8, 100])
    scores = np.concatenate([np.asarray(session.run([entry["output"]], {entry["input"]: b})[0]) for b in batches])
    assert scores.shape == (entry["n"], 10)
    assert float(np.mean(scores.argmax(axis=1) == labels)) == pytest.approx(entry["accuracy"], abs=1e-3)


@pytest.mark.parametrize(("test", "calibration"), sorted({(e["test"], e["calibration"]) for e in ENTRIES}))
def test_data_is_disjoint(test: str, calibration: str) -> None:
    """No calibration image is among the held-out ones, and calibration files hold nothing but images."""
    with np.load(MODELS / calibration) as data:
        assert data.files == ["input"]
    held_out, unlabelled = load_array(test, "input"), load_array(calibration, "input")
    assert held_out.shape[1:] == unlabelled.shape[1:]
    assert not {image.tobytes() for image in held_out} & {image.tobytes() for image in unlabelled}


@each_model
def test_readme_table(entry: dict[str, Any]) -> None:
    """The table in the README agrees with the index."""
    (row,) = [r for r in (MODELS / "README.md").read_text().splitlines() if r.startswith(f"| `{entry['file']}` |")]
    assert [cell.strip() for cell in row.split("|")][2:-1] == [
        entry["description"],
        entry["framework"],
        entry["exporter"],
        str(entry["params"]),
        str(entry["bytes"]),
        f"{entry['accuracy']:.4f}",
    ]
