"""Perplexity of a small trained decoder against the parameters left, by what is taken: each kind alone, and together.

python -m tools.benchmarks language [--data-only | --no-data]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

import onnxprune

FOLDER = Path(__file__).parents[2] / "models" / "language"
MODEL, CALIB, TEST = FOLDER / "decoder.onnx", FOLDER / "calib.npz", FOLDER / "test.npz"
WIDTH, INNER, QUERIES = r"^embed\.weight:1$", r"^layers\.\d\.gate\.weight:1$", r"^layers\.\d\.q\.weight:1$"
ALONE: dict[str, list[dict[str, Any]]] = {
    "width": [{"ratio": r, "only": [WIDTH]} for r in (0.1, 0.25, 0.5)],
    "FFN": [{"ratio": r, "only": [INNER]} for r in (0.25, 0.5, 0.75)],
    "query heads": [{"ratio": r, "only": [QUERIES]} for r in (0.25, 0.5, 0.75)],
    "blocks": [{"ratio": 0.0, "depth": n} for n in (1, 2, 3)],
}
TOGETHER: dict[str, list[dict[str, Any]]] = {
    "ratio": [{"ratio": r} for r in (0.1, 0.25, 0.5)],
    "target": [{"target": {"params": t}} for t in (0.9, 0.75, 0.6, 0.5)],
}
TOKENS = (120, 100, 80)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-data", action="store_true", help="only what needs no data")
    parser.add_argument("--data-only", action="store_true", help="only what needs data")


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    text = np.load(TEST)["input_ids"]
    yield {"taken": "nothing", "asked": "", "params": 1.0, "perplexity": perplexity(onnx.load(MODEL), text)}
    for data in (False, True):
        if (args.no_data and data) or (args.data_only and not data):
            continue
        for taken, requests in (ALONE | TOGETHER).items():
            for request in requests:
                options = {"calib": CALIB} if data else {}
                result = onnxprune.prune(MODEL, time=False, verify=False, **options, **request)
                params = result.report.params
                yield {
                    "taken": taken,
                    "asked": _asked(request),
                    "data": data,
                    "params": (params.after or 0) / (params.before or 1),
                    "perplexity": perplexity(result.proto, text),
                }
    for tokens in TOKENS:
        small = onnxprune.cut_vocabulary(MODEL, CALIB, tokens=tokens, unknown=0, logits="all", check=TEST)
        count = small.report.params
        kept = np.isin(text, small.kept)
        yield {
            "taken": "vocabulary",
            "asked": f"{tokens} words",
            "params": (count.after or 0) / (count.before or 1),
            "perplexity": perplexity(small.model, text, kept),
            "dropped": small.report.dropped_share,
        }


def _asked(request: dict[str, Any]) -> str:
    if "target" in request:
        return f"params {request['target']['params']}"
    return f"{request['depth']}" if "depth" in request else f"ratio {request['ratio']}"


def perplexity(model: onnx.ModelProto, ids: NDArray[np.int64], counted: NDArray[np.bool_] | None = None) -> float:
    """Perplexity of the next words of texts.

    Args:
        model: A decoder.
        ids: The texts; shape (texts, length).
        counted: The words that count; None for all. Of the same shape.
    """
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    counts = np.ones(ids.shape, dtype=bool) if counted is None else counted
    total = 0.0
    for part, count in zip(np.array_split(ids, 8), np.array_split(counts, 8), strict=True):
        logits = session.run(["logits"], {"input_ids": part})[0][:, :-1].astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        total -= float(np.take_along_axis(logs, part[:, 1:, None], -1)[..., 0][count[:, 1:]].sum())
    return float(np.exp(total / counts[:, 1:].sum()))
