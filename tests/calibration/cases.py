"""Models, sources and helpers of the calibration tests."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxprune.calibration import open_samples
from onnxprune.errors import InputError

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model(*inputs):
    """A model that hands its inputs on; each is (name, shape) or (name, shape, type)."""
    kinds = [(i[0], i[1], i[2] if len(i) > 2 else FLOAT) for i in inputs]
    graph = helper.make_graph(
        [helper.make_node("Identity", [n], [f"{n}_out"]) for n, _, _ in kinds],
        "g",
        [helper.make_tensor_value_info(n, k, s) for n, s, k in kinds],
        [helper.make_tensor_value_info(f"{n}_out", k, None) for n, _, k in kinds],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


ONE = model(("x", ["N", 3]))
TWO = model(("ids", ["batch", "seq"], INT64), ("mask", ["batch", "seq"], INT64))
STATEFUL = model(("x", [1, 5, 2]), ("h", [2, 1, 4]))


def rows(n, width=3, dtype="f"):
    """n samples that differ in every place."""
    return np.arange(n * width, dtype=dtype).reshape(n, width)


def firsts(samples, name="x"):
    """The first number of every sample, over all batches."""
    return [float(v) for b in samples.batches() for v in b[name].reshape(len(b[name]), -1)[:, 0]]


def sizes(samples, name="x"):
    return [len(batch[name]) for batch in samples.batches()]


def error(source, proto=ONE, **options):
    """The error that opening or reading ends in."""
    with pytest.raises(InputError) as caught:
        for _ in open_samples(source, proto, **options).batches():
            pass
    assert caught.value.exit_code == 2
    return f"{caught.value.message} | {caught.value.hint}"


class Reader:
    """A data reader in the manner of onnxruntime's."""

    def __init__(self, feeds):
        self.feeds, self.place = feeds, 0

    def get_next(self):
        self.place += 1
        return self.feeds[self.place - 1] if self.place <= len(self.feeds) else None


class Rewindable(Reader):
    rewinds = 0

    def rewind(self):
        self.rewinds += 1
        self.place = 0


class Loader:
    """Can be iterated again and again; has no length."""

    def __iter__(self):
        return iter([{"x": rows(50)[i : i + 5]} for i in range(0, 50, 5)])


WIDE = 16384  # floats of a sample: 64 KiB


def wide():
    for i in range(200):
        yield {"x": np.full((1, WIDE), i, "f")}
