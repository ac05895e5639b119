"""Writes decoder models of any size, their weights streamed to data files beside the model.

    python -m tools.decoders OUT.onnx --gigabytes 6 [--weights float16|int4] [--hidden 4096 ...] [--chunk 2e9]

Grouped-query attention with key/value caches, root-mean-square norms, gated feed-forward networks: the operators that
onnxruntime's exporters of language models write. ``float16`` stores matrices for MatMul, ``int4`` for MatMulNBits
(blocks of 32 with float16 scales). Values are random and the same for the same options. Memory stays below 100 MB,
whatever the size; with ``--gigabytes`` as many layers are written as fit.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
BLOCK = 32
"""Weights that share one scale."""
POOL = 4_194_301
"""Random numbers that are drawn; a prime, so that rows of matrices repeat none before."""
PAGE = 4096
POSITIONS = 512
"""Positions that the rotary tables have."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a decoder.

    Attributes:
        hidden: Width of the residual stream.
        inner: Width of the feed-forward networks.
        heads: Query heads.
        pairs: Key/value heads.
        vocabulary: Tokens.
        layers: Layers.
    """

    hidden: int = 4096
    inner: int = 14336
    heads: int = 32
    pairs: int = 8
    vocabulary: int = 32000
    layers: int = 1

    @property
    def head(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads

    def filling(self, size: float, weights: str) -> Sizes:
        """The same with as many layers as come nearest to a size in bytes; at least one."""
        matrix = 2.0 if weights == "float16" else 0.5 + 2 / BLOCK
        layer = self.hidden * (2 * self.hidden + 2 * self.pairs * self.head + 3 * self.inner) * matrix
        outside = self.vocabulary * self.hidden * (2 + matrix)
        return replace(self, layers=max(round((size - outside) / layer), 1))


class Data:
    """The data files: numbers of pools that repeat, each tensor from where the one before it ended."""

    def __init__(self, model: Path, chunk: float) -> None:
        rng = np.random.default_rng(0)
        self._pools = {
            "weight": (rng.standard_normal(POOL, dtype=np.float32) * 0.02).astype(np.float16).tobytes(),
            "scale": (np.abs(rng.standard_normal(POOL, dtype=np.float32)) * 0.002 + 0.0005)
            .astype(np.float16)
            .tobytes(),
            "packed": rng.integers(0, 256, POOL, dtype=np.uint8).tobytes(),
        }
        self._at = dict.fromkeys(self._pools, 0)
        self._model, self._chunk = model, chunk
        self._files = 0
        self._stream: BinaryIO | None = None

    def append(self, tensor: TensorProto, pool: str, size: int) -> None:
        """Writes `size` bytes of a pool and makes the tensor refer to them."""
        stream = self._file(size)
        start = -(-stream.tell() // PAGE) * PAGE
        stream.write(bytes(start - stream.tell()))
        numbers, at = self._pools[pool], self._at[pool]
        self._at[pool] = (at + size) % len(numbers)
        left = size
        while left:
            part = memoryview(numbers)[at : at + left]
            stream.write(part)
            left, at = left - len(part), 0
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", Path(stream.name).name), ("offset", start), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))

    def _file(self, size: int) -> BinaryIO:
        """The file that the next tensor goes to; a new one where it would exceed the limit."""
        if self._stream is None or (self._stream.tell() and self._stream.tell() + PAGE + size > self._chunk):
            self.close()
            suffix = f"_{self._files}" if self._files else ""
            self._stream = open(f"{self._model}_data{suffix}", "wb")  # noqa: SIM115 (closed by `close`)
            self._files += 1
        return self._stream

    def close(self) -> None:
        """Closes the file that is open."""
        if self._stream is not None:
            self._stream.close()


class Decoder:
    """Builds the graph while the weights are written."""

    def __init__(self, sizes: Sizes, weights: str, data: Data) -> None:
        self.sizes, self.weights, self.data = sizes, weights, data
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.inputs = [self._value("input_ids", TensorProto.INT64, ["batch", "length"])]
        self.inputs.append(self._value("attention_mask", TensorProto.INT64, ["batch", "total"]))
        self.outputs = [self._value("logits", TensorProto.FLOAT16, ["batch", "length", sizes.vocabulary])]
        self.rng = np.random.default_rng(1)

    @staticmethod
    def _value(name: str, kind: int, dims: list[Any]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, dims)

    def stored(self, name: str, kind: int, dims: tuple[int, ...], pool: str) -> str:
        tensor = TensorProto(name=name, data_type=kind, dims=dims)
        self.data.append(tensor, pool, math.prod(dims) * (1 if kind == TensorProto.UINT8 else 2))
        self.initializers.append(tensor)
        return name

    def constant(self, name: str, array: Any) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op_type: str, inputs: list[str], *outputs: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(
            helper.make_node(op_type, inputs, list(outputs), name=f"/{outputs[0]}", domain=domain, **attributes)
        )
        return outputs[0]

    def linear(self, x: str, name: str, into: int, out: int, result: str | None = None) -> str:
        result = result or f"{name}.out"
        if self.weights == "float16":
            weight = self.stored(f"{name}.weight", TensorProto.FLOAT16, (into, out), "weight")
            return self.node("MatMul", [x, weight], result)
        blocks = -(-into // BLOCK)
        packed = self.stored(f"{name}.weight_Q4", TensorProto.UINT8, (out, blocks, BLOCK // 2), "packed")
        scales = self.stored(f"{name}.weight_scales", TensorProto.FLOAT16, (out, blocks), "scale")
        shape = {"K": into, "N": out, "bits": 4, "block_size": BLOCK}
        return self.node("MatMulNBits", [x, packed, scales], result, domain=MICROSOFT, **shape)

    def norm(self, x: str, name: str) -> str:
        gain = self.rng.standard_normal(self.sizes.hidden) * 0.1 + 1
        weight = self.constant(f"{name}.weight", gain.astype(np.float16))
        return self.node("SimplifiedLayerNormalization", [x, weight], f"{name}.out", axis=-1, epsilon=1e-5)

    def layer(self, x: str, at: int) -> str:
        name, s = f"layers.{at}", self.sizes
        y = self.norm(x, f"{name}.input_norm")
        q, k, v = (
            self.linear(y, f"{name}.attention.{part}", s.hidden, heads * s.head)
            for part, heads in (("q", s.heads), ("k", s.pairs), ("v", s.pairs))
        )
        mixed = self.attention(q, k, v, at)
        o = self.linear(mixed, f"{name}.attention.o", s.heads * s.head, s.hidden)
        x = self.node("Add", [x, o], f"{name}.after_attention")
        y = self.norm(x, f"{name}.feed_forward_norm")
        gate, up = (self.linear(y, f"{name}.feed_forward.{part}", s.hidden, s.inner) for part in ("gate", "up"))
        gate = self.node("Mul", [gate, self.node("Sigmoid", [gate], f"{gate}.sigmoid")], f"{gate}.silu")
        wide = self.node("Mul", [gate, up], f"{name}.feed_forward.gated")
        down = self.linear(wide, f"{name}.feed_forward.down", s.inner, s.hidden)
        return self.node("Add", [x, down], f"{name}.after_feed_forward")

    def attention(self, q: str, k: str, v: str, at: int) -> str:
        s, caches = self.sizes, [f"past_key_values.{at}.{part}" for part in ("key", "value")]
        presents = [f"present.{at}.{part}" for part in ("key", "value")]
        for cache, present in zip(caches, presents, strict=True):
            self.inputs.append(self._value(cache, TensorProto.FLOAT16, ["batch", s.pairs, "past", s.head]))
            self.outputs.append(self._value(present, TensorProto.FLOAT16, ["batch", s.pairs, "total", s.head]))
        return self.node(
            "GroupQueryAttention",
            [q, k, v, *caches, "last", "total_length", "cos", "sin"],
            f"layers.{at}.attention",
            *presents,
            domain=MICROSOFT,
            num_heads=s.heads,
            kv_num_heads=s.pairs,
            do_rotary=1,
            scale=s.head**-0.5,
        )

    def model(self) -> onnx.ModelProto:
        s = self.sizes
        frequencies = 10000.0 ** -(np.arange(0, s.head, 2) / s.head)
        angles = np.outer(np.arange(POSITIONS), frequencies)
        self.constant("cos", np.cos(angles).astype(np.float16))
        self.constant("sin", np.sin(angles).astype(np.float16))
        count = self.node("ReduceSum", ["attention_mask", self.constant("axis", [1])], "count", keepdims=0)
        self.node(
            "Cast", [self.node("Sub", [count, self.constant("one", [1])], "last64")], "last", to=TensorProto.INT32
        )
        shape = self.node("Shape", ["attention_mask"], "mask_shape")
        total = self.node("Gather", [shape, self.constant("second", 1)], "total64", axis=0)
        self.node("Cast", [total], "total_length", to=TensorProto.INT32)
        table = self.stored("embedding.weight", TensorProto.FLOAT16, (s.vocabulary, s.hidden), "weight")
        x = self.node("Gather", [table, "input_ids"], "embedded")
        for at in range(s.layers):
            x = self.layer(x, at)
        self.linear(self.norm(x, "norm"), "head", s.hidden, s.vocabulary, "logits")
        graph = helper.make_graph(self.nodes, "decoder", self.inputs, self.outputs, self.initializers)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def write(path: Path, sizes: Sizes, weights: str = "float16", chunk: float = math.inf) -> None:
    """Writes a decoder and its data files (``PATH_data``, ``PATH_data_1``, ...).

    Args:
        path: File of the model.
        sizes: Its sizes.
        weights: ``float16`` or ``int4``.
        chunk: Largest size of a data file in bytes; a tensor that is larger has a file for itself.
    """
    data = Data(path, chunk)
    try:
        path.write_bytes(Decoder(sizes, weights, data).model().SerializeToString())
    finally:
        data.close()


def main(words: list[str]) -> int:
    """Writes one model and prints what it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--weights", choices=["float16", "int4"], default="float16")
    parser.add_argument("--gigabytes", type=float, help="choose the number of layers by the size of the weights")
    parser.add_argument("--chunk", type=float, default=math.inf, help="largest size of a data file in bytes")
    for name, default in vars(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args(words)
    sizes = Sizes(**{name: getattr(args, name) for name in vars(Sizes())})
    if args.gigabytes:
        sizes = sizes.filling(args.gigabytes * 1e9, args.weights)
    write(args.output, sizes, args.weights, args.chunk)
    written = sum(file.stat().st_size for file in args.output.parent.glob(f"{args.output.name}*"))
    print(f"{args.output}: {sizes.layers} layers, {written:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
