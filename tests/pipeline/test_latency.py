"""A target of latency in a run: what is asked, predicted and measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import onnxprune
from onnxprune.cost import time_model
from onnxprune.cost.measure import measure
from onnxprune.coupling.groups import Grade
from onnxprune.engines.times import TimedWidths, Times
from onnxprune.errors import InputError
from onnxprune.model.model import Model, load
from onnxprune.pipeline import latency, time_target
from onnxprune.pipeline.analysis import Analysis
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.timing.engines import OnnxRuntime
from tests.support.lanes import spread
from tests.support.paths import MODELS

MODEL = MODELS / "pt_resnet_bn.onnx"


def elements(model: Model) -> int:
    """What the made-up engine takes: a microsecond for every element of a weight."""
    return sum(int(np.prod(t.dims)) for t in model.proto.graph.initializer)


class MadeUp:
    """An engine of known times; `factor` says how much slower pruned models are than the table has them."""

    name, factor = "made up", 1.0

    def __init__(self, original: Model, *_: object, **__: object) -> None:
        self.whole = elements(original)

    def milliseconds(self) -> float:
        return self.whole / 1e3

    def ratio(self, copy: Model, io_slices: IoSlices, seconds: float = 0.4) -> float:
        slower = type(self).factor if seconds == time_target.CHECKED else 1.0
        return slower * elements(copy) / self.whole

    def kernels(self, copy: Model, io_slices: IoSlices) -> list[tuple[str, float]]:
        return []


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[MadeUp]:
    monkeypatch.setattr(MadeUp, "factor", 1.0)
    monkeypatch.setattr(latency, "OnnxRuntime", MadeUp)
    monkeypatch.setattr(latency, "COPIES", 24)
    monkeypatch.setattr(time_target, "MULTIPLES", ())
    monkeypatch.setattr(time_target, "MACS_MULTIPLES", ())
    return MadeUp


def pruned(target: float | str, **options: object) -> onnxprune.Result:
    kept = {"repair": "none", "importance": "l1", "verify": False, "time": False, **options}
    return onnxprune.prune(MODEL, target={"latency": target}, **kept)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.75, pytest.param(0.5, marks=pytest.mark.slow)])
def test_the_measured_time_is_what_was_asked_for(engine: type[MadeUp], target: float) -> None:
    report = pruned(target).report
    found = report.targets["latency"]
    whole = engine(onnxprune.analyze(MODEL).model).milliseconds()
    assert found.asked == pytest.approx(target * whole)
    assert found.met and found.checked and found.left is not None
    assert 0.95 * found.asked <= found.left <= (1 + time_target.TOLERANCE) * found.asked
    assert report.measured_on["targets.latency"].how == "timed in made up"


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.25, 0.8])
def test_a_wrong_prediction_is_corrected(engine: type[MadeUp], factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models turn out slower, or faster, than the table says: the result still takes what was asked for."""
    monkeypatch.setattr(engine, "factor", factor)
    found = pruned(0.6).report.targets["latency"]
    assert found.met and found.left is not None and found.predicted is not None
    assert 0.95 * found.asked <= found.left <= (1 + time_target.TOLERANCE) * found.asked
    assert found.left / found.predicted == pytest.approx(factor, rel=0.1)


def bytes_of(path: str) -> float:
    """Milliseconds for a thousand numbers of the weights in a file."""
    return elements(load(path)) / 1e3


