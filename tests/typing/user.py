# pyright: strict
"""A program that uses every public name, as a strict type checker sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

import onnxprune
from onnxprune import (
    Analysis,
    DataError,
    GateError,
    GroupView,
    InputError,
    InternalError,
    ModelError,
    ModelSource,
    OnnxPruneError,
    Options,
    OutputError,
    Pattern,
    Plan,
    PlanError,
    Progress,
    Refit,
    RepairJob,
    Report,
    Result,
    RunError,
    TimeLimitError,
    Times,
    VerificationError,
    WeightView,
)
from onnxprune.ops.op import Op


def show(progress: Progress) -> None:
    left: float | None = progress.remaining
    print(progress.stage, progress.item, progress.done / progress.total, progress.elapsed, left)


def prune(model: ModelSource, calib: Mapping[str, NDArray[np.float32]]) -> Result:
    result: Result = onnxprune.prune(
        model,
        target={"macs": 0.5, "params": "2M"},
        pattern=["channels", "2:4"],
        importance="obs",
        calib=calib,
        only=["conv"],
        gate={"drift": 0.05},
        input_shapes={"x": (1, 3, 8, 8)},
        time_limit=60.0,
        strict=True,
        metric="top1",
        max_drop=0.01,
        progress=show,
    )
    proto: onnx.ModelProto = result.proto
    stopped: str | None = result.stopped
    print(proto.ir_version, stopped)
    result.save(Path("small.onnx"))
    return result


def to_a_time(model: ModelSource) -> Result:
    times: Times = onnxprune.measure(model, engine=lambda path: 2.5, copies=4, progress=show)
    print(times.milliseconds, times.engine, Times.from_json(times.to_json()).device)
    return onnxprune.prune(model, target={"latency": "4ms"}, times=times, engine="openvino", round_to="auto")


def look(report: Report) -> None:
    before: int | None = report.params.before
    held: int | None = report.calibration.samples if report.calibration is not None else None
    repaired: list[Refit] = report.repair or []
    where: str | None = report.measured_on["drift"].on
    print(before, held, where, report.schema, report.version, report.warnings, report.to_json())
    print([(r.layer, r.penalty) for r in repaired], [(g.name, g.removed) for g in report.groups])
    again: Report = Report.from_dict(report.to_dict())
    if again.options is not None:
        options: Options = Options.from_dict(again.options)
        onnxprune.run("model.onnx", options, show)


def stages(model: str) -> Result:
    options = Options.of(0.5, repair="none")
    analysis: Analysis = onnxprune.analyze(model, options=options)
    for group in analysis.groups:
        name: str = group.name
        units: int = group.units
        print(name, units, group.grade, group.reasons)
    scores: list[NDArray[np.float64]] = onnxprune.score(analysis, "fpgm")
    plan: Plan = onnxprune.plan(analysis, options=options)
    text: str = plan.to_json()
    again: Plan = Plan.from_json(text)
    result = onnxprune.apply(again, model)
    checked = onnxprune.verify(model, result, plan=again)
    tuned: onnxprune.FineTuned = onnxprune.finetune(result, "train.npz", teacher=model, loss="cross-entropy", epochs=3)
    print(tuned.report.training.after, len(tuned.model.graph.node))
    small: onnxprune.SmallVocabulary = onnxprune.cut_vocabulary(model, [0, 1, 5], unknown=0, logits="all")
    print(small.report.tokens.after, small.kept.tolist(), small.map_json())
    sliced = onnxprune.slice_checkpoint(
        result.plan, "net.pt", "smaller.pt", tensor_map={"tensors": {}}, model="net.onnx"
    )
    print({name: after for name, (_, after) in sliced.shapes.items()}, onnxprune.slice_state(result.plan, {}))
    print(onnxprune.group_lasso(onnxprune.analyze(result.proto).groups, {}))
    columns = onnxprune.compare(model, result.proto, metric=None, runs=3).models
    best = min(onnxprune.sensitivity(model, ignore=["head"]).groups, key=lambda group: group.rank or 0)
    swept = onnxprune.sweep(model, (0.2, 0.5), importance=["l1", "l2"], folder="sweep", keep_models="all")
    print(swept.front, [variant.latency_left for variant in swept.variants])
    print(best.group, [point.damage for point in best.points if point.measured])
    print([column.model for column in columns])
    print(len(scores), checked.verified, checked.drift["y"].rel_rms)
    return result


@onnxprune.criterion("largest", needs="weights", scale="none")
def largest(group: GroupView) -> NDArray[np.float64]:
    rows: Iterator[NDArray[np.float64]] = group.rows()
    found: NDArray[np.float64] = np.max([np.abs(r).max(axis=1) for r in rows], axis=0)
    return found


@onnxprune.zero_criterion("smallest-first")
def smallest_first(weight: WeightView) -> NDArray[np.float64]:
    return np.abs(np.asarray(weight.values, dtype=np.float64))


@onnxprune.pattern("halves")
@dataclass(frozen=True)
class Halves(Pattern):
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> Halves | None:
        return cls() if text == "halves" else None

    def __str__(self) -> str:
        return "halves"

    def mask(self, scores: NDArray[np.float64], layout: object) -> NDArray[np.bool_]:
        return scores < np.median(scores)

    def holds(self, zero: NDArray[np.bool_], layout: object) -> bool:
        return bool(zero.mean() >= 0.5)


@onnxprune.repair_method("nothing")
def nothing(job: RepairJob) -> list[Refit]:
    for feeds in job.batches():
        print(list(feeds))
    return []


@onnxprune.rule("Swishy", domain="my.ops")
def swishy(op: Op) -> None:
    for axis in op.input(0).axes():
        op.tie(axis, op.output().axis(axis.position), zero=True)


@onnxprune.metric("same")
def same(outputs: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64]) -> float:
    return float((outputs["y"].argmax(axis=-1) == labels).mean())


class Fixed:
    def left(self, removed: NDArray[np.int64]) -> float:
        return float(removed.sum())

    def saving(self, removed: NDArray[np.int64], group: int, more: int) -> float:
        return float(more)


@onnxprune.cost_model("fixed")
def fixed(coupling: object, groups: object, shapes: object) -> Fixed:
    return Fixed()


@onnxprune.data_source("zeros")
def zeros(rest: str) -> dict[str, NDArray[np.float32]]:
    return {"x": np.zeros((int(rest), 3), np.float32)}


def fail(error: OnnxPruneError) -> str:
    kinds: tuple[type[OnnxPruneError], ...] = (
        DataError,
        GateError,
        InputError,
        InternalError,
        ModelError,
        OutputError,
        PlanError,
        RunError,
        TimeLimitError,
        VerificationError,
    )
    return f"{error.message} {error.hint} {error.exit_code} {isinstance(error, kinds)}"
