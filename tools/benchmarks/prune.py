"""How long pruning takes, as a ratio to loading and saving the same file with onnx, in one run.

    python -m tools.benchmarks prune [MODEL.onnx] [--rounds 7]

Without a model it makes one the size of a ResNet-50: 16 bottleneck blocks, 25.5 million weights, 102 MB.
Verification is left out: it is two runs of the model in onnxruntime. Rounds of both sides alternate, so that a machine
that is busy meanwhile slows both; the median of the rounds' ratios is printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxprune


def bottlenecks() -> onnx.ModelProto:
    """A residual network of bottleneck blocks in four stages, its normalisations folded into the convolutions."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[TensorProto] = []

    def conv(x: str, name: str, into: int, out: int, kernel: int, stride: int = 1) -> str:
        shape = (out, into, kernel, kernel)
        w = rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / (into * kernel**2)))
        weights.append(numpy_helper.from_array(w, f"{name}.weight"))
        weights.append(numpy_helper.from_array(np.zeros(out, np.float32), f"{name}.bias"))
        nodes.append(
            helper.make_node(
                "Conv",
                [x, f"{name}.weight", f"{name}.bias"],
                [name],
                name=name,
                kernel_shape=[kernel] * 2,
                pads=[kernel // 2] * 4,
                strides=[stride] * 2,
            )
        )
        return name

    def relu(x: str) -> str:
        nodes.append(helper.make_node("Relu", [x], [f"{x}.relu"], name=f"{x}.relu"))
        return f"{x}.relu"

    x = relu(conv("input", "stem", 3, 64, 7, 2))
    width = 64
    for stage, (blocks, inner) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)]):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if block == 0 else 1
            y = relu(conv(x, f"{name}.conv1", width, inner, 1))
            y = relu(conv(y, f"{name}.conv2", inner, inner, 3, stride))
            y = conv(y, f"{name}.conv3", inner, 4 * inner, 1)
            if block == 0:
                x = conv(x, f"{name}.shortcut", width, 4 * inner, 1, stride)
            nodes.append(helper.make_node("Add", [x, y], [f"{name}.sum"], name=f"{name}.sum"))
            x, width = relu(f"{name}.sum"), 4 * inner
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["pooled"], name="pooled"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], name="flat"))
    fc = rng.standard_normal((1000, width), dtype=np.float32) * np.float32(0.02)
    weights.append(numpy_helper.from_array(fc, "fc.weight"))
    nodes.append(helper.make_node("Gemm", ["flat", "fc.weight"], ["logits"], name="fc", transB=1))
    graph = helper.make_graph(
        nodes,
        "bottlenecks",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1000])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=7)


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row a round; the first one, in which imports and the file cache warm up, is left out."""
    with tempfile.TemporaryDirectory() as tmp:
        model = Path(tmp) / "model.onnx"
        if args.model is None:
            onnx.save(bottlenecks(), model)
        else:
            model.write_bytes(args.model.read_bytes())
        copy, pruned = model.with_name("copy.onnx"), model.with_name("pruned.onnx")
        for i in range(args.rounds + 1):
            start = time.perf_counter()
            onnx.save(onnx.load(model), copy)
            middle = time.perf_counter()
            onnxprune.prune(model, ratio=0.5, repair="none", verify=False).save(pruned)
            end = time.perf_counter()
            if i:
                yield {
                    "megabytes": model.stat().st_size / 1e6,
                    "load_and_save_s": middle - start,
                    "prune_s": end - middle,
                    "ratio": (end - middle) / (middle - start),
                }


def verdict(done: list[dict[str, Any]], args: argparse.Namespace) -> tuple[list[str], int]:
    """The median ratio."""
    ratios = [row["ratio"] for row in done]
    return [f"median ratio {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})"], 0
