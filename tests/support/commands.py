"""What tests of the command line share: a way to run one, and a small model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,16,16] x) => (float[N,5,M,P] y)
{
  a = Conv (x, w1, b1)
  c = Relu (a)
  y = Conv (c, w2)
}
"""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Cli = Callable[..., Ended]


def tiny() -> onnx.ModelProto:
    """Two convolutions with weights that rank their channels."""
    model = onnx.parser.parse_model(TEXT)
    for name, shape in (("w1", [32, 3, 3, 3]), ("b1", [32]), ("w2", [5, 32, 3, 3])):
        values = (np.arange(np.prod(shape)) * 7919 % 101 - 50) / 100
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32).reshape(shape), name))
    return model


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_refused(ended: Ended, code: int = 2) -> str:
    """One error line, at most one hint, nothing else; returns both."""
    lines = ended.err.splitlines()
    assert ended.code == code
    assert ended.out == ""
    assert [line.split(":")[0] for line in lines] in (["error"], ["error", "hint"])
    return ended.err
