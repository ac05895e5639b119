"""A sweep makes what runs make, shares what they have in common, keeps what it has done, and goes on from there."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.errors import InputError, VerificationError
from onnxprune.pipeline import observe, prepare, variants
from onnxprune.pipeline.sweep import Sweep
from onnxprune.pipeline.sweep import variants as asked_for
from onnxprune.pipeline.sweep_folder import SweepFolder
from onnxprune.repair import calibrated, layerwise
from onnxprune.report.entries import Count
from onnxprune.report.front import front
from onnxprune.report.sweep import SweepReport, Variant, compared
from onnxprune.statistics.moments import REPAIR_ROWS, Rows
from tests.support.classifier import classifier, samples

ALL_SAMPLES = 10**6
RATIOS = (0.25, 0.5, 0.75)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file of the classifier."""
    path = tmp_path / "net.onnx"
    onnx.save(classifier(), path)
    return path


@pytest.fixture
def calib(tmp_path: Path) -> str:
    """A file of its data."""
    np.savez(tmp_path / "data.npz", **samples())
    return str(tmp_path / "data.npz")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each shared stage, and each variant, was worked on."""
    done: Counter[str] = Counter()

    def counting(module: Any, name: str) -> None:
        real = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            done[name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    counting(prepare, "analyze_loaded")
    counting(prepare, "open_data")
    counting(observe, "moments")
    counting(variants, "attempt")
    return done


@pytest.mark.slow
@pytest.mark.parametrize("amount", [{"ratio": 0.5}, {"target": {"macs": 0.4}}])
@pytest.mark.parametrize("importance", ["obs", "l2"])
def test_a_variant_is_the_model_of_a_run(
    amount: dict[str, Any], importance: str, model: Path, calib: str, tmp_path: Path
) -> None:
    """Byte for byte, whatever came before it, where repairs learn from as many samples."""
    found = onnxprune.sweep(
        model,
        RATIOS,
        target={"macs": (0.4, 0.7)},
        importance=("l2", "obs"),
        calib=calib,
        time=False,
        repair_samples=ALL_SAMPLES,
        folder=tmp_path / "sweep",
        keep_models="all",
    )
    alone = onnxprune.prune(model, amount.get("ratio"), target=amount.get("target"), importance=importance, calib=calib)
    alone.save(tmp_path / "alone.onnx")
    name = "ratio 0.5" if "ratio" in amount else "macs=0.4"
    row = next(v for v in found.variants if v.name == f"{name}, {importance}")
    assert row.model is not None
    assert (tmp_path / "sweep" / row.model).read_bytes() == (tmp_path / "alone.onnx").read_bytes()
    report = alone.report
    assert report.calibration is not None and report.calibration.decisions is not None and report.metric is not None
    assert (row.params, row.macs, row.bytes) == (report.params, report.macs, report.bytes)
    assert row.error == report.calibration.relative_error
    assert row.agreement == report.calibration.decisions.agreement.mean
    assert (row.metric_name, row.metric, row.metric_before) == ("top1", report.metric.after, report.metric.before)
    assert row.repair_samples is None


@pytest.mark.slow
def test_shared_stages_run_once(model: Path, calib: str, work: Counter[str]) -> None:
    """One analysis, one reading of the data, and one set of statistics for two criteria that need them."""
    found = onnxprune.sweep(model, RATIOS, importance=("obs", "wanda"), calib=calib, time=False, repair="none")
    assert len(found.variants) == 6 and found.complete
    assert work == {"analyze_loaded": 1, "open_data": 1, "moments": 1, "attempt": 6}


@pytest.mark.slow
def test_repairs_learn_from_few_samples_and_all_are_measured_on_the_same(model: Path) -> None:
    """What a repair learns from is cut; scores and held-out samples are those of a run."""
    few = onnxprune.sweep(model, (0.5,), calib=samples(), time=False, repair_samples=64).variants[0]
    alone = onnxprune.prune(model, 0.5, calib=samples(), time=False).report
    assert alone.calibration is not None
    assert (few.repair_samples, few.samples) == (64, alone.calibration.samples)
    assert few.params == alone.params and few.error != alone.calibration.relative_error


@pytest.mark.slow
def test_repairs_sample_positions_as_samples(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repair that learns from a fourth of the samples takes a fourth of the positions of each layer."""
    seen = []

    def refit(*args: Any, rows: Rows, **kwargs: Any) -> Any:
        seen.append(rows)
        return layerwise.repair(*args, rows=rows, **kwargs)

    monkeypatch.setattr(calibrated, "layerwise", SimpleNamespace(repair=refit))
    held = onnxprune.sweep(model, (0.5,), calib=samples(), time=False).variants[0].samples
    fitted = len(samples()["x"]) - (held or 0)
    for repair_samples, rows in ((fitted // 4, Rows(50, 4096)), (ALL_SAMPLES, REPAIR_ROWS)):
        seen.clear()
        onnxprune.sweep(model, (0.5,), calib=samples(), time=False, repair_samples=repair_samples)
        assert set(seen) == {rows}


@pytest.mark.slow
def test_a_second_sweep_makes_only_what_is_new(
    model: Path, calib: str, tmp_path: Path, work: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing where all is done; what was not asked for before where there is more; all where anything else changed."""

    def again(ratios: tuple[float, ...], **changed: Any) -> tuple[SweepReport, int]:
        work.clear()
        settings = {"calib": calib, "time": False, "folder": tmp_path / "sweep", "repair": "none"} | changed
        return onnxprune.sweep(model, ratios, **settings), work["attempt"]

    first, made = again((0.25, 0.5))
    assert made == 2
    assert again((0.25, 0.5)) == (first, 0)
    assert again((0.25, 0.5, 0.75))[1] == 1
    assert again((0.25,))[1] == 0
    assert again((0.25, 0.5, 0.75))[1] == 0  # what one sweep did not ask for is not forgotten
    assert again((0.25,), seed=1)[1] == 1
    onnx.save(classifier(5), model)
    assert again((0.25,), calib=None)[1] == 1


@pytest.mark.slow
def test_a_model_that_is_gone_is_made_again(model: Path, calib: str, tmp_path: Path, work: Counter[str]) -> None:
    """A row without its file is no row."""
    folder = tmp_path / "sweep"
    found = onnxprune.sweep(model, (0.5,), calib=calib, time=False, folder=folder, keep_models="all", repair="none")
    name = found.variants[0].model
    assert name == "net.ratio-0.5.onnx"
    (folder / name).unlink()
    onnxprune.sweep(model, (0.5,), calib=calib, time=False, folder=folder, keep_models="all", repair="none")
    assert (folder / name).is_file() and work["attempt"] == 2


@pytest.mark.slow
def test_an_interruption_keeps_what_is_done(
    model: Path, calib: str, tmp_path: Path, work: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and models so far are in the folder, and a later sweep makes the rest."""
    real = variants.Variants.__call__

    def interrupted(self: variants.Variants, name: str) -> Any:
        if name == "ratio 0.75":
            raise KeyboardInterrupt
        return real(self, name)

    given = {"calib": calib, "time": False, "repair": "none"}
    monkeypatch.setattr(variants.Variants, "__call__", interrupted)
    begun = Sweep(model, asked_for(RATIOS, {}, (), given), tmp_path / "sweep", "all")
    with pytest.raises(KeyboardInterrupt):
        begun.run()
    assert [v.name for v in begun.report.variants] == ["ratio 0.25", "ratio 0.5"] and not begun.report.complete
    written = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [row["model"] for row in written["variants"]] == ["net.ratio-0.25.onnx", "net.ratio-0.5.onnx"]
    monkeypatch.setattr(variants.Variants, "__call__", real)
    work.clear()
    assert onnxprune.sweep(model, RATIOS, folder=tmp_path / "sweep", keep_models="all", **given).complete  # type: ignore[arg-type]
    assert work["attempt"] == 1
    assert len(list((tmp_path / "sweep").glob("*.onnx"))) == 3


@pytest.mark.slow
def test_an_interruption_before_a_row_is_written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report and the folder have the same rows."""
    write, calls = SweepFolder.write, Counter[str]()

    def interrupted(self: SweepFolder, report: SweepReport) -> None:
        calls["write"] += 1
        if calls["write"] == 3:  # the first is before the first variant
            raise KeyboardInterrupt
        write(self, report)

    monkeypatch.setattr(SweepFolder, "write", interrupted)
    made = Sweep(model, asked_for(RATIOS, {}, (), {"repair": "none", "time": False}), tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        made.run()
    stored = json.loads((tmp_path / "out" / "sweep.json").read_text())["variants"]
    assert [row["name"] for row in stored] == [v.name for v in made.report.variants] == ["ratio 0.25", "ratio 0.5"]


@pytest.mark.parametrize("keep", ["all", "front", "best"])
def test_models_that_are_kept(keep: str, model: Path, calib: str, tmp_path: Path) -> None:
    """Those that are asked for, and no other file of a model is left."""
    folder = tmp_path / "sweep"
    found = onnxprune.sweep(
        model, RATIOS, importance=("obs", "random"), calib=calib, time=False, folder=folder, keep_models=keep,
        gate={"agreement": 0.9}, repair="none",
    )  # fmt: skip
    good = {v.name for v in found.variants if not v.gates_missed}
    cheapest = min((v for v in found.variants if v.name in good), key=lambda v: v.macs.after or 0)
    assert 0 < len(good) < 6 and found.best == cheapest.name
    wanted = {"all": good, "front": good & set(found.front), "best": {cheapest.name}}[keep]
    kept = {v.name: v.model for v in found.variants if v.model is not None}
    assert set(kept) == wanted
    assert {path.name for path in folder.glob("*.onnx")} == set(kept.values())


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["all", "best"])
def test_models_of_other_sweeps_are_left_alone(keep: str, model: Path, tmp_path: Path) -> None:
    """A sweep neither overwrites nor deletes what it did not write itself."""
    folder = tmp_path / "sweep"
    onnxprune.sweep(model, (0.25, 0.5), folder=folder, keep_models="all", time=False)
    before = {path: path.read_bytes() for path in folder.glob("*.onnx")}
    given: dict[str, Any] = {"folder": folder, "time": False, "seed": 1, "gate": {"drift": 9.0}, "keep_models": keep}
    onnxprune.sweep(model, (0.25, 0.5, 0.75), **given)
    assert len(before) == 2 and all(path.read_bytes() == content for path, content in before.items())


def test_one_variant_that_fails_ends_no_other(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row says why."""
    real = variants.attempt

    def broken(prepared: Any, options: onnxprune.Options, analysis: Any) -> Any:
        if options.channels is not None and options.channels.ratio == 0.5:
            raise VerificationError("does not run")
        return real(prepared, options, analysis)

    monkeypatch.setattr(variants, "attempt", broken)
    found = onnxprune.sweep(model, RATIOS, time=False)
    assert [v.failed for v in found.variants] == [None, "does not run", None]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"ratio": ()}, "nothing says which variants"),
        ({"ratio": (0.5, 1.5)}, "below 1"),
        ({"keep_models": "some"}, "keep_models"),
        ({"keep_models": "best"}, "there are none"),
        ({"importance": "l3"}, "l3"),
        ({"importance": (lambda group: 1.0, lambda group: 2.0)}, "two variants have the name 'ratio 0.5, <lambda>'"),
        ({"repair_samples": 0}, "at least 1"),
        ({"target": {"macs": "much"}}, "much"),
    ],
)
def test_unusable_options(changed: dict[str, Any], says: str, model: Path) -> None:
    """One line, before any work."""
    with pytest.raises(InputError, match=says):
        onnxprune.sweep(model, **{"ratio": (0.5,)} | changed)


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', '{"schema": 99, "variants": [], "others": []}'])
def test_a_folder_with_another_file_of_that_name(text: str, model: Path, tmp_path: Path) -> None:
    """It is not overwritten."""
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(InputError, match="is not what a sweep wrote"):
        onnxprune.sweep(model, (0.5,), folder=tmp_path)
    assert (tmp_path / "sweep.json").read_text() == text


