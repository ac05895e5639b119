"""Applies a plan to a model: the stages of `onnxprune.apply`."""

from __future__ import annotations

import re
from dataclasses import replace

from onnxprune import sparsity
from onnxprune.cost.measure import measure
from onnxprune.edit import permute
from onnxprune.edit.remove import remove
from onnxprune.errors import PlanError
from onnxprune.model.sparse_initializers import densify, resparsify
from onnxprune.model.stored_files import stored_bytes
from onnxprune.options import Checks
from onnxprune.pipeline.analysis import Analysis, analyze_loaded, reanalyze
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.permute import orders
from onnxprune.pipeline.progress import Clock
from onnxprune.pipeline.result import Result
from onnxprune.pipeline.verify import verify
from onnxprune.planning import plan as planning
from onnxprune.planning.masks import unpack_mask
from onnxprune.planning.plan import Plan
from onnxprune.report.build import build
from onnxprune.report.measured_on import with_measured_on
from onnxprune.report.warnings import reached_limits, warnings
from onnxprune.runtime.limits import current_limits


def apply_plan(plan: Plan, original: Original, checks: Checks, clock: Clock) -> Result:
    """Applies a plan to a model: load, analyze, apply, verify, report.

    Raises:
        InputError: The model cannot be read, or the plan does not fit it.
        VerificationError: The result fails in onnxruntime where the original does not.
    """
    clock.expect({"load": 1.0, "analyze": 1.0, "apply": 1.0, "verify": 2.0 * checks.verify})
    with clock.stage("load"):
        model = original.load()
    with clock.stage("analyze"):
        before = measure(model, checks.input_shapes)
        before = replace(before, bytes=stored_bytes(model) or before.bytes)
        sparse = densify(model)
        shrink = [f"^{re.escape(name)}$" for name in plan.interface]
        analysis = analyze_loaded(model, mixing=plan.mixing, attention=plan.attention, shrink=shrink)
    with clock.stage("apply"):
        remove(analysis.model, analysis.coupling, planning.channels(plan, analysis.coupling))
        if plan.permuted:
            rest = reanalyze(analysis, analysis.model)
            permute.reorder_constants(rest.model, rest.coupling.graph, orders(plan, rest.coupling))
        if plan.zeroed:
            _set_zeros(analyze_loaded(analysis.model) if plan.removed or plan.permuted else analysis, plan)
        resparsify(analysis.model, sparse)
        io_slices = planning.io_slices(plan)
        after = measure(analysis.model, io_slices.shapes(checks.input_shapes))
    with clock.stage("verify"):
        verified = verify(original.source, analysis.model, checks, io_slices=io_slices)
    report = build(analysis.coupling, plan, before, after, verified, clock.seconds, None)
    report = replace(report, warnings=warnings(report, reached_limits(current_limits().reached)))
    report = with_measured_on(report, before.input_shapes(model.proto))
    return Result(analysis.model, plan, report, checks, as_graph=original.as_graph)


def _set_zeros(analysis: Analysis, plan: Plan) -> None:
    """Sets the elements to zero that the masks of a plan mark, in place."""
    by_key = {v.key: v for v in analysis.coupling.graph.constants()}
    for name, zeroed in plan.zeroed.items():
        if name not in by_key:
            raise PlanError(f"the plan names {name!r}, which the model lacks")
        shape = tuple(int(d) for d in by_key[name].shape or [] if isinstance(d, int))
        sparsity.zero_elements(analysis.model, analysis.coupling, by_key[name], unpack_mask(zeroed["mask"], shape))
