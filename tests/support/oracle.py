"""Masked equivalence of a removal, checked in onnxruntime."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxprune
from onnxprune.coupling.coupling import Coupling, analyze
from onnxprune.coupling.groups import Grade
from onnxprune.edit.permute import constant_orders, identity_source, permutable_units, reorder_constants, set_order
from onnxprune.edit.remove import remove
from onnxprune.graph.graph import Graph
from onnxprune.model.model import load
from onnxprune.pipeline.analysis import Analysis
from onnxprune.pipeline.kept_indices import kept_indices
from onnxprune.repair import joint, layerwise
from onnxprune.repair.batch_norm import reestimate
from onnxprune.testing import mask

OLD_RUNTIME = tuple(map(int, ort.__version__.split(".")[:2])) < (1, 30)
OLD_ONNX = tuple(map(int, onnx.__version__.split(".")[:2])) < (1, 23)
"""Whether this is older than what the tests' models were written for: it lacks operators, or has them wrong."""


def run_original(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Runs a model that the tests start from; skips where an old onnxruntime does not take it."""
    try:
        outputs: list[np.ndarray] = session(model).run(None, feeds)
    except Exception as error:
        if OLD_RUNTIME:
            pytest.skip(f"onnxruntime {ort.__version__} does not run it: {str(error).splitlines()[0][:200]}")
        raise
    return outputs


def assert_verified(result: onnxprune.Result) -> None:
    """Both models ran; skips where an old onnxruntime does not take the original."""
    if OLD_RUNTIME and not result.report.verified:
        pytest.skip(f"onnxruntime {ort.__version__} does not run it: {str(result.report.unverified_because)[:200]}")
    assert result.report.verified


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def analyzed(model: onnx.ModelProto) -> Analysis:
    """The analysis of a copy of the model."""
    copy = load(model)
    return Analysis(copy, analyze(Graph(copy.proto)))


def draw_removal(coupling: Coupling, ratio: float, seed: int) -> np.ndarray:
    """Random units of every exact group, at least one of each stays."""
    rng = np.random.default_rng(seed)
    gone = np.zeros(coupling.classes.elements, dtype=bool)
    for group in coupling.groups:
        if group.grade == Grade.EXACT:
            count = min(int(np.ceil(ratio * group.units)), group.units - 1)
            gone[rng.choice(group.channels, count, replace=False)] = True
    return gone


def prune_and_mask(
    model: onnx.ModelProto, ratio: float = 0.5, seed: int = 0, analysis: Analysis | None = None
) -> tuple[onnx.ModelProto, onnx.ModelProto, int]:
    """The pruned model, the masked original, and how many channels went; an analysis of the model is used up."""
    pruned, masked = analysis or analyzed(model), load(model)
    gone = draw_removal(pruned.coupling, ratio, seed)
    remove(pruned.model, pruned.coupling, gone)
    mask(masked, analyze(Graph(masked.proto)), gone)
    return pruned.model.proto, masked.proto, int(gone.sum())


def assert_equivalent(
    model: onnx.ModelProto,
    feeds: dict[str, np.ndarray],
    ratio: float = 0.5,
    seed: int = 0,
    analysis: Analysis | None = None,
) -> int:
    """The pruned model computes what the masked original computes; returns how many channels went."""
    pruned, masked, count = prune_and_mask(model, ratio, seed, analysis)
    onnx.checker.check_model(pruned, full_check=True)
    before, after = run_original(masked, feeds), session(pruned).run(None, feeds)
    for a, b in zip(before, after, strict=True):
        assert a.shape == b.shape
        scale = max(float(np.sqrt(np.mean(np.square(a, dtype=np.float64)))), 1e-6)
        error = float(np.sqrt(np.mean(np.square(a.astype(np.float64) - b)))) / scale
        assert error < 1e-4, f"outputs differ from the masked original: relative RMS {error:.3g}"
    return count


def assert_fits_agree(model: onnx.ModelProto, batches: list[dict[str, np.ndarray]], seed: int = 0) -> tuple[int, int]:
    """What layers are fitted to is what they compute already where the removal takes nothing away.

    The original is masked, so its values are those of the pruned model at the indices that both have: every held-out
    error is zero before a fit, and running statistics do not move.

    Returns:
        How many channels went, and how many layers or chains of layers were fitted.
    """
    pruned, masked = load(model), load(model)
    coupling, whole = analyze(Graph(pruned.proto)), analyze(Graph(masked.proto))
    gone = draw_removal(coupling, 0.5, seed)
    kept = kept_indices(coupling, gone)
    remove(pruned, coupling, gone)
    mask(masked, whole, gone)
    refits = []
    for repair in (partial(layerwise.repair, count=len(batches)), joint.repair):
        refits += repair(masked, pruned.copy(), kept, batches)
    for refit in refits:
        # a share of the variance: where that is next to nothing, the rounding of the values is some of it
        assert refit.before < 0.02, f"{refit.layer} is fitted to something else than it computed: {refit.before:.3g}"
    statistics = pruned.copy()
    reestimate(masked, statistics, kept, batches)
    for before, after in zip(pruned.proto.graph.initializer, statistics.proto.graph.initializer, strict=True):
        np.testing.assert_allclose(pruned.array(before), statistics.array(after), rtol=1e-4, atol=1e-5)
    return int(gone.sum()), len(refits)


def reordered(model: onnx.ModelProto, seed: int, *, mixing: bool = True) -> tuple[onnx.ModelProto, int]:
    """A copy with all that may move at random places, and how many units may."""
    copy = load(model)
    coupling = analyze(Graph(copy.proto), mixing=mixing)
    rng, source, count = np.random.default_rng(seed), identity_source(coupling), 0
    for units in permutable_units(coupling):
        set_order(coupling, source, units, rng.permutation(units.units))
        count += units.units
    reorder_constants(copy, coupling.graph, constant_orders(coupling, source))
    return copy.proto, count


def assert_order_is_free(model: onnx.ModelProto, feeds: dict[str, np.ndarray], seed: int = 0) -> int:
    """What may move moves without a trace in the outputs; returns how many units may."""
    moved, count = reordered(model, seed)
    onnx.checker.check_model(moved, full_check=True)
    for a, b in zip(run_original(model, feeds), session(moved).run(None, feeds), strict=True):
        np.testing.assert_equal(a.shape, b.shape)
        if a.dtype.kind == "f":
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 * max(float(np.abs(a).max()), 1e-6))
        else:
            assert np.abs(b.astype(np.int64) - a.astype(np.int64)).max() <= 1
    return count
