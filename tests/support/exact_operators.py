"""Operators for onnx's reference evaluator where its own are wrong or of single precision (onnx 1.23)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

_erf = np.vectorize(math.erf, otypes=[np.float64])


class Erf(OpRun):
    """In double precision."""

    op_domain = ""

    def _run(self, x: NDArray[Any]) -> tuple[NDArray[Any]]:
        return (_erf(x).astype(x.dtype),)


class Gelu(OpRun):
    """In double precision."""

    op_domain = ""

    def _run(self, x: NDArray[Any], approximate: str | None = None) -> tuple[NDArray[Any]]:
        bent = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
        share = bent if approximate == "tanh" else _erf(x / np.sqrt(2))
        return (0.5 * x * (1 + share),)


class ConvTranspose(OpRun):
    """With groups: spreads each element of the input times the kernel."""

    op_domain = ""

    def _run(
        self, x: NDArray[Any], w: NDArray[Any], b: NDArray[Any] | None = None, **attributes: Any
    ) -> tuple[NDArray[Any]]:
        n = x.ndim - 2
        strides, dilations = attributes.get("strides") or [1] * n, attributes.get("dilations") or [1] * n
        pads = attributes.get("pads") or [0] * 2 * n
        extra, group = attributes.get("output_padding") or [0] * n, attributes.get("group") or 1
        share, kernel = w.shape[1], w.shape[2:]
        full = [(x.shape[2 + i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + extra[i] for i in range(n)]
        y = np.zeros((len(x), share * group, *full), x.dtype)
        rows = x.shape[1] // group
        for g in range(group):
            part, made = w[g * rows : (g + 1) * rows], y[:, g * share : (g + 1) * share]
            for place in np.ndindex(*x.shape[2:]):
                spread = np.einsum("ni,io...->no...", x[(slice(None), slice(g * rows, (g + 1) * rows), *place)], part)
                where = tuple(
                    slice(p * s, p * s + (k - 1) * d + 1, d)
                    for p, s, k, d in zip(place, strides, kernel, dilations, strict=True)
                )
                made[(slice(None), slice(None), *where)] += spread
        y = y[(slice(None), slice(None), *(slice(pads[i], full[i] - pads[n + i]) for i in range(n)))]
        return (y if b is None else y + b.reshape(-1, *[1] * n),)


def _flat(x: NDArray[Any], axis: int) -> NDArray[Any]:
    rows = x.reshape(math.prod(x.shape[: axis % x.ndim]), -1)
    powers = np.exp(rows - rows.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).reshape(x.shape)


class Softmax(OpRun):
    """As before opset 13: over all axes from one on."""

    op_domain = ""

    def _run(self, x: NDArray[Any], axis: int | None = None) -> tuple[NDArray[Any]]:
        return (_flat(x, 1 if axis is None else axis),)


class LogSoftmax(OpRun):
    """As before opset 13."""

    op_domain = ""

    def _run(self, x: NDArray[Any], axis: int | None = None) -> tuple[NDArray[Any]]:
        return (np.log(_flat(x, 1 if axis is None else axis)),)


def exact_operators(opset: int) -> list[type[OpRun]]:
    """The operators for models of an opset version."""
    return [Erf, Gelu, ConvTranspose, *([Softmax, LogSoftmax] if opset < 13 else [])]
