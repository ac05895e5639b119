"""Arrays are matched with the inputs of the model by name, shape and type."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

from onnxprune.calibration import open_samples
from tests.calibration.cases import FLOAT, INT64, TWO, error, model, rows


@pytest.mark.parametrize(
    ("given", "kind", "expected"),
    [
        (np.float64([[1.5]]), FLOAT, np.float32),
        (np.float32([[1.5]]), TensorProto.FLOAT16, np.float16),
        (np.float32([[1.5]]), TensorProto.BFLOAT16, ml_dtypes.bfloat16),
        (np.array([[1.5]], ml_dtypes.bfloat16), TensorProto.BFLOAT16, ml_dtypes.bfloat16),
        (np.int32([[7]]), INT64, np.int64),
        (np.int64([[7]]), TensorProto.INT32, np.int32),
        (np.array([[True]]), INT64, np.int64),
        (np.array([["a"]]), TensorProto.STRING, object),
        (np.array([["a"]], object), TensorProto.STRING, object),
    ],
)
def test_casts_that_lose_nothing(tmp_path, given, kind, expected):
    proto = model(("x", ["N", 1], kind))
    sources = [{"x": given}, iter([{"x": given}])]
    if not given.dtype.hasobject:
        np.savez(tmp_path / "c.npz", x=given)
        sources.append(tmp_path / "c.npz")
    for source in sources:
        (batch,) = open_samples(source, proto, memory=0).batches()
        assert batch["x"].dtype == expected
        assert batch["x"].tolist() == given.tolist()


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (np.uint8([[7]]), FLOAT, "uint8, but the model takes float32"),
        (np.float32([[7]]), INT64, "float32, but the model takes int64"),
        (np.int64([[2**40]]), TensorProto.INT32, "values that int32 cannot hold"),
        (np.float32([[1e30]]), TensorProto.FLOAT16, "values that float16 cannot hold"),
        (np.zeros((1, 1), "V4"), FLOAT, "|V4, but the model takes float32"),
        (np.int64([[1]]), TensorProto.BOOL, "int64, but the model takes bool"),
        (np.float32([[1]]), TensorProto.STRING, "takes strings"),
        (np.array([[None]]), TensorProto.STRING, "other than strings"),
    ],
)
def test_casts_that_are_refused(given, kind, words):
    proto = model(("x", ["N", 1], kind))
    for source in ({"x": given}, [{"x": given}], iter([given])):
        assert words in error(source, proto)


def test_names():
    assert "nothing for input 'ids' | is it 'IDs'? given: IDs, mask" in error({"IDs": rows(1), "mask": rows(1)}, TWO)
    assert "nothing for input 'mask'" in error(iter([{"ids": np.ones((1, 2), int)}]), TWO)
    assert "is ndarray, not a dict" in error(iter([np.ones((1, 2), int)]), TWO)
    assert "is str, not a dict" in error(iter({"x": 1}))


def test_shapes():
    picture = model(("x", ["N", 3, 8, 8]))
    message = error({"x": np.ones((5, 8, 8, 3), "f")}, picture)
    assert "'x' is 5x8x8x3, but the model takes Nx3x8x8" in message and "transpose(0, 3, 1, 2)" in message
    assert "'x' is 8, but" in error({"x": np.ones(8, "f")}, picture)
    assert "sample 2: 'x' is 1x4" in error(iter([rows(2), rows(1, 4)]))
    ids = np.ones((3, 2), int)
    assert "'ids' has 3" in error({"ids": ids, "mask": ids[:2]}, TWO)
    assert "'mask' has 2 samples" in error([{"ids": ids, "mask": ids[:2]}], TWO)
    assert "'labels' has shape (2,), but there are 3" in error({"x": rows(3), "labels": np.ones(2)})
    ragged = {"x": [[1.0], [1.0, 2.0]]}
    for source in (ragged, [ragged], iter([ragged])):
        assert "cannot be made" in error(source)
