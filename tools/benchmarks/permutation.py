"""What an order of input channels keeps of trained weights under 2:4, and what the search for it takes.

    python -m tools.benchmarks permutation MODEL.onnx ... [--most 128] [--escapes 100]

One row a weight whose input channels are a multiple of 4, at least 16 and at most --most: the share of its magnitude
that 2:4 keeps in the order that it has, in the one that the package finds, and in the one of an exhaustive search over
pairs of stripes finds (Pool and Yu, "Channel permutations for N:M sparsity", NeurIPS 2021, see
tests/support/stripe_groups.py), with the processor time of both. Weights are looked at one by one, without the ties to
other layers that a model has.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling.coupling import analyze
from onnxprune.graph.graph import Graph
from onnxprune.model.model import load
from onnxprune.sparsity import weights
from onnxprune.sparsity.permutation_search import Stripes, search
from tests.support.stripe_groups import kept, stripe_groups

Values = NDArray[np.float32]


def columns(path: str, most: int) -> Iterator[tuple[str, Values]]:
    """The magnitudes of each weight that fits, input channel by input channel."""
    model = load(path)
    for weight in weights(analyze(Graph(model.proto))):
        if weight.layout is not None and weight.layout.input_blocks == 1 and weight.value.tensor is not None:
            array = np.abs(model.array(weight.value.tensor).astype(np.float32))
            lines = np.moveaxis(array, weight.layout.inputs, 0).reshape(array.shape[weight.layout.inputs], -1)
            if 16 <= len(lines) <= most and len(lines) % 4 == 0:
                yield weight.value.key, np.ascontiguousarray(lines)


def timed(find: Callable[[], NDArray[np.int64]]) -> tuple[NDArray[np.int64], float]:
    """An order, and the seconds of processor time that it took."""
    start = time.process_time()
    order = find()
    return order, time.process_time() - start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("models", nargs="+")
    parser.add_argument("--most", type=int, default=128)
    parser.add_argument("--escapes", type=int, default=100)


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row a weight."""
    for path in args.models:
        for name, values in columns(path, args.most):
            whole = float(values.sum(dtype=np.float64))
            part = Stripes(values, np.arange(len(values)).reshape(-1, 4))
            ours, mine = timed(lambda part=part: search([part], 2, np.random.default_rng(0)))
            theirs, other = timed(lambda values=values: stripe_groups(values, args.escapes))
            as_is, kept_ours, kept_theirs = (
                kept(values, order) / whole for order in (np.arange(len(values)), ours, theirs)
            )
            yield {
                "model": Path(path).stem,
                "weight": name,
                "columns": len(values),
                "rows": values.shape[1],
                "as_it_is": as_is,
                "ours": kept_ours,
                "ours_s": mine,
                "pairs_of_stripes": kept_theirs,
                "pairs_of_stripes_s": other,
            }
