"""Perplexity of a decoder of 4 bits that is pruned: as it is, repaired, or dequantised before and quantised after.

python -m tools.benchmarks requantised
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

import onnxprune
from tests.support.stored_forms import few_bits
from tools.benchmarks.language import CALIB, MODEL, TEST, perplexity

RATIOS = (0.25, 0.5)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def rows(_: argparse.Namespace) -> Iterator[dict[str, Any]]:
    text, whole = np.load(TEST)["input_ids"], onnx.load(MODEL)
    quantise = few_bits(symmetric=True, block=16)
    quantised = quantise(whole, [])
    yield {"how": "floats, whole", "perplexity": perplexity(whole, text)}
    yield {"how": "4 bits, whole", "perplexity": perplexity(quantised, text)}
    options: dict[str, Any] = {"calib": CALIB, "time": False, "verify": False}
    for ratio in RATIOS:
        for repair in ("none", "calibrated"):
            made = onnxprune.prune(quantised, ratio, repair=repair, **options).proto
            yield _row(f"4 bits, repair {repair}", ratio, made, text)
        yield _row("floats, then 4 bits", ratio, quantise(onnxprune.prune(whole, ratio, **options).proto, []), text)


def _row(how: str, ratio: float, model: onnx.ModelProto, text: Any) -> dict[str, Any]:
    return {"how": how, "ratio": ratio, "bytes": model.ByteSize(), "perplexity": perplexity(model, text)}