@pytest.mark.slow
@pytest.mark.parametrize("read", [False, True])
def test_another_engine_corrects_as_well(engine: type[MadeUp], read: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer is what `engine` is; times from a file that are too long are put right by it."""
    monkeypatch.setattr(time_target, "CHECKED", 0.0)
    analysis, options = onnxprune.analyze(MODEL), dict[str, object]()
    if read:
        times = table(analysis)
        options = {"times": replace(times, rows=[replace(row, ratio=row.ratio**0.5) for row in times.rows])}
    report = pruned(0.6, engine=bytes_of, **options).report
    found = report.targets["latency"]
    assert found.met and found.engine == "bytes_of" and found.left is not None
    assert found.asked == pytest.approx(0.6 * elements(analysis.model) / 1e3)
    assert 0.95 * found.asked <= found.left <= (1 + time_target.TOLERANCE) * found.asked
    assert report.measured_on["targets.latency"].how == "timed in bytes_of"


class Misleading(MadeUp):
    """A model with a width that is no multiple of 8 takes twice as long as the sliced copies had it."""

    def ratio(self, copy: Model, io_slices: IoSlices, seconds: float = 0.4) -> float:
        odd = any(t.dims[0] % 8 for t in copy.proto.graph.initializer if len(t.dims) == 4)
        return super().ratio(copy, io_slices, seconds) * (2.0 if odd and seconds == time_target.CHECKED else 1.0)


@pytest.mark.slow
def test_where_the_times_mislead_multiples_are_taken(engine: type[MadeUp], monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is the measured time: of the allocations that were tried, the least damage within it."""
    monkeypatch.setattr(latency, "OnnxRuntime", Misleading)
    alone = pruned(0.7)
    monkeypatch.setattr(time_target, "MACS_MULTIPLES", (8,))
    beside = pruned(0.7)
    widths = [t.dims[0] for t in beside.proto.graph.initializer if len(t.dims) == 4]
    assert not any(n % 8 for n in widths) and beside.report.targets["latency"].met
    damages = [sum(e.get("damage", 0.0) for e in r.plan.groups) for r in (alone, beside)]
    assert damages[1] <= damages[0]


@pytest.mark.slow
def test_a_time_that_cannot_be_had_is_missed(engine: type[MadeUp]) -> None:
    report = pruned(0.0005).report
    found = report.targets["latency"]
    assert not found.met and found.left is not None and found.left > found.asked and report.missed
    assert any(line.startswith("target latency is missed") for line in report.warnings)


@pytest.mark.slow
def test_a_time_in_milliseconds(engine: type[MadeUp]) -> None:
    whole = engine(onnxprune.analyze(MODEL).model).milliseconds()
    assert pruned(f"{0.7 * whole:.6f}ms").report.targets["latency"].asked == pytest.approx(0.7 * whole, rel=1e-5)


def table(analysis: Analysis) -> Times:
    """Times of the made-up engine, as another device would have measured them."""
    groups = [g for g in analysis.groups if g.grade == Grade.EXACT]
    return latency.measure(analysis, groups, MadeUp(analysis.model), {"input": [1, 3, 32, 32]}, copies=16)


@pytest.mark.slow
def test_a_table_from_elsewhere_gives_the_same_plan_here(tmp_path: Path) -> None:
    """From a file and in memory, twice, without a run of the model: nothing here is measured."""
    analysis = onnxprune.analyze(MODEL)
    times = table(analysis)
    path = tmp_path / "times.json"
    path.write_text(times.to_json())
    results = [pruned(0.6, times=source) for source in (times, path, str(path))]
    plans = {result.plan.to_json() for result in results}
    assert len(plans) == 1 and results[0].plan.changes_model
    found = results[0].report.targets["latency"]
    assert found.met and not found.checked and found.left == found.predicted
    assert found.left is not None and found.left <= found.asked
    assert results[0].report.measured_on["targets.latency"].how == "predicted from measured times"
    same = onnxprune.plan(analysis, target={"latency": 0.6}, times=times, repair="none", importance="l1", verify=False)
    assert same.to_json() in plans


@pytest.mark.slow
def test_times_that_do_not_belong_to_the_model(tmp_path: Path) -> None:
    times = table(onnxprune.analyze(MODEL))
    with pytest.raises(InputError, match="another model"):
        onnxprune.prune(MODELS / "pt_mobilenet.onnx", target={"latency": 0.5}, times=times, repair="none")
    with pytest.raises(InputError, match="cannot be read"):
        pruned(0.5, times=tmp_path / "none.json")
    (tmp_path / "no.json").write_text(json.dumps({"version": 1}))
    with pytest.raises(InputError, match="no times"):
        pruned(0.5, times=tmp_path / "no.json")
    fewer = Times(**{**vars(times), "units": {}, "rows": tuple(TimedWidths({}, r.ratio) for r in times.rows)})
    with pytest.raises(InputError, match="know nothing of group"):
        pruned(0.5, times=fewer)


@pytest.mark.slow
def test_latency_beside_another_target(engine: type[MadeUp]) -> None:
    report = onnxprune.prune(
        MODEL, target={"latency": 0.8, "macs": 0.5}, repair="none", importance="l1", verify=False, time=False
    ).report
    assert report.targets["latency"].met and report.targets["macs"].met
    assert report.macs.after is not None and report.macs.before is not None
    assert report.macs.after <= 0.5 * report.macs.before


@pytest.mark.slow
def test_a_real_engine() -> None:
    """onnxruntime itself: the report's own measurement, which is another one, agrees."""
    result = onnxprune.prune(MODEL, target={"latency": 0.7}, repair="none", importance="l1", verify=True)
    target, row = result.report.targets["latency"], result.report.latency
    assert row is not None and target.left is not None and target.predicted is not None
    if target.met:
        assert row.ratio == pytest.approx(0.7, abs=0.2)
    assert isinstance(latency.OnnxRuntime, type) and latency.OnnxRuntime is OnnxRuntime


def test_a_batch_that_the_model_does_not_take() -> None:
    with pytest.raises(InputError, match="takes no batch of 3"):
        onnxprune.measure(MODELS / "keras_cnn.onnx", batch=3, input_shapes={"input": [1, 8, 8, 1]})


@pytest.mark.slow
def test_the_fastest_model_within_a_gate_is_found(engine: type[MadeUp]) -> None:
    """Each model that is tried is held to its time; the one that is taken is slower than the furthest allowed."""
    result = pruned(0.3, search=True, gate={"cosine": 0.98}, verify=True)
    report = result.report
    assert report.search is not None and report.gates["cosine"].met
    found = report.search.found.target
    assert found is not None and str(found["latency"]).endswith("ms")
    whole = engine(onnxprune.analyze(MODEL).model).milliseconds()
    assert 0.3 * whole < float(str(found["latency"]).removesuffix("ms")) <= whole
    tried = [trial for trial in report.search.trials if not trial.met]
    assert tried or result.plan.changes_model


@pytest.mark.slow
@pytest.mark.parametrize("name", spread(["keras_cnn", "pt_bilstm", "pt_transformer_packed", "sk_mlp", "pt_mobilenet"]))
def test_every_kind_of_model_has_a_latency(name: str) -> None:
    """Recurrent layers, attention, shapes that are computed, operators without shapes: what is left falls with widths."""
    analysis = onnxprune.analyze(MODELS / f"{name}.onnx")
    groups = [g for g in analysis.groups if g.grade == Grade.EXACT]
    times = latency.measure(analysis, groups, MadeUp(analysis.model), {}, copies=12)
    found = time_model.latency(analysis.coupling, groups, measure(analysis.model, run=True).shapes, times)
    nothing = np.zeros(len(groups), dtype=np.int64)
    half = np.array([g.units // 2 for g in groups])
    assert found.left(nothing) == pytest.approx(times.milliseconds, rel=0.25)
    assert 0 < found.left(half) < 0.9 * found.left(nothing)
