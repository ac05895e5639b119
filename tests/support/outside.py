"""What a package from outside may add: criteria, repairs, a pattern of zeros, a source of data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray

import onnxprune
from onnxprune import Refit, RepairJob
from onnxprune.extensions.patterns import kinds
from onnxprune.extensions.points import criteria, repairs, sources
from onnxprune.runtime.session import session


def last_goes(group: onnxprune.GroupView) -> NDArray[np.float64]:
    """The later a unit, the less important it is."""
    return -np.arange(group.units, dtype=np.float64)


def power(group: onnxprune.GroupView) -> NDArray[np.float64]:
    """Mean square of what the readers of a unit read."""
    second = [np.diag(c.covariance) + c.mean**2 for c in group.consumers()]
    found: NDArray[np.float64] = np.sum(
        [s[c.columns].sum(axis=1) for s, c in zip(second, group.consumers(), strict=True)], axis=0
    )
    return found


def shift_outputs(job: RepairJob) -> list[Refit]:
    """Adds to the last bias what the output lost in the mean."""
    batches = list(job.batches())
    (before,), (after,) = (
        [np.mean([outputs[0].mean(axis=0) for outputs in session(model).each(batches)], axis=0)]
        for model in (job.original, job.pruned)
    )
    bias = next(t for t in job.pruned.proto.graph.initializer if t.name == "c")
    job.pruned.set_array(bias, (job.pruned.array(bias) + (before - after)).astype(np.float32))
    return [Refit("y", 0.0, 1.0, 0.0)]


def spoil(job: RepairJob) -> list[Refit]:
    """Makes everything worse."""
    for tensor in job.pruned.proto.graph.initializer:
        job.pruned.set_array(tensor, job.pruned.array(tensor) + np.float32(100))
    return [Refit("y", 0.0, 1.0, 0.0)]


@dataclass(frozen=True)
class Rows(onnxprune.Pattern):
    """Whole outputs, the weakest first: no block of columns can be chosen for by itself.

    Attributes:
        share: Share of the outputs of each weight.
    """

    share: float | None = None
    takes_share: ClassVar[bool] = True

    @classmethod
    def parse(cls, text: str) -> Rows | None:
        """Reads ``rows``."""
        return cls() if text == "rows" else None

    def __str__(self) -> str:
        return "rows"

    def mask(self, scores: NDArray[Any], layout: Any) -> NDArray[np.bool_]:
        """The outputs whose elements have the lowest scores in sum."""
        zero = np.zeros(scores.shape, dtype=bool)
        matrices, into = layout.matrices(scores), layout.matrices(zero)
        sums = matrices.sum(axis=(*range(matrices.ndim - 2), matrices.ndim - 1))
        into[..., np.argsort(sums, kind="stable")[: int((self.share or 0.0) * len(sums))], :] = True
        return zero

    def holds(self, zero: NDArray[np.bool_], layout: Any) -> bool:
        """Whether each output is zero as a whole, or has no zero."""
        matrices = layout.matrices(zero)
        axes = (*range(matrices.ndim - 2), matrices.ndim - 1)
        return bool((matrices.all(axis=axes) | ~matrices.any(axis=axes)).all())


def noise(text: str) -> dict[str, NDArray[np.float32]]:
    """``noise:COUNT`` draws so many samples for `net`."""
    return {"x": np.random.default_rng(0).standard_normal((int(text), 6)).astype(np.float32)}


def net() -> onnx.ModelProto:
    """A perceptron whose last layer has the bias ``c``."""
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]>
        net (float[N,6] x) => (float[N,3] y) { h = Gemm (x, w, b)  r = Relu (h)  y = Gemm (r, v, c) }"""
    )
    rng = np.random.default_rng(1)
    for name, shape in (("w", (6, 16)), ("b", (16,)), ("v", (16, 3)), ("c", (3,))):
        values = (rng.standard_normal(shape) + 0.5).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return model


def saved(folder: Path) -> Path:
    """The file of such a model."""
    path = folder / "net.onnx"
    onnx.save(net(), path)
    return path


def register() -> None:
    """Adds all of it, as decorators would."""
    onnxprune.criterion("last-goes")(last_goes)
    onnxprune.criterion("power", needs="moments")(power)
    onnxprune.repair_method("shift-outputs")(shift_outputs)
    onnxprune.repair_method("spoil", needs_data=True)(spoil)
    onnxprune.pattern("rows")(Rows)
    onnxprune.data_source("noise")(noise)


def withdraw() -> None:
    """Removes all of it."""
    for registry, names in (
        (criteria, ("last-goes", "power")),
        (repairs, ("shift-outputs", "spoil")),
        (kinds, ("rows",)),
        (sources, ("noise",)),
    ):
        for name in names:
            registry.remove(name)
