"""Perplexity of a small mixture of experts against the experts left, by what ranks them; nothing is repaired.

python -m tools.benchmarks experts
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

import onnxprune
from tools.benchmarks.language import CALIB, FOLDER, TEST, perplexity

MODEL, EXPERTS = FOLDER / "experts.onnx", r"\.router\.weight:1$"
RATIOS = (0.25, 0.5, 0.75)
RANKED: dict[str, list[dict[str, Any]]] = {
    "at random": [{"importance": "random", "seed": seed} for seed in range(5)],
    "by their weights": [{}],
    "by what they contribute to texts": [{"calib": CALIB}],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def rows(_: argparse.Namespace) -> Iterator[dict[str, Any]]:
    text = np.load(TEST)["input_ids"]
    yield {"ranked": "", "ratio": 0.0, "params": 1.0, "perplexity": perplexity(onnx.load(MODEL), text)}
    for ratio in RATIOS:
        for ranked, requests in RANKED.items():
            found = []
            for request in requests:
                result = onnxprune.prune(
                    MODEL, ratio, only=[EXPERTS], mixing=True, repair="none", time=False, verify=False, **request
                )
                found.append(perplexity(result.proto, text))
            params = result.report.params
            left = (params.after or 0) / (params.before or 1)
            yield {"ranked": ranked, "ratio": ratio, "params": left, "perplexity": float(np.mean(found))}
