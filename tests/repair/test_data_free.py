"""Repair without data: what is redundant is made good exactly, trained models come back, the same seed the same bytes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxprune import api
from onnxprune.allocation.counts import Limits, uniform, weakest
from onnxprune.calibration.synthetic import PICTURES, synthetic
from onnxprune.edit.remove import remove
from onnxprune.graph.graph import Graph
from onnxprune.importance import score as scoring
from onnxprune.layers.batch_norm import normalizations
from onnxprune.layers.linear import LinearLayer
from onnxprune.model.model import Model, load
from onnxprune.options import Scope
from onnxprune.pipeline.analysis import analyze_loaded, prunable
from onnxprune.pipeline.kept_indices import kept_indices
from onnxprune.pipeline.settle import why_not_data_free
from onnxprune.repair import data_free
from onnxprune.repair.batch_norm import aligned
from onnxprune.repair.data_free import inputs, repair
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.repair.layer_samples import LayerSamples
from onnxprune.repair.layerwise import Refit
from onnxprune.repair.least_squares import Fit
from onnxprune.statistics.covariance import Floats
from tests.support.oracle import session
from tests.support.paths import MODELS


def pruned(model: Model, ratio: float) -> tuple[Model, KeptIndices]:
    """A copy of a model without its weakest channels, and which features of each layer stay."""
    analysis = analyze_loaded(model.copy())
    groups = prunable(analysis, Scope())
    scores = scoring.score(analysis.model, analysis.coupling, groups, "l2")
    gone = np.zeros(analysis.coupling.classes.elements, dtype=bool)
    for group, score, count in zip(groups, scores, uniform(groups, ratio, [Limits()] * len(groups)), strict=True):
        gone[group.channels[weakest(score, count)]] = True
    kept = kept_indices(analysis.coupling, gone)
    remove(analysis.model, analysis.coupling, gone)
    return analysis.model, kept


def outputs(model: Model, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first output for one input."""
    found: NDArray[np.float32] = session(model.proto).run(None, {model.proto.graph.input[0].name: x})[0]
    return found


def accuracy(model: Model) -> float:
    """Share of the held-out digits that are told right."""
    data = np.load(MODELS / "digits_test.npz")
    return float((outputs(model, data["input"]).argmax(axis=1) == data["labels"]).mean())


def convolutions(
    first: NDArray[np.float32], second: NDArray[np.float32], *, rectified: bool, factor: float = 1.0
) -> Model:
    """Two convolutions without biases, a rectifier between them where asked for."""
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu" if rectified else "Identity", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "second"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", len(second), 16, 16])],
        [
            numpy_helper.from_array((first * factor).astype(np.float32), "first"),
            numpy_helper.from_array(second, "second"),
        ],
    )
    return Model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


@pytest.mark.slow
@pytest.mark.parametrize("rectified", [False, True])
def test_what_the_rest_repeats_is_made_good(rectified: bool) -> None:
    rng = np.random.default_rng(1)
    kept = rng.standard_normal((6, 3, 3, 3))
    mixed = 0.02 * np.einsum("ab,bcij->acij", rng.standard_normal((2, 6)), kept)
    gone = 0.1 * kept[[0, 3]] if rectified else mixed  # only multiples pass a rectifier unharmed
    second = rng.standard_normal((5, 8, 1, 1)).astype(np.float32)
    model = convolutions(np.concatenate([kept, gone]), second, rectified=rectified)
    cut, features = pruned(model, 0.25)
    assert {tuple(axis.kept) for axes in features.axes.values() for axis in axes.values()} == {(0, 1, 2, 3, 4, 5)}
    x = rng.standard_normal((4, 3, 16, 16)).astype(np.float32)
    want = outputs(model, x)
    before = np.square(outputs(cut, x) - want).mean()
    done = repair(model, cut, features, inputs(model))
    assert [r.penalty is not None for r in done] == [False, True]
    assert np.square(outputs(cut, x) - want).mean() < 0.2 * before