@pytest.mark.slow
def test_data_of_a_caller_are_never_taken_for_known(model: Path, tmp_path: Path, work: Counter[str]) -> None:
    """Arrays have no name to recognise them by."""
    for _ in range(2):
        onnxprune.sweep(model, (0.5,), calib=samples(), folder=tmp_path / "s", time=False, repair="none")
    assert work["attempt"] == 2


def test_variants_are_compared_by_what_tells_them_apart() -> None:
    """By choices where some change, else by the error of the outputs; by choices where they differ in nothing."""

    def loss(*pairs: tuple[float | None, float]) -> str:
        made = [
            Variant(str(i), {}, params=Count(9, 9 - i), agreement=same, error=error)
            for i, (same, error) in enumerate(pairs)
        ]
        return compared(SweepReport(None, len(made), made), gated=False).loss

    assert loss((1.0, 0.1), (0.9, 0.2)) == "choices"
    assert loss((1.0, 0.1), (1.0, 0.2)) == loss((None, 0.1), (0.9, 0.1)) == "error"
    assert loss((1.0, 0.1), (1.0, 0.1)) == "choices"
    assert loss() == "drift"


def test_front_of_random_points() -> None:
    """Every point on it is dominated by none, every other one by one that is on it."""
    drawn = np.random.default_rng(0).integers(0, 12, (60, 2)).astype(float)
    points = [(a, b) for a, b in drawn.tolist() if a + b > 7]
    found = front(points)

    def better(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and one[0] <= other[0] and one[1] <= other[1]

    chosen = [points[i] for i in found]
    assert len(set(chosen)) == len(chosen) > 1
    assert not any(better(other, point) for point in chosen for other in points)
    assert all(any(better(one, p) for one in chosen) for p in points if p not in chosen)
    assert front([(1.1, 0.2), (0.9, 0.1)], (1.0, 0.0)) == [1]
