"""A sweep: variants of a pruned model side by side, made from one analysis and one set of statistics."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxprune.common.executor import each
from onnxprune.common.progress import ProgressCallback
from onnxprune.engines import profiles
from onnxprune.engines.times import Times
from onnxprune.errors import InputError, option
from onnxprune.extensions.metrics import MetricFunction
from onnxprune.extensions.points import Limit, Scorer, as_criterion
from onnxprune.extensions.registry import one_of
from onnxprune.options import AUTO, Options, checks
from onnxprune.pipeline.analysis import ModelSource
from onnxprune.pipeline.checksums import model_checksum
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.progress import Clock, work_after, work_before, work_of_attempt
from onnxprune.pipeline.sweep_folder import SweepFolder, variant_key
from onnxprune.pipeline.variants import Made, Variants
from onnxprune.report.build import gate_lines
from onnxprune.report.report import Report
from onnxprune.report.sweep import SweepReport, Variant, compared
from onnxprune.runtime.determinism import limited_run
from onnxprune.runtime.distributed.connect import executing

REPAIR_SAMPLES = 256
"""Samples that a repair learns from by default: enough to tell variants apart, and a quarter of what a run takes."""
ALL, FRONT, BEST = KEPT = ("all", "front", "best")
"""Which models are kept."""
NOT_OF_VARIANTS = (
    *("model", "ratio", "target", "importance", "folder", "keep_models", "repair_samples", "progress", "client"),
)
"""Parameters that are no options of all variants."""


def sweep(
    model: ModelSource,
    ratio: float | Sequence[float] = (),
    *,
    target: Mapping[str, Limit | Sequence[Limit]] | None = None,
    importance: str | Scorer | Sequence[str | Scorer] = (),
    folder: str | os.PathLike[str] | None = None,
    keep_models: str = FRONT,
    repair_samples: int = REPAIR_SAMPLES,
    keep: Mapping[str, float] | None = None,
    global_ranking: bool | None = None,
    min_channels: int = 1,
    round_to: int | str = AUTO,
    engine: profiles.Timer = profiles.DEFAULT,
    times: Times | str | os.PathLike[str] | None = None,
    seed: int = 0,
    only: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
    mixing: bool = False,
    attention: str = "heads",
    shrink: str | Sequence[str] = (),
    calib: Any = None,
    samples: int | None = None,
    repair: str = AUTO,
    gate: Mapping[str, float] | None = None,
    metric: str | MetricFunction | None = None,
    max_drop: float | None = None,
    time: bool = True,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    memory: int = 10**9,
    run_seconds: float = 600.0,
    run_memory: int | None = None,
    progress: ProgressCallback | None = None,
    client: Any = None,
) -> SweepReport:
    """Makes a pruned model for each amount and criterion, and tells what each costs and loses.

    Args:
        model: A path, a `ModelProto` or a `gs.Graph`; it is not changed.
        ratio: Ratios, a variant each.
        target: Limits by cost, a variant each: ``{"latency": (0.8, 0.6)}``.
        importance: Criteria that each ratio and target is tried with; by default that of a run.
        folder: Where the table, as JSON and CSV, and models are written after each variant. What is there of an
            earlier sweep with the same model, data and options is not made again.
        keep_models: Which models are written there: ``all``; ``front``, those that no other one is better than in
            accuracy and latency alike (MACs without `time`); or ``best``, the cheapest within the gates.
        repair_samples: Samples that each repair learns from at most.
        keep: Share that stays of single groups, as for `prune`.
        global_ranking: Rank across groups.
        min_channels: Units that every group keeps.
        round_to: What widths are multiples of.
        engine: The inference engine that the models are for.
        times: Measured times, for targets of latency.
        seed: Seed of anything random.
        only: Regular expressions of the names that are pruned.
        ignore: Regular expressions of the names that are left whole.
        mixing: Prune groups of grade *mixing* too.
        attention: ``heads`` or ``dims``.
        shrink: Regular expressions of graph inputs and outputs that may lose slices, or go with a block.
        calib: Calibration data.
        samples: Calibration samples to use at most; None for 1,024, see `Calibration`.
        repair: As for `prune`.
        gate: Limits to how far outputs may move; models that miss them are not written.
        metric: What is measured on held-out samples.
        max_drop: How much of the metric may be lost.
        time: Time each model beside the original.
        input_shapes: Shapes of graph inputs.
        memory: Bytes of activations to hold.
        run_seconds: The longest that one run of a model may take.
        run_memory: Bytes that onnxruntime may hold.
        progress: Called with how far it is (`Progress`).
        client: A `dask.distributed.Client`, whose workers make the variants.

    Returns:
        A row a variant; `to_json`, `to_dict` and `to_csv` give it as data.

    Raises:
        InputError: The model, the data or an option is unusable.
        OutputError: A file cannot be written.
    """
    given = {name: value for name, value in locals().items() if name not in NOT_OF_VARIANTS}
    asked = variants(ratio, target or {}, importance, given)
    return Sweep(model, asked, folder, keep_models, repair_samples).run(progress, client)


def variants(
    ratio: float | Sequence[float],
    target: Mapping[str, Limit | Sequence[Limit]],
    importance: str | Scorer | Sequence[str | Scorer],
    given: Mapping[str, Any],
) -> dict[str, Options]:
    """The options of each variant by its name.

    Args:
        ratio: See `sweep`, as for the next two.
        target: Limits by cost.
        importance: Criteria.
        given: Options of all variants, as `Options.of` takes them.

    Raises:
        InputError: There are none, or an option is unusable.
    """
    amounts: list[tuple[str, dict[str, Any]]] = [(f"ratio {r:g}", {"ratio": r}) for r in _several("ratio", ratio)]
    for cost, limits in checks.mapping("target", target, "{'latency': (0.8, 0.6)}").items():
        amounts += [(f"{cost}={limit}", {"target": {cost: limit}}) for limit in _several("target", limits)]
    if not amounts:
        raise InputError("nothing says which variants to make", f"give {option('ratio', (0.2, 0.3, 0.5))}, say")
    criteria = [(f", {as_criterion(c).name}", {"importance": c}) for c in _several("importance", importance)]
    found = dict[str, Options]()
    for name, amount in amounts:
        for of, criterion in criteria or [("", {})]:
            of_amount = {**given, **amount, **criterion}
            if "latency" not in amount.get("target", {}):
                of_amount["times"] = None  # they are for targets of latency, and no other takes them
            made = Options.of(of_amount.pop("ratio", None), **of_amount)
            if found.setdefault(name + of, made) != made:
                raise InputError(f"two variants have the name {name + of!r}", "give functions names of their own")
    return found


def _several(name: str, value: Any) -> list[Any]:
    """The values of an option that takes one or several; a ratio must be a number."""
    found = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [checks.fraction(name, one) for one in found] if name == "ratio" else found


class Sweep:
    """Makes the variants of a sweep one by one; `report` has those that are done, also after an interruption."""

    def __init__(
        self,
        model: ModelSource,
        asked: Mapping[str, Options],
        folder: str | os.PathLike[str] | None = None,
        keep_models: str = FRONT,
        repair_samples: int = REPAIR_SAMPLES,
    ) -> None:
        """Checks what is asked.

        Args:
            model: The original.
            asked: The options of each variant by its name.
            folder: See `sweep`, as for the next two.
            keep_models: Which models are kept.
            repair_samples: Samples that each repair learns from at most.

        Raises:
            InputError: The model or an option is unusable.
        """
        self._asked, self._original = dict(asked), Original.of(model)
        self._keep = one_of("keep_models", keep_models, list(KEPT))
        self._repair_samples = checks.whole("repair_samples", repair_samples, 1)
        self._gated = next(iter(asked.values())).checks.limited
        if self._keep == BEST and not self._gated:
            limits = f"{option('max_drop', 0.01)} or {option('gate', {'agreement': 0.98})}"
            raise InputError("the best variant is the cheapest within limits, and there are none", f"give {limits}")
        self._name = os.fspath(model) if isinstance(model, (str, os.PathLike)) else None
        self._rows: dict[str, Variant] = {}
        self._mine: set[str] = set()
        self._variants: Variants | None = None
        checksum = model_checksum(self._original.source) if folder is not None else ""
        self._keys = {
            name: variant_key(checksum, options.to_dict(), self._repair_samples) for name, options in asked.items()
        }
        stem = "model" if self._name is None else Path(self._name).name.removesuffix(".onnx")
        self._folder = None if folder is None else SweepFolder(Path(folder), stem)

    @property
    def report(self) -> SweepReport:
        """The variants that are done, compared."""
        rows = [self._rows[name] for name in self._asked if name in self._rows]
        return compared(SweepReport(self._name, len(self._asked), rows), gated=self._gated)

    def run(self, progress: ProgressCallback | None = None, client: Any = None) -> SweepReport:
        """Makes the variants that are not done yet, then again those that are to be kept and were not.

        Args:
            progress: Called with how far it is.
            client: The Dask cluster whose workers make them; None for this process.

        Raises:
            InputError: The data or an option is unusable.
            OutputError: A file cannot be written.
        """
        self._recall()
        clock = Clock(progress)
        with limited_run(next(iter(self._asked.values())).resources), executing(client):
            self._make([name for name in self._asked if name not in self._rows], clock)
            if self._folder is not None:
                self._make([name for name in self._wanted() if self._rows[name].model is None], clock)
        return self.report

    def _recall(self) -> None:
        """Takes over what an earlier sweep found."""
        if self._folder is None:
            return
        for name in self._asked:
            known = self._folder.known(self._keys[name])
            if known is not None:
                self._rows[name] = replace(known, name=name)
        self._folder.write(self.report)

    def _wanted(self) -> list[str]:
        """Names of the variants whose models are kept, as far as they are done."""
        report = self.report
        of = {ALL: list(self._rows), FRONT: report.front, BEST: [] if report.best is None else [report.best]}
        return [name for name in of[self._keep] if self._rows[name].writable]

    def _make(self, names: Sequence[str], clock: Clock) -> None:
        """Makes variants; each is in the report, and in the folder, as soon as it is done."""
        if not names:
            return
        variants = self._maker(clock)
        variants.learn(names)
        with clock.stage("variants"):
            try:
                for number, made in each(variants, [(name, name) for name in names], len(names), _lost):
                    self._add(names[number], made)
            except BaseException as ended:
                if not isinstance(ended, Exception):  # a signal, which may have come before a row was in the folder
                    self._write()
                raise

    def _add(self, name: str, made: Made) -> None:
        """Adds a variant; its model is kept if it is one of those that are, as far as that is known now."""
        options = self._asked[name]
        if made.result is None:
            row = Variant(name, options.to_dict(), failed=made.failed)
        else:
            samples = None if made.learned_from_all else self._repair_samples
            row = _row(name, options, made.result.report, samples)
        row = replace(row, seconds=round(made.seconds, 3), key=self._keys[name])
        self._rows[name] = row
        if made.result is not None and self._folder is not None and name in self._wanted():
            file = self._folder.file(name)
            made.result.save(self._folder.path(file))
            self._mine.add(name)
            self._rows[name] = replace(row, model=file, bytes=made.result.report.bytes)
        self._drop_models()
        self._write()

    def _write(self) -> None:
        """Writes what is done to the folder."""
        if self._folder is not None:
            self._folder.write(self.report)

    def _maker(self, clock: Clock) -> Variants:
        """What makes variants: prepared when the first one is made."""
        if self._variants is None:
            first = next(iter(self._asked.values()))
            self._variants = Variants(self._original, self._asked, clock, self._repair_samples)
            each_takes = sum({**work_of_attempt(first), **work_after(first)}.values())
            clock.expect({**work_before(first), "variants": each_takes * len(self._asked)})
        return self._variants

    def _drop_models(self) -> None:
        """Deletes models of this sweep that are none of those to keep, now that others are done."""
        if self._folder is None:
            return
        for name in self._mine - set(self._wanted()):
            self._folder.remove(str(self._rows[name].model))
            self._mine.discard(name)
            self._rows[name] = replace(self._rows[name], model=None)


def _lost(tries: str) -> Made:
    """A variant that no worker was able to make."""
    return Made(failed=f"making it {tries}")


def _row(name: str, options: Options, report: Report, repair_samples: int | None) -> Variant:
    """The row of a variant."""
    found, metric, latency = report.calibration, report.metric, report.latency
    drifts = [d.rel_rms for d in report.drift.values() if d.rel_rms is not None]
    row = Variant(
        name,
        options.to_dict(),
        None if report.resolved is None else report.resolved.importance,
        report.params,
        report.macs,
        report.bytes,
        drift=max(drifts) if drifts else None,
        repair_samples=repair_samples,
        verified=report.verified,
        missed=[f"target {name}" for name, target in report.targets.items() if not target.met],
        gates_missed=[str(line) for line in gate_lines(report.gates)],
    )
    if latency is not None:
        row = replace(row, latency=latency.after.wall, latency_left=latency.ratio)
    if metric is not None:
        drop = None if metric.drop is None else metric.drop.mean
        row = replace(row, metric_name=metric.name, metric_before=metric.before, metric=metric.after, drop=drop)
    if found is None:
        unchanged = report.whole_because is not None and options.calibration.data is not None
        return replace(row, error=0.0) if unchanged else row
    agreement = None if found.decisions is None else found.decisions.agreement.mean
    return replace(row, error=found.relative_error, agreement=agreement, on=found.on, samples=found.samples or 0)
