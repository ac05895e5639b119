"""Models in onnx's text form with random weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, parser


def parse(text: str) -> onnx.ModelProto:
    """A model in onnx's text form below its header; ``my`` is a domain of its own."""
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "my" : 1]>\n{text}')


def text_model(
    rng: np.random.Generator, body: str, x: str, y: str, opset: int = 17, **constants: tuple[int, ...]
) -> onnx.ModelProto:
    """A model in onnx's text form with random float constants of these shapes."""
    head = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({x}) => ({y}) {{ {body} }}'
    model = parser.parse_model(head)
    for name, shape in constants.items():
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model
