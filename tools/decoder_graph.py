"""Writes decoders as graphs: the operators that exporters write for language models, from weights as arrays.

``raw`` spells attention out, ``fused`` has com.microsoft GroupQueryAttention, ``packed`` that with one product for
queries, keys and values. All have the same interface: ids of tokens and caches in, logits and caches out. ``plain`` is
``raw`` without caches: ids in, logits out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MS = "com.microsoft"
LONGEST = 256
"""Positions that the tables of rotations hold."""
EPSILON = 1e-5
Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder."""

    vocabulary: int = 32
    width: int = 24
    heads: int = 6
    keys: int = 2
    size: int = 16
    inner: int = 40
    layers: int = 2
    tied: bool = False
    experts: int = 0
    """Feed-forward networks of a layer, of which a token has `chosen`; 0 for one that all tokens share."""
    chosen: int = 2


def random_weights(shape: Shape, seed: int = 0) -> Weights:
    """Weights of a decoder; matrices have the shape (in, out), those of experts (experts, in, out)."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)

    def scale() -> NDArray[np.float32]:
        return (1 + 0.1 * rng.standard_normal(shape.width)).astype(np.float32)

    made = {"embed": rng.standard_normal((shape.vocabulary, shape.width)).astype(np.float32)}
    for i in range(shape.layers):
        made |= {
            f"layers.{i}.q": matrix(shape.width, shape.heads * shape.size),
            f"layers.{i}.k": matrix(shape.width, shape.keys * shape.size),
            f"layers.{i}.v": matrix(shape.width, shape.keys * shape.size),
            f"layers.{i}.o": matrix(shape.heads * shape.size, shape.width),
        }
        wide = {
            "gate": (shape.width, shape.inner),
            "up": (shape.width, shape.inner),
            "down": (shape.inner, shape.width),
        }
        for part, (rows, columns) in wide.items():
            each = [matrix(rows, columns) for _ in range(max(shape.experts, 1))]
            made[f"layers.{i}.{part}"] = np.stack(each) if shape.experts else each[0]
        made |= {f"layers.{i}.norm1": scale(), f"layers.{i}.norm2": scale()}
        if shape.experts:
            made[f"layers.{i}.router"] = matrix(shape.width, shape.experts)
    made["norm"] = scale()
    if not shape.tied:
        made["head"] = matrix(shape.width, shape.vocabulary)
    return made


def decoder(shape: Shape, weights: Mapping[str, NDArray[Any]], kind: str = "fused") -> onnx.ModelProto:
    """A decoder with caches.

    Args:
        shape: Its sizes.
        weights: Its weights, see `random_weights`.
        kind: ``raw``, ``plain``, ``fused`` or ``packed``.
    """
    return (_Raw if kind in ("raw", "plain") else _Fused)(shape, dict(weights), kind).model()


def feeds(
    model: onnx.ModelProto, ids: NDArray[np.int64], caches: Mapping[str, NDArray[Any]] | None = None
) -> dict[str, NDArray[Any]]:
    """Inputs of a decoder for some further tokens.

    Args:
        model: The decoder.
        ids: The tokens; shape (batch, length).
        caches: The outputs of the run before, by name; None for the first one.
    """
    caches = caches or {}
    pasts = [v for v in model.graph.input if v.name.startswith("past")]
    made: dict[str, NDArray[Any]] = {"input_ids": ids}
    for value in pasts:
        _, keys, _, size = (d.dim_value for d in value.type.tensor_type.shape.dim)
        empty = np.zeros((len(ids), keys, 0, size), np.float32)
        made[value.name] = caches.get(value.name.replace("past_key_values", "present"), empty)
    total = ids.shape[1] + (made[pasts[0].name].shape[2] if pasts else 0)
    optional = {
        "attention_mask": np.ones((len(ids), total), np.int64),
        "position_ids": np.tile(np.arange(total - ids.shape[1], total), (len(ids), 1)),
    }
    names = {v.name for v in model.graph.input}
    return made | {name: array for name, array in optional.items() if name in names}


class _Writer:
    """What all decoders have in common; attention is left to others."""

    def __init__(self, shape: Shape, weights: Weights, kind: str) -> None:
        self.shape = shape
        self.weights = weights
        self.kind = kind
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])]
        self.outputs = [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", shape.vocabulary])
        ]

    def node(self, kind: str, inputs: list[str], *outputs: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], domain=domain, **attributes))
        return outputs[0]

    def constant(self, name: str, array: Any) -> str:
        self.constants[name] = np.asarray(array)
        return name

    def product(self, x: str, name: str) -> str:
        return self.node("MatMul", [x, self.constant(f"{name}.weight", self.weights[name])], name)

    def norm(self, x: str, name: str) -> str:
        raise NotImplementedError

    def attention(self, x: str, layer: int) -> str:
        raise NotImplementedError

    def start(self) -> None:
        """What is computed once for all layers."""

    def feed_forward(self, x: str, name: str) -> str:
        gate = self.product(x, f"{name}.gate")
        gate = self.node("Mul", [gate, self.node("Sigmoid", [gate], f"{gate}.sigmoid")], f"{gate}.silu")
        hidden = self.node("Mul", [gate, self.product(x, f"{name}.up")], f"{name}.hidden")
        return self.product(hidden, f"{name}.down")

    def mixture(self, x: str, name: str) -> str:
        """Experts, gate and width interleaved row by row; the router's values have one row a token."""
        gate, up, down = (self.weights[f"{name}.{part}"].transpose(0, 2, 1) for part in ("gate", "up", "down"))
        rows = np.stack([gate, up], axis=2).reshape(len(gate), -1, gate.shape[2])
        flat = self.constant("flat_router", [-1, self.shape.experts])
        routed = self.node("Reshape", [self.product(x, f"{name}.router"), flat], f"{name}.routed")
        matrices = [
            self.constant(f"{name}.{n}.weight", np.ascontiguousarray(w)) for n, w in (("in", rows), ("down", down))
        ]
        return self.node(
            "MoE",
            [x, routed, matrices[0], "", matrices[1]],
            f"{name}.mixture",
            domain=MS,
            k=self.shape.chosen,
            activation_type="swiglu",
            activation_alpha=1.0,
            activation_beta=0.0,
            swiglu_fusion=1,
            normalize_routing_weights=1,
        )

    def model(self) -> onnx.ModelProto:
        self.start()
        shape = self.shape
        x = self.node("Gather", [self.constant("embed.weight", self.weights["embed"]), "input_ids"], "embedded")
        for i in range(shape.layers):
            name = f"layers.{i}"
            a = self.product(self.attention(self.norm(x, f"{name}.norm1"), i), f"{name}.o")
            x = self.node("Add", [x, a], f"{name}.attended")
            y = self.norm(x, f"{name}.norm2")
            made = self.mixture(y, name) if shape.experts else self.feed_forward(y, name)
            x = self.node("Add", [x, made], f"{name}.out")
        x = self.norm(x, "norm")
        head = self.node("Transpose", ["embed.weight"], "head", perm=[1, 0]) if shape.tied else "head.weight"
        if not shape.tied:
            self.constant(head, self.weights["head"])
        self.node("MatMul", [x, head], "logits")
        tensors = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        graph = helper.make_graph(self.nodes, "decoder", self.inputs, self.outputs, tensors)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def caches(self, layer: int) -> tuple[list[str], list[str]]:
        """Declares the caches of a layer."""
        past, present = ([f"{n}.{layer}.{part}" for part in ("key", "value")] for n in ("past_key_values", "present"))
        for names, values, length in ((past, self.inputs, "past"), (present, self.outputs, "total")):
            dims: list[str | int | None] = ["batch", self.shape.keys, length, self.shape.size]
            values += [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in names]
        return past, present

    def rotations(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cosines and sines of each position; shape (LONGEST, size / 2)."""
        size = self.shape.size
        angles = np.arange(LONGEST)[:, None] / 10000 ** (np.arange(0, size, 2) / size)
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


class _Fused(_Writer):
    """Normalisation and attention of onnxruntime's own domain."""

    def start(self) -> None:
        self.inputs.append(helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"]))
        count = self.node("ReduceSum", ["attention_mask", self.constant("one", [1])], "count", keepdims=0)
        last = self.node("Sub", [count, "one"], "last")
        self.node("Cast", [last], "last32", to=TensorProto.INT32)
        self.node("Shape", ["attention_mask"], "mask_shape")
        total = self.node("Gather", ["mask_shape", self.constant("second", 1)], "total64")
        self.node("Cast", [total], "total32", to=TensorProto.INT32)
        cos, sin = self.rotations()
        self.constant("cos", cos)
        self.constant("sin", sin)

    def norm(self, x: str, name: str) -> str:
        scale = self.constant(f"{name}.weight", self.weights[name])
        return self.node("SimplifiedLayerNormalization", [x, scale], name, axis=-1, epsilon=EPSILON)

    def attention(self, x: str, layer: int) -> str:
        name, shape = f"layers.{layer}", self.shape
        past, present = self.caches(layer)
        if self.kind == "packed":
            self.weights[f"{name}.qkv"] = np.concatenate([self.weights[f"{name}.{part}"] for part in "qkv"], axis=1)
            parts = [self.product(x, f"{name}.qkv"), "", ""]
        else:
            parts = [self.product(x, f"{name}.{part}") for part in "qkv"]
        return self.node(
            "GroupQueryAttention",
            [*parts, *past, "last32", "total32", "cos", "sin"],
            f"{name}.attention",
            *present,
            domain=MS,
            num_heads=shape.heads,
            kv_num_heads=shape.keys,
            do_rotary=1,
        )


class _Raw(_Writer):
    """Standard operators only."""

    def start(self) -> None:
        size, axis = self.shape.size, self.constant("axis1", [1])
        self.node("Shape", ["input_ids"], "ids.shape")
        self.node("Gather", ["ids.shape", self.constant("one", 1)], "length")
        self.constant("zero", 0)
        if self.kind == "plain":
            self.node("Range", ["zero", "length", "one"], "positions")
            self.node("Unsqueeze", ["positions", self.constant("axis0", [0])], "position_ids")
        else:
            self.inputs.append(helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch", "length"]))
        for name, table in zip(("cos", "sin"), self.rotations(), strict=True):
            twice = self.constant(f"{name}.table", np.concatenate([table, table], axis=1))
            self.node("Unsqueeze", [self.node("Gather", [twice, "position_ids"], f"{name}.at"), axis], name)
        total = "length"
        if self.kind == "raw":
            self.node("Shape", ["past_key_values.0.key"], "past.shape")
            self.node("Gather", ["past.shape", self.constant("two", 2)], "past.length")
            total = self.node("Add", ["past.length", "length"], "total")
        self.node("Range", ["zero", total, "one"], "columns")
        self.node("Unsqueeze", ["position_ids", self.constant("axes13", [1, 3])], "rows")
        seen = self.node("LessOrEqual", ["columns", "rows"], "seen")
        hidden = self.constant("hidden", np.float32(-1e9))
        self.node("Where", [seen, self.constant("shown", np.float32(0)), hidden], "mask")
        for name, values in (("start", [0]), ("half", [size // 2]), ("end", [size]), ("axis2", [2]), ("axis3", [3])):
            self.constant(name, values)

    def norm(self, x: str, name: str) -> str:
        square = self.node("Mul", [x, x], f"{name}.square")
        mean = self.node("ReduceMean", [square], f"{name}.mean", axes=[-1])
        more = self.node("Add", [mean, self.constant("epsilon", np.float32(EPSILON))], f"{name}.more")
        root = self.node("Sqrt", [more], f"{name}.root")
        scale = self.constant(f"{name}.weight", self.weights[name])
        return self.node("Mul", [self.node("Div", [x, root], f"{name}.divided"), scale], name)

    def rotated(self, x: str) -> str:
        low = self.node("Slice", [x, "start", "half", "axis3"], f"{x}.low")
        high = self.node("Slice", [x, "half", "end", "axis3"], f"{x}.high")
        turned = self.node("Concat", [self.node("Neg", [high], f"{x}.minus"), low], f"{x}.turned", axis=-1)
        parts = [self.node("Mul", [v, t], f"{x}.{t}") for v, t in ((x, "cos"), (turned, "sin"))]
        return self.node("Add", parts, f"{x}.rotated")

    def by_head(self, x: str, heads: int) -> str:
        target = self.constant(f"heads{heads}", [0, 0, heads, self.shape.size])
        return self.node("Transpose", [self.node("Reshape", [x, target], f"{x}.split")], f"{x}.t", perm=[0, 2, 1, 3])

    def repeated(self, x: str, name: str) -> str:
        """Keys or values, once for each query head."""
        shape = self.shape
        times = self.constant("times", [1, 1, shape.heads // shape.keys, 1, 1])
        wide = self.node("Expand", [self.node("Unsqueeze", [x, "axis2"], f"{name}.apart"), times], f"{name}.wide")
        return self.node("Reshape", [wide, self.constant("joined", [0, shape.heads, -1, shape.size])], f"{name}.joined")

    def attention(self, x: str, layer: int) -> str:
        name, shape = f"layers.{layer}", self.shape
        q = self.rotated(self.by_head(self.product(x, f"{name}.q"), shape.heads))
        k = self.rotated(self.by_head(self.product(x, f"{name}.k"), shape.keys))
        v = self.by_head(self.product(x, f"{name}.v"), shape.keys)
        if self.kind == "raw":
            pasts, presents = self.caches(layer)
            k, v = (self.node("Concat", [p, n], o, axis=2) for p, n, o in zip(pasts, (k, v), presents, strict=True))
        keys, values = self.repeated(k, f"{name}.keys"), self.repeated(v, f"{name}.values")
        keys = self.node("Transpose", [keys], f"{name}.kt", perm=[0, 1, 3, 2])
        scores = self.node("MatMul", [q, keys], f"{name}.scores")
        scale = self.constant("scale", np.float32(shape.size**-0.5))
        scores = self.node("Add", [self.node("Mul", [scores, scale], f"{name}.scaled"), "mask"], f"{name}.masked")
        shares = self.node("Softmax", [scores], f"{name}.shares", axis=-1)
        heads = self.node("MatMul", [shares, values], f"{name}.heads")
        back = self.node("Transpose", [heads], f"{name}.back", perm=[0, 2, 1, 3])
        flat = self.constant("flat", [0, 0, shape.heads * shape.size])
        return self.node("Reshape", [back, flat], f"{name}.attention")
