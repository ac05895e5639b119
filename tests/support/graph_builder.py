"""Incremental construction of random models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

T = TypeVar("T")


class Chooser(Protocol):
    """Where the decisions come from."""

    def integer(self, low: int, high: int) -> int:
        """A number, both ends included."""

    def pick(self, options: Sequence[T]) -> T:
        """One of several."""


class Seeded:
    """Decisions of a seeded generator."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        return int(self._rng.integers(low, high + 1))

    def pick(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]


class Tensor:
    """A value under construction with its shape."""

    def __init__(self, name: str, shape: Sequence[int]) -> None:
        self.name = name
        self.shape = tuple(shape)


class Builder:
    """Grows a graph node by node, keeping every tensor's shape."""

    def __init__(self, choose: Chooser) -> None:
        self.choose = choose
        self.rng = np.random.default_rng(choose.integer(0, 2**16))
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.tensors: list[Tensor] = []
        self.inputs: list[Tensor] = []
        self._weights: dict[tuple[int, ...], list[str]] = {}

    def input(self, shape: Sequence[int]) -> Tensor:
        t = Tensor(f"in{len(self.inputs)}", shape)
        self.inputs.append(t)
        self.tensors.append(t)
        return t

    def node(self, op_type: str, inputs: Sequence[str], shape: Sequence[int], outputs: int = 1, **attrs: Any) -> Tensor:
        name = f"v{len(self.nodes)}"
        names = [name] + [f"{name}_{i}" for i in range(1, outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=f"n_{name}", **attrs))
        t = Tensor(name, shape)
        self.tensors.append(t)
        return t

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, fan_in: int = 1, positive: bool = False) -> str:
        """A float constant; now and then one of the same shape that is already there (shared weights)."""
        known = self._weights.setdefault(shape, [])
        if known and not positive and self.choose.integer(0, 7) == 0:
            return self.choose.pick(known)
        array = self.rng.standard_normal(shape) / np.sqrt(max(fan_in, 1))
        array = np.abs(array) + 0.5 if positive else array
        name = self.constant(array.astype(np.float32))
        if positive:
            return name  # may divide: the oracle must see that it does
        known.append(name)
        return self._behind(name, shape) if self.choose.integer(0, 9) == 0 else name

    def _behind(self, name: str, shape: tuple[int, ...]) -> str:
        """The same weight behind an operator that only moves it."""
        kind = self.choose.integer(0, 2)
        if kind == 0:
            return self.node("Identity", [name], shape).name
        if kind == 1 and len(shape) > 1:
            perm = list(range(len(shape)))[::-1]
            array = numpy_helper.to_array(next(t for t in self.initializers if t.name == name))
            flipped = self.constant(np.ascontiguousarray(array.transpose(perm)))
            return self.node("Transpose", [flipped], shape, perm=perm).name
        once = self.node("Unsqueeze", [name, self.constant(np.array([0]))], (1, *shape))
        return self.node("Squeeze", [once.name, self.constant(np.array([0]))], shape).name

    def images(self) -> list[Tensor]:
        return [t for t in self.tensors if len(t.shape) == 4 and t.name not in self._hidden()]

    def rows(self) -> list[Tensor]:
        return [t for t in self.tensors if len(t.shape) == 3 and t.name not in self._hidden()]

    def hide(self, *passing: Tensor) -> None:
        """Values that no later operator shall read: their batch is not that of the others, say."""
        self.tensors = [t for t in self.tensors if t not in passing]

    def _hidden(self) -> set[str]:
        """Weights behind operators: not to be used as activations."""
        constants = {t.name for t in self.initializers}
        hidden: set[str] = set()
        for n in self.nodes:
            if all(i in constants or i in hidden for i in n.input):
                hidden.update(n.output)
        return hidden

    def model(self, outputs: Sequence[Tensor], *, fixed: bool = False) -> onnx.ModelProto:
        """The model, its batch free or fixed."""
        batch = self.inputs[0].shape[0] if fixed else "batch"
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, [batch, *t.shape[1:]]) for t in self.inputs],
            [
                helper.make_tensor_value_info(
                    t.name,
                    TensorProto.FLOAT,
                    [batch if t.shape[0] == self.inputs[0].shape[0] else t.shape[0], *t.shape[1:]],
                )
                for t in outputs
            ],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
