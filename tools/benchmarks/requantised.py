"""Perplexity of a decoder of 4 bits that is pruned: as it is, repaired, trained, or before it is quantised.

python -m tools.benchmarks requantised
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import onnxprune
from onnxprune.layers.quantize import packed, quantised
from tools.benchmarks.language import CALIB, MODEL, TEST, perplexity

RATIOS = (0.25, 0.5)
BLOCK = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def rows(_: argparse.Namespace) -> Iterator[dict[str, Any]]:
    text, whole = np.load(TEST)["input_ids"], onnx.load(MODEL)
    small = in_4_bits(whole)
    yield {"how": "floats, whole", "perplexity": perplexity(whole, text)}
    yield {"how": "4 bits, whole", "perplexity": perplexity(small, text)}
    options: dict[str, Any] = {"calib": CALIB, "time": False, "verify": False}
    for ratio in RATIOS:
        for repair in ("none", "calibrated", "distilled"):
            made = onnxprune.prune(small, ratio, repair=repair, **options).proto
            yield _row(f"4 bits, repair {repair}", ratio, made, text)
        yield _row("floats, then 4 bits", ratio, in_4_bits(onnxprune.prune(whole, ratio, **options).proto), text)


def in_4_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with MatMulNBits in the place of products with constants: 4 bits, blocks of 32."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    tensors = {t.name: t for t in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in tensors:
            continue
        weight = numpy_helper.to_array(tensors[node.input[1]]).astype(np.float64)
        deep, wide = weight.shape
        blocks, name = -(-deep // BLOCK), node.input[1]
        real = np.pad(weight.T, [(0, 0), (0, blocks * BLOCK - deep)]).reshape(-1, BLOCK)
        found = quantised(real, 0, 15, np.dtype(np.float32), np.full(len(real), 8.0))
        for suffix, array in (
            ("bits", packed(found.numbers.reshape(wide, blocks, BLOCK), 4)),
            ("scales", found.scale.astype(np.float32)),
        ):
            made.graph.initializer.append(numpy_helper.from_array(array, f"{name}_{suffix}"))
        operands, sizes = [node.input[0], f"{name}_bits", f"{name}_scales"], {"K": deep, "N": wide, "bits": 4}
        node.CopyFrom(
            helper.make_node("MatMulNBits", operands, node.output, domain="com.microsoft", block_size=BLOCK, **sizes)
        )
    read = {name for node in made.graph.node for name in node.input}
    for tensor in [t for t in made.graph.initializer if t.name not in read]:
        made.graph.initializer.remove(tensor)
    if not any(o.domain == "com.microsoft" for o in made.opset_import):
        made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return made


def _row(how: str, ratio: float, model: onnx.ModelProto, text: Any) -> dict[str, Any]:
    return {"how": how, "ratio": ratio, "bytes": model.ByteSize(), "perplexity": perplexity(model, text)}
