"""Result of a run: model, plan and report."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import onnx

from onnxprune.engines.times import Times
from onnxprune.errors import WITH_A_GATE_MISSED, WITH_WARNINGS, GateError
from onnxprune.model.model import Model
from onnxprune.model.save import save
from onnxprune.options import Checks
from onnxprune.pipeline.analysis import GraphSurgeonGraph
from onnxprune.pipeline.configuration import write_corrected
from onnxprune.planning.plan import Plan
from onnxprune.report.build import gate_lines
from onnxprune.report.entries import Count
from onnxprune.report.report import Report


class Result:
    """A pruned model with the plan that made it and the report on it.

    Attributes:
        plan: What was taken.
        report: What it did.
        times: What was measured of the original at many widths, where a target of latency asks for it.
    """

    def __init__(
        self, model: Model, plan: Plan, report: Report, checks: Checks, as_graph: bool, times: Times | None = None
    ) -> None:
        self._model = model
        self._as_graph = as_graph
        self._checks = checks
        self._graph: GraphSurgeonGraph | None = None
        self.plan = plan
        self.report = report
        self.times = times

    def __repr__(self) -> str:
        params, macs = (f"{pair.before} -> {pair.after}" for pair in (self.report.params, self.report.macs))
        return f"Result(parameters {params}, MACs {macs}, verified={self.report.verified})"

    @property
    def stopped(self) -> str | None:
        """Why the model is not to be written: gates that it misses, warnings of a strict run; None where nothing is."""
        missed = [] if self._checks.keep_anyway else gate_lines(self.report.gates)
        return "; ".join(self.report.warnings if self._checks.strict else missed) or None

    @property
    def model(self) -> onnx.ModelProto | GraphSurgeonGraph:
        """The pruned model in the kind that was given: a `gs.Graph` for a `gs.Graph`, else a `ModelProto`.

        It is one object, made at the first access; `save` writes the pruned model, not later changes to a graph.
        """
        if not self._as_graph:
            return self.proto
        if self._graph is None:
            self._graph = self.graph()
        return self._graph

    @property
    def proto(self) -> onnx.ModelProto:
        """The pruned model; weights that were stored outside the file and not pruned are still references."""
        self._model.materialise()
        return self._model.proto

    def graph(self) -> GraphSurgeonGraph:
        """The pruned model as a graph of onnx-graphsurgeon, a new one each time."""
        import onnx_graphsurgeon as gs

        graph: GraphSurgeonGraph = gs.import_onnx(self.proto)
        return graph

    def save(self, path: str | os.PathLike[str], *, data_chunk: int | None = None) -> None:
        """Writes the model, whole or not at all; the report then has the size of its files.

        Configurations of a language model beside the original (``genai_config.json``, ``config.json``) are written
        with the new sizes beside the result; the notes of the report say which.

        Args:
            path: The file of the model.
            data_chunk: Largest size in bytes of a data file; the weights are then in data files whatever their size,
                and a tensor that is larger has one for itself. By default as the model was: in the model's file, in
                one data file, or in files no larger than the largest of several.

        Raises:
            InputError: The folder does not exist, or the path is that of the input.
            GateError: A gate is missed, and `keep_anyway` was not given; or a warning came of a run that was `strict`.
            OutputError: Writing failed, say because the disk is full; what was there before is still there.
        """
        if self.stopped is not None:
            strict = WITH_A_GATE_MISSED if gate_lines(self.report.gates) else WITH_WARNINGS
            raise GateError(self.stopped, strict if self._checks.strict else None)
        size = save(self._model, path, data_chunk=data_chunk)
        original, target = self._model.path, Path(path)
        written = write_corrected(original, self._model.proto, target) if original is not None else []
        notes = [note for note in self.report.notes if note not in written] + written
        self.report = replace(self.report, bytes=Count(self.report.bytes.before, size), notes=notes)
