"""What a type checker must take, and what it must know of it."""

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

import onnxprune
from onnxprune.extensions import points
from onnxprune.options import Calibration, Channels, Options, Zeros

result = onnxprune.prune("model.onnx", 0.5)
reveal_type(result)  # R: onnxprune.pipeline.result.Result
reveal_type(result.proto)  # R: onnx.onnx_ml_pb2.ModelProto
reveal_type(result.plan)  # R: onnxprune.planning.plan.Plan
reveal_type(result.report.params.after)  # R: int | None
reveal_type(result.report.targets["macs"].met)  # R: bool
reveal_type(result.report.to_json())  # R: str
reveal_type(result.stopped)  # R: str | None
onnxprune.prune(Path("model.onnx"), ratio=0.5, only="head", ignore=["a", "b"], input_shapes={"x": (1, 3, 8, 8)})
onnxprune.prune(onnx.ModelProto(), target={"macs": 0.5, "params": "2M"}, calib={"x": np.zeros(3)})
onnxprune.prune("model.onnx", target={points.costs.get("energy") or "params": 0.5})
limits = {"macs": 0.5}
onnxprune.prune("model.onnx", target=limits)
onnxprune.prune(gs.Graph(), pattern=["channels", "2:4"], ratio=0.3, gate={"drift": 0.05})

analysis = onnxprune.analyze("model.onnx", shrink="past")
reveal_type(analysis.groups[0].units)  # R: int
reveal_type(onnxprune.score(analysis, "wanda", calib="data.npz"))  # R: list[numpy.ndarray
reveal_type(onnxprune.plan(analysis, 0.5, importance="fpgm"))  # R: onnxprune.planning.plan.Plan
reveal_type(onnxprune.apply(result.plan, "model.onnx"))  # R: onnxprune.pipeline.result.Result
reveal_type(onnxprune.verify("model.onnx", result).verified)  # R: bool

repaired = onnxprune.apply(result.plan, "model.onnx", calib={"x": np.zeros(3)}, repair="none")
reveal_type(repaired.report.metric)  # R: onnxprune.report.metric.MetricReport | None
report = onnxprune.compare("a.onnx", Path("b.onnx"), onnx.ModelProto(), calib="data.npz")
reveal_type(report.models[0].speed)  # R: float

Options(channels=Channels(ratio=0.5), zeros=Zeros("2:4", permute=True), calibration=Calibration("data.npz", samples=64))


@onnxprune.criterion("sum")
def by_sum(group: onnxprune.GroupView) -> NDArray[np.float64]:
    """The criterion stays what it is."""
    reveal_type(group.units)  # R: int
    return group.sums(1)


reveal_type(by_sum)  # R: def (group: onnxprune.extensions.views.GroupView) -> numpy.ndarray
onnxprune.prune("model.onnx", 0.5, importance=by_sum)


@onnxprune.metric("rate", per_sample=True)
def rate(outputs: dict[str, NDArray[np.float64]], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The metric stays what it is."""
    right: NDArray[np.bool_] = outputs["y"].argmax(axis=1) == labels
    return right


onnxprune.prune("model.onnx", 0.5, metric=rate)
