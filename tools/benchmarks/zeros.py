"""How long patterns of zeros take.

    python -m tools.benchmarks zeros whole MODEL.onnx [--pattern 2:4 ...] [--rounds 5]
    python -m tools.benchmarks zeros peer MODEL.onnx --python PEER_PYTHON [--types float32 float16 bfloat16]
    python -m tools.benchmarks zeros solver [--size 4096] [--rounds 3]

``whole`` holds the process of our command, verification left out, against one that loads and saves the file with onnx.
``peer`` holds 2:4 by magnitude against polygraphy's, loading and saving left out, and asks polygraphy whether it takes
every weight that we call 2:4 for one; weights of another type are stored as that and cast. ``solver`` holds SparseGPT,
given a Gram matrix, against one Cholesky factorisation and one product of matrices of its size.

Both sides alternate, round by round, and medians are printed, of seconds that pass and of seconds of processor time:
the latter tell more where a machine is busy with other work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import onnxprune
from onnxprune import sparsity
from onnxprune.extensions.patterns import parse
from onnxprune.model.model import Model, load
from onnxprune.model.save import save
from onnxprune.pipeline.analysis import analyze_loaded
from onnxprune.sparsity.patterns import NOfM
from onnxprune.sparsity.solvers import sparsegpt

PEER = str(Path(__file__).with_name("peer_polygraphy.py"))
Seconds = tuple[float, float]
"""That pass, and of processor time."""


def process(*words: str) -> Seconds:
    """What a process takes from its start to its end."""
    start = time.perf_counter()
    child = subprocess.Popen(words)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} failed")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime


def call(run: Callable[[], object]) -> Seconds:
    """What a call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def compared(title: str, sides: Sequence[Callable[[], Seconds]], rounds: int) -> dict[str, Any]:
    """Medians of two sides, and of the ratio of the second to the first."""
    done = [[side() for side in sides] for _ in range(rounds)]
    row: dict[str, Any] = {"what": title, "rounds": rounds}
    for i, clock in enumerate(("wall", "cpu")):
        row[f"reference_{clock}_s"], row[f"ours_{clock}_s"] = (
            statistics.median(d[side][i] for d in done) for side in (0, 1)
        )
        row[f"{clock}_ratio"] = statistics.median(d[1][i] / d[0][i] for d in done)
    return row


def whole(model: Path, patterns: Sequence[str], rounds: int) -> Iterator[dict[str, Any]]:
    """Our process against load and save."""
    with tempfile.TemporaryDirectory() as tmp:
        copy, out = str(Path(tmp) / "copy.onnx"), str(Path(tmp) / "out.onnx")
        plain = "import sys, onnx; onnx.save(onnx.load(sys.argv[1]), sys.argv[2])"
        for pattern in patterns:
            yield compared(
                f"load + save, {pattern}",
                (
                    lambda: process(sys.executable, "-c", plain, str(model), copy),
                    lambda p=pattern: process(
                        sys.executable,
                        "-m",
                        "onnxprune",
                        str(model),
                        "--pattern",
                        p,
                        "--no-verify",
                        "--quiet",
                        "-o",
                        out,
                    ),
                ),
                rounds,
            )


def peer(model: Path, python: str, types: Sequence[str]) -> Iterator[dict[str, Any]]:
    """2:4 by magnitude against polygraphy."""
    with tempfile.TemporaryDirectory() as tmp:
        for name in types:
            path, out = Path(tmp) / "model.onnx", Path(tmp) / "out.onnx"
            onnx.save(stored_as(onnx.load(model), name), path)
            loaded = load(path)
            ours = call(lambda m=loaded: two_of_four(m))
            save(loaded, out)
            mine = claimed(out)
            onnx.save(as_floats(onnx.load(out)), out)
            confirmed = set(asked(python, "check", out))
            theirs = asked(python, "prune", path)
            yield {
                "type": name,
                "weights": len(mine),
                "confirmed": len(mine & confirmed),
                "not_confirmed": sorted(mine - confirmed)[:5] or None,
                "polygraphy_wall_s": theirs["wall"],
                "polygraphy_cpu_s": theirs["cpu"],
                "ours_wall_s": ours[0],
                "ours_cpu_s": ours[1],
                "wall_ratio": theirs["wall"] / ours[0],
                "cpu_ratio": theirs["cpu"] / ours[1],
            }


