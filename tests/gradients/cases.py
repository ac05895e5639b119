"""Models whose gradients are checked, as rows of a table."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import onnx

from tests.ops.case import build


@dataclass(frozen=True)
class Row:
    """A model whose gradients are checked: of every constant and input whose name begins with neither ``k`` nor ``pos``.

    Attributes:
        name: Name of the row.
        text: The graph, with ``real`` as the type of floating-point numbers.
        constants: Contents of constants that cannot be random.
        opset: Version of the standard operators.
    """

    name: str
    text: str
    constants: dict[str, object] = field(default_factory=dict)
    opset: int = 18

    def model(self, kind: str) -> onnx.ModelProto:
        """The model in one precision, ``double`` or ``float``."""
        text = re.sub(r"\breal\b", kind, self.text).replace("TYPE", str({"float": 1, "double": 11}[kind]))
        return build(text, self.opset, constants=self.constants)


def unary(node: str, opset: int = 18) -> Row:
    """One operator of one input."""
    return Row(f"{node} of {opset}", f"(real[2,3,4] x) => (real[2,3,4] y) {{ y = {node} (x) }}", opset=opset)


def binary(node: str, a: str = "2,3,4", b: str = "3,1", out: str = "2,3,4", positive: bool = False) -> Row:
    """One operator of an input and a constant that are broadcast."""
    return Row(
        f"{node} {a} {b}",
        f"(real[{a}] x) => (real[{out}] y) <real[{b}] b> {{ y = {node} (x, b) }}",
        {"b": np.linspace(0.7, 1.9, int(np.prod([int(n) for n in b.split(",")])))} if positive else {},
    )


def conv(attributes: str, x: str, w: str, y: str, *, bias: bool = True, op: str = "Conv", opset: int = 18) -> Row:
    """A convolution of an input with a constant kernel."""
    channels = y.split(",")[1]
    constants = f"<real[{w}] w, real[{channels}] b>" if bias else f"<real[{w}] w>"
    operands = "x, w, b" if bias else "x, w"
    text = f"(real[{x}] x) => (real[{y}] y) {constants} {{ y = {op} <{attributes}> ({operands}) }}"
    return Row(f"{op} {attributes} {w} of {x}", text.replace("<> ", ""), opset=opset)


def positive(node: str) -> Row:
    """One operator of positive numbers."""
    return Row(f"{node} of positive", f"(real[2,3] x) => (real[2,3] y) {{ e = Exp(x) y = {node} (e) }}")
