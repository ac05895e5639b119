"""Masked equivalence: what an exact removal must compute, whatever the architecture.

Removing channels of grade *exact* equals setting their weights to zero. So the original with every removed slice of its
weights set to zero is an oracle for a pruned model whose surviving weights were left as they were (``repair="none"``).
Authors of rules hold them to it:

    result = onnxprune.prune(model, 0.5, repair="none")
    onnxprune.testing.assert_equivalent(model, result)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune import sparsity
from onnxprune.common.text import exactly
from onnxprune.coupling.coupling import Coupling
from onnxprune.coupling.groups import Grade
from onnxprune.edit.bypass import bypass, silence
from onnxprune.edit.resize import KeptLengths
from onnxprune.edit.slicing import ConstantEdit, Removal, apply_edits, constant_edits
from onnxprune.errors import InputError, PlanError, VerificationError, option
from onnxprune.graph.graph import Value
from onnxprune.graph.operators import Copies, operator_of
from onnxprune.model.model import Model
from onnxprune.model.tensors import WEIGHT_TYPES
from onnxprune.model.values import Made, Values
from onnxprune.options import checks
from onnxprune.pipeline.analysis import Analysis, ModelSource, analyze_loaded, to_proto_or_path
from onnxprune.pipeline.original import Original
from onnxprune.pipeline.result import Result
from onnxprune.planning import plan as planning
from onnxprune.planning.masks import unpack_mask
from onnxprune.planning.plan import Plan
from onnxprune.report.json_data import JsonValue
from onnxprune.runtime.io_slices import IoSlices
from onnxprune.runtime.session import Source
from onnxprune.verification.check import check
from onnxprune.verification.drift import Drift

TOLERANCE = 1e-4
"""Relative drift (rel_rms) that rounding may cause: sums of fewer terms are added in another order."""


@dataclass(frozen=True)
class Equivalence(JsonValue):
    """What the comparison of a pruned model with the masked original found.

    Attributes:
        equivalent: Whether every output is the same to within the tolerance; None where that could not be seen.
        because: Why it is not, or could not be seen.
        tolerance: Relative drift that was allowed.
        drift: How far each output is from that of the masked original.
    """

    equivalent: bool | None
    because: str | None
    tolerance: float
    drift: dict[str, Drift] = field(default_factory=dict)


def assert_equivalent(
    original: ModelSource,
    pruned: Result | ModelSource,
    plan: Plan | None = None,
    *,
    feeds: Mapping[str, NDArray[Any]] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> None:
    """Asserts that a pruned model computes what the masked original computes, in onnxruntime.

    Args:
        original: The model before pruning.
        pruned: The result of a run with ``repair="none"``, or the model that it made.
        plan: What was taken; a `Result` has its own.
        feeds: Inputs of the original; synthetic ones by default.
        input_shapes: Shapes of graph inputs to make inputs of.
        seed: Seed of the inputs.
        tolerance: Relative drift of an output (rel_rms) that is allowed.

    Raises:
        AssertionError: It computes something else, fails in onnxruntime where the masked original does not, or neither
            runs here.
        InputError: There is no plan, it does not fit the original, or it removes channels of grade *mixing*.
    """
    found = equivalence(original, pruned, plan, feeds=feeds, input_shapes=input_shapes, seed=seed, tolerance=tolerance)
    if not found.equivalent:
        raise AssertionError(found.because)


def equivalence(
    original: ModelSource,
    pruned: Result | ModelSource,
    plan: Plan | None = None,
    *,
    feeds: Mapping[str, NDArray[Any]] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> Equivalence:
    """How far a pruned model is from the masked original; see `assert_equivalent`.

    Raises:
        InputError: There is no plan, it does not fit the original, or it removes channels of grade *mixing*.
    """
    known_plan = pruned.plan if plan is None and isinstance(pruned, Result) else plan
    if known_plan is None:
        raise InputError("a pruned model alone does not say what was taken", "give the plan that it was made by")
    checks.instance("plan", known_plan, Plan)
    result: Source = pruned._model if isinstance(pruned, Result) else to_proto_or_path(pruned)
    pairs: list[tuple[Source, Source, IoSlices]] = [
        (masked_original(original, known_plan), result, planning.io_slices(known_plan))
    ]
    if known_plan.depth:
        silent, shallow = Original.of(original).dense(), Original.of(original).dense()
        silence(silent, known_plan.summands)
        bypass(shallow, known_plan.summands, known_plan.ends)
        pairs.insert(0, (silent, shallow, IoSlices(gone=known_plan.ends)))
    for reference, made, lost in pairs:
        found = _compared(reference, made, feeds, input_shapes, seed, tolerance, lost)
        if not found.equivalent:
            break
    return found


def _compared(
    reference: Source,
    made: Source,
    feeds: Mapping[str, NDArray[Any]] | None,
    input_shapes: Mapping[str, Sequence[int]] | None,
    seed: int,
    tolerance: float,
    lost: IoSlices,
) -> Equivalence:
    try:
        seen = check(reference, made, feeds, input_shapes=input_shapes, seed=seed, io_slices=lost)
    except VerificationError as error:
        return Equivalence(False, error.message, tolerance)
    if not seen.verified:
        return Equivalence(None, f"the models do not run here: {seen.reason}", tolerance)
    far = [name for name, d in seen.drift.items() if not d.within(tolerance)]
    if not far:
        return Equivalence(True, None, tolerance, seen.drift)
    drift, equal = seen.drift[far[0]].rel_rms, seen.drift[far[0]].equal
    moved = "cannot be compared with" if drift is None else f"is {drift:.3g} (relative RMS) away from"
    moved = moved if equal is None else f"differs in {100 * (1 - equal):.3g}% of its entries from"
    return Equivalence(False, f"output {far[0]!r} {moved} that of the masked original", tolerance, seen.drift)


def masked_original(original: ModelSource, plan: Plan) -> Model:
    """The original with everything that a plan takes set to zero, and no shape changed; blocks are gone.

    Raises:
        InputError: The plan does not fit, or it removes channels of grade *mixing*.
    """
    model = Original.of(original).dense()
    bypass(model, plan.summands, plan.ends)
    shrink = [exactly(name) for name in plan.interface]
    analysis = analyze_loaded(model, mixing=plan.mixing, attention=plan.attention, shrink=shrink)
    removed = planning.channels(plan, analysis.coupling)
    if (analysis.coupling.grade[removed] == Grade.MIXING).any():
        raise InputError(
            "the plan removes channels of grade mixing, which changes the others: there is nothing to hold it to",
            f"leave {option('mixing')} away",
        )
    mask(model, analysis.coupling, removed)
    if plan.zeroed:
        _mask_zeros(analyze_loaded(model), plan)
    return model


def _mask_zeros(masked: Analysis, plan: Plan) -> None:
    """Sets to zero what a plan's masks say, in place.

    Masks are of what removal and reordering left; here the elements are where they were before.
    """
    constants = {v.key: v for v in masked.coupling.graph.constants()}
    for name, entry in plan.zeroed.items():
        value = constants.get(name, constants.get(plan.split.get(name, name)))
        if value is None:
            raise PlanError(f"the plan names {name!r}, which the model lacks")
        kept_along = []
        for axis, length in enumerate(n for n in value.shape or [] if isinstance(n, int)):
            kept = np.delete(np.arange(length), plan.removed.get(name, {}).get(str(axis), []))
            kept_along.append(kept[plan.permuted.get(name, {}).get(str(axis), range(len(kept)))])
        zero = np.zeros([n for n in value.shape or [] if isinstance(n, int)], dtype=bool)
        zero[np.ix_(*kept_along)] = unpack_mask(entry["mask"], tuple(len(p) for p in kept_along))
        sparsity.zero_elements(masked.model, masked.coupling, value, zero)


def _is_quantised_bias(edit: ConstantEdit) -> bool:
    """Whether a constant is read as the 32-bit bias of quantised layers alone; others are indices and shapes."""
    readers = [node for value in edit.readers for node, _ in value.consumers]
    is_long = edit.readers[0].elem_type == TensorProto.INT32
    return is_long and all(operator_of(node).reads_zero_points for node in readers)


def _divides(value: Value | None) -> bool:
    """Whether something is divided by a value, or by a copy of it."""
    return value is not None and any(
        i == operator_of(node).divisor
        or (i == 0 and operator_of(node).copies in (Copies.ALL, Copies.SOME) and any(map(_divides, node.outputs[:1])))
        for node, i in value.consumers
    )


def mask(model: Model, coupling: Coupling, removed: NDArray[np.bool_]) -> onnx.ModelProto:
    """Sets what would be removed to zero, in place, and returns the model's proto.

    Quantised weights become their zero point; a constant that divides becomes one.

    Args:
        model: The original; its proto is what `coupling` analysed.
        coupling: The analysis.
        removed: Boolean per channel id, True for what is removed.
    """
    zero_points = {zero for _, zero, _ in coupling.ties.quantised.values() if zero is not None}

    def masked(edit: ConstantEdit, values: Values) -> Values:
        value, removal = edit.readers[0], edit.change
        if zero_points.intersection(edit.readers) or not (value.elem_type in WEIGHT_TYPES or _is_quantised_bias(edit)):
            return values
        return Made(values.shape, values.dtype, lambda: with_masked(value, values.array(), removal))

    def with_masked(value: Value, array: NDArray[Any], removal: Removal) -> NDArray[Any]:
        off = np.zeros(array.shape, dtype=bool)
        for axis, indices in removal.items():
            np.moveaxis(off, axis, 0)[list(indices)] = True
        if _divides(value):
            return np.where(off, np.ones((), array.dtype), array)
        return sparsity.with_zeros(model, coupling, value, array, off)

    apply_edits(model, coupling.graph, constant_edits(coupling, KeptLengths(coupling, removed)), masked)
    return model.proto