def two_of_four(model: Model) -> None:
    """What lies between loading and saving."""
    coupling = analyze_loaded(model).coupling
    sparsity.zero_smallest(model, coupling, sparsity.weights(coupling), parse("2:4"), False)


def asked(python: str, what: str, path: Path) -> Any:
    """What the peer says."""
    done = subprocess.run([python, PEER, what, str(path)], check=True, text=True, capture_output=True)
    return json.loads(done.stdout)


def as_floats(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its bfloat16 weights as float32, value by value.

    The check of bfloat16 in polygraphy 0.53.6 uses one variable for two loops and so reads other elements than it means
    to: it ends with an IndexError even at a weight of zeros alone.
    """
    for t in model.graph.initializer:
        if t.data_type == onnx.TensorProto.BFLOAT16:
            t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t).astype(np.float32), t.name))
    return model


def claimed(path: Path) -> set[str]:
    """Weights of matrices and convolutions, of whole groups of four, that are 2:4 along the axis that we say."""
    model = onnxprune.analyze(path)
    found = set()
    for weight in sparsity.weights(model.coupling):
        array = sparsity.real_values(model.model, model.coupling, weight.value)
        if (
            weight.layout is not None
            and array.shape[weight.layout.inputs] % 4 == 0
            and NOfM(2, 4).holds(array == 0, weight.layout)
        ):
            found.add(weight.value.key)
    return found


def stored_as(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with its weights of several axes stored in another type, and cast where they are read."""
    kind = getattr(onnx.TensorProto, {"float32": "FLOAT"}.get(name, name.upper()))
    for t in model.graph.initializer if name != "float32" else ():
        if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1:
            array = numpy_helper.to_array(t).astype(helper.tensor_dtype_to_np_dtype(kind))
            model.graph.node.insert(
                0, helper.make_node("Cast", [f"{t.name}.stored"], [t.name], to=onnx.TensorProto.FLOAT)
            )
            t.CopyFrom(numpy_helper.from_array(array, f"{t.name}.stored"))
    return model


def solver(size: int, rounds: int) -> Iterator[dict[str, Any]]:
    """SparseGPT of a square layer."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((size + size // 8, size), dtype=np.float32)
    gram, weight = x.T @ x / np.float32(size), rng.standard_normal((size, size), dtype=np.float32)
    for pattern in (parse("2:4"), parse("weights=0.5")):
        yield compared(
            f"factorisation and product, SparseGPT {pattern}, {size} x {size}",
            (
                lambda: call(lambda: (np.linalg.cholesky(gram), gram @ weight)),
                lambda p=pattern: call(lambda: sparsegpt(weight, gram, p, size)),
            ),
            rounds,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("what", choices=["whole", "peer", "solver"])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--pattern", nargs="*", default=["2:4", "weights=0.5", "4x1=0.5"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", help="a Python that has polygraphy")
    parser.add_argument(
        "--types", nargs="*", choices=["float32", "float16", "bfloat16"], default=["float32", "float16", "bfloat16"]
    )
    parser.add_argument("--size", type=int, default=4096)


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row a pattern or type."""
    if args.what == "solver":
        yield from solver(args.size, args.rounds)
    elif args.model is None or (args.what == "peer" and args.python is None):
        raise SystemExit("a model is asked for, and for 'peer' a Python that has polygraphy")
    elif args.what == "whole":
        yield from whole(args.model, args.pattern, args.rounds)
    else:
        yield from peer(args.model, args.python, args.types)
