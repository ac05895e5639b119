"""What each number of a report was measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxprune.options import LATENCY
from onnxprune.report.entries import Measured
from onnxprune.report.report import SYNTHETIC, Report, TargetReport

COUNTED, TIMED = "counted", "timed in onnxruntime"
PREDICTED = "predicted from measured times"
RUN = "run in onnxruntime"


def with_measured_on(report: Report, shapes: Mapping[str, Sequence[int]]) -> Report:
    """The report with what each of its numbers was measured on.

    Args:
        report: The report.
        shapes: Shapes of the graph inputs that MACs were counted at, as far as they are known.
    """
    at = {name: list(shape) for name, shape in shapes.items()}
    found = {name: Measured(COUNTED) for name in ("params", "bytes", "channels")}
    if report.macs.before is not None:
        found["macs"] = Measured(COUNTED, shapes=at)
    if report.drift:
        found["drift"] = _on_data(report) if report.drift_on != SYNTHETIC else Measured(RUN, SYNTHETIC)
    if report.calibration is not None:
        found["calibration"] = _on_data(report)
    for name, gate in report.gates.items():
        found[f"gates.{name}"] = Measured(RUN, gate.on, None if gate.on == SYNTHETIC else _samples(report))
    for name in report.targets:
        how = COUNTED if name != LATENCY else _timed(report.targets[name])
        found[f"targets.{name}"] = Measured(how, shapes=at if name in ("macs", LATENCY) else None)
    if report.latency is not None:
        found["latency"] = Measured(TIMED, SYNTHETIC)
    return replace(report, measured_on=found)


def _timed(latency: TargetReport) -> str:
    return f"timed in {latency.engine}" if latency.checked else PREDICTED


def _samples(report: Report) -> int | None:
    return None if report.calibration is None else report.calibration.samples


def _on_data(report: Report) -> Measured:
    assert report.calibration is not None  # there are no other data
    return Measured(RUN, report.calibration.on, report.calibration.samples)