def test_a_perceptron_whose_units_repeat_is_made_good_exactly() -> None:
    rng = np.random.default_rng(2)
    first = rng.standard_normal((6, 20))
    first = np.concatenate([first, 0.1 * first[[0, 3]]]).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "first"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "second", "bias"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [
            numpy_helper.from_array(first, "first"),
            numpy_helper.from_array(rng.standard_normal((5, 8)).astype(np.float32), "second"),
            numpy_helper.from_array(rng.standard_normal(5).astype(np.float32), "bias"),
        ],
    )
    model = Model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    cut, features = pruned(model, 0.25)
    x = rng.standard_normal((50, 20)).astype(np.float32)
    before = np.square(outputs(cut, x) - outputs(model, x)).mean()
    repair(model, cut, features, inputs(model))
    assert np.square(outputs(cut, x) - outputs(model, x)).mean() < 1e-3 * before


@pytest.mark.slow
def test_a_trained_network_comes_back() -> None:
    original = load(MODELS / "pt_resnet_folded.onnx")
    cut, kept = pruned(original, 0.25)
    assert accuracy(cut) < 0.5
    repair(original, cut, kept, inputs(original))
    assert accuracy(cut) > 0.95
    onnx.checker.check_model(cut.proto, full_check=True)


@pytest.mark.slow
def test_running_statistics_help_and_stay() -> None:
    original = load(MODELS / "pt_resnet_bn.onnx")
    cut, kept = pruned(original, 0.4)
    stored = {n.name: [cut.array(t).copy() for t in n.parameters] for n in normalizations(Graph(cut.proto))}
    assert stored and accuracy(cut) < 0.5
    repair(original, cut, kept, inputs(original))
    assert accuracy(cut) > 0.97
    for n in normalizations(Graph(cut.proto)):
        assert all(np.array_equal(cut.array(t), then) for t, then in zip(n.parameters, stored[n.name], strict=True))


