"""Applies a plan to a model: the stages of `onnxprune.apply`."""

from __future__ import annotations

import re

from onnxprune import sparsity
from onnxprune.cost.measure import measure
from onnxprune.edit import permute
from onnxprune.edit.remove import remove
from onnxprune.errors import InputError
from onnxprune.model.model import load
from onnxprune.model.sparse_initializers import densify, resparsify
from onnxprune.options import Options
from onnxprune.pipeline.analysis import Analysis, Source, analyze_loaded, reanalyze, to_proto_or_path
from onnxprune.pipeline.permute import orders
from onnxprune.pipeline.progress import Clock
from onnxprune.pipeline.result import Result
from onnxprune.pipeline.run import verify
from onnxprune.planning import plan
from onnxprune.planning.masks import unpack_mask
from onnxprune.planning.plan import Plan
from onnxprune.report.build import build


def _clear(analysis: Analysis, made: Plan) -> None:
    """Sets to zero what a plan says."""
    by_key = {v.key: v for v in analysis.coupling.graph.constants()}
    for name, zeroed in made.zeroed.items():
        if name not in by_key:
            raise InputError(f"the plan names {name!r}, which the model lacks")
        shape = tuple(int(d) for d in by_key[name].shape or [] if isinstance(d, int))
        sparsity.clear(analysis.model, analysis.coupling, by_key[name], unpack_mask(zeroed["mask"], shape))


def _run_plan(made: Plan, model: Source, options: Options, clock: Clock) -> Result:
    given = to_proto_or_path(model)
    with clock.stage("load"):
        source = load(given)
    with clock.stage("analyze"):
        before = measure(source, options.input_shapes)
        kept_sparse = densify(source)
        analysis = analyze_loaded(
            source,
            mixing=made.mixing,
            attention=made.attention,
            shrink=[f"^{re.escape(name)}$" for name in made.interface],
        )
    with clock.stage("apply"):
        remove(analysis.model, analysis.coupling, plan.channels(made, analysis.coupling))
        if made.permuted:
            rest = reanalyze(analysis, analysis.model)
            permute.reorder(rest.model, rest.coupling.graph, orders(made, rest.coupling))
        if made.zeroed:
            _clear(analyze_loaded(analysis.model) if made.removed or made.permuted else analysis, made)
        resparsify(analysis.model, kept_sparse)
        io_slices = plan.io_slices(made)
        after = measure(analysis.model, io_slices.shapes(options.input_shapes))
    with clock.stage("verify"):
        verified = verify(given, analysis.model, options, io_slices=io_slices)
    report = build(analysis.coupling, made, before, after, verified, clock.seconds, None)
    return Result(analysis.model, made, report, as_graph=given is not model)