@pytest.mark.slow
def test_while_aligned_every_normalization_makes_mean_and_variance_of_training() -> None:
    original = load(MODELS / "pt_resnet_bn.onnx")
    cut, kept = pruned(original, 0.25)
    batches = synthetic(original, 64)
    with aligned(original, cut, batches, kept) as reference:
        node = normalizations(Graph(reference.proto))[0]
        scale, shift = (reference.array(t) for t in node.parameters[:2])
        probe = reference.copy()
        probe.proto.graph.output.append(onnx.ValueInfoProto(name=node.name))
        made = np.concatenate([session(probe.proto).run([node.name], feeds)[0] for feeds in batches])
    np.testing.assert_allclose(made.mean(axis=(0, 2, 3)), shift, atol=1e-3)
    np.testing.assert_allclose(made.std(axis=(0, 2, 3)), np.abs(scale), rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_scores_and_repairs_of_a_run_share_what_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where several models are made of one in search of the smallest."""
    calls = 0

    def counted(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        return inputs(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("onnxprune.pipeline.prepare.inputs", counted)
    made = api.prune(MODELS / "pt_resnet_bn.onnx", target={"macs": 0.6}, gate={"drift": 0.1}, drift_search=True)
    assert calls == 1 and len(made.report.search.trials) > 1 and made.report.repair


def test_inputs_too_large_to_make_many_of_are_not_made_unasked() -> None:
    """A batch can be declared of any size."""
    model = convolutions(*(np.ones(shape, np.float32) for shape in ((4, 3, 3, 3), (2, 4, 1, 1))), rectified=True)
    assert why_not_data_free(model) is None
    model.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 65535
    why = why_not_data_free(model)
    assert why is not None and why.startswith("a feed of 50,330,880 values")


@pytest.mark.slow
def test_nothing_is_made_up_where_inputs_cannot_be() -> None:
    original = load(MODELS / "pt_transformer.onnx")
    cut, kept = pruned(original, 0.25)
    before = cut.proto.SerializeToString(deterministic=True)
    done = repair(original, cut, kept, inputs(original))
    assert done and all(r == Refit(r.layer, None, r.before, r.before) for r in done)
    assert cut.proto.SerializeToString(deterministic=True) == before


@pytest.mark.slow
class Worse:
    """Doubles every weight and says that this is better."""

    def product(
        self, layer: LinearLayer, rows: LayerSamples, held: LayerSamples, weight: Floats, bias: Floats, free: bool
    ) -> Fit:
        return Fit(2 * weight, bias, 1.0, 1.0, 0.5)

    def matrix(self, key: str, rows: LayerSamples, held: LayerSamples, weight: Floats, bias: Floats, free: bool) -> Fit:
        return Fit(2 * weight, bias, 1.0, 1.0, 0.5)


@pytest.mark.slow
def test_refits_that_add_up_to_worse_outputs_are_taken_back() -> None:
    original = load(MODELS / "pt_resnet_folded.onnx")
    cut, kept = pruned(original, 0.1)
    before = cut.proto.SerializeToString(deterministic=True)
    done = repair(original, cut, kept, inputs(original), fitter=Worse())
    assert done and all(r == Refit(r.layer, None, 1.0, 1.0) for r in done)
    assert cut.proto.SerializeToString(deterministic=True) == before


@pytest.mark.slow
def test_same_bytes_twice() -> None:
    original = load(MODELS / "pt_resnet_folded.onnx")
    made = []
    for _ in range(2):
        cut, kept = pruned(original, 0.25)
        repair(original, cut, kept, inputs(original, 3), seed=3)
        made.append(cut.proto.SerializeToString(deterministic=True))
    assert made[0] == made[1]


@pytest.mark.slow
def test_an_unpruned_model_is_left_alone() -> None:
    original = load(MODELS / "pt_resnet_folded.onnx")
    same, kept = pruned(original, 0.0)
    done = repair(original, same, kept, inputs(original))
    assert all(r.penalty is None for r in done)
    assert same.proto.SerializeToString() == original.proto.SerializeToString()


@pytest.mark.slow
@pytest.mark.parametrize("unit", [1.0, 255.0])
def test_the_range_of_the_inputs_is_found(unit: float) -> None:
    original = load(MODELS / "pt_resnet_folded.onnx")
    graph = Graph(original.proto)
    first = next(n for n in graph.main.nodes if n.op_type == "Conv").inputs[1]
    assert first is not None and first.tensor is not None
    original.set_array(first.tensor, (original.array(first.tensor) / unit).astype(np.float32))
    pixels = synthetic(original, 64)[0]["input"].astype(np.float64)
    spread = pixels.std() / unit
    assert 0.1 < spread < 2.5
    assert any(abs(pixels.max() - (r.factor + r.shift)) < 0.3 * r.factor for r in PICTURES)


@pytest.mark.slow
def test_feeds_fit_the_model() -> None:
    for path in sorted(MODELS.glob("*.onnx")):
        model = load(path)
        feeds = synthetic(model, 40)
        assert sum(len(f["input"]) for f in feeds) == 40
        assert all(np.isfinite(session(model.proto).run(None, f)[-1]).all() for f in feeds[:1])


@pytest.mark.parametrize(
    ("sizes", "judging"),
    [([32] * 12, 1), ([4] * 96, 8), ([25, 25, 22], 1), ([4] * 16, 6), ([32, 32], 0), ([1] * 16, 0), ([64], 0)],
)
def test_outputs_are_compared_on_samples_that_no_fit_sees(sizes: list[int], judging: int) -> None:
    """0 stands for too few samples: all of them serve for both."""
    batches = [{"x": np.full((size, 3), i, np.float32)} for i, size in enumerate(sizes)]
    judges, fitted = data_free._split(batches)
    if not judging:
        assert judges is batches and fitted is batches
        return
    assert len(judges) == judging and [*judges, *fitted] == batches
    assert sum(len(b["x"]) for b in judges) >= data_free.JUDGES // 2
