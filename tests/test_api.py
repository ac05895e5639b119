"""The flow from model to model: nothing is lost that was not pruned, and every stage can be called by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.allocation.counts import Limits, uniform, weakest
from onnxprune.edit.remove import remove
from onnxprune.errors import InputError
from onnxprune.model.model import load
from onnxprune.planning import plan
from onnxprune.report.entries import Count
from tests.model.cases import decorated
from tests.ops.case import build, random_feeds
from tests.support import oracle

NET = """(float[N,3,4,4] x) => (float[N,2] y)
    <float[8,3,3,3] w, float[8] b, float[8] s, float[8] z, float[8] m, float[8] posv, float[12,8,1,1] u, float[192,2] v>
    { h = Conv <pads = [1, 1, 1, 1]> (x, w, b)  n = BatchNormalization(h, s, z, m, posv)  r = Relu(n)
      k = Conv(r, u)  t = Tanh(k)  f = Flatten(t)  y = MatMul(f, v) }"""


def net() -> onnx.ModelProto:
    model = build(NET)
    for node in model.graph.node:
        node.name = f"/{node.op_type.lower()}/{node.output[0]}"
    return model


def shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    return {t.name: list(t.dims) for t in model.graph.initializer}


def prune(model: Any, ratio: float | None = 0.5, **options: Any) -> onnxprune.Result:
    return onnxprune.prune(model, ratio, **{"repair": "none", "verify": False, **options})


# --- a model saved after pruning nothing is the model


def adorned() -> onnx.ModelProto:
    """Something in every corner, and operators that nobody knows."""
    model = decorated()
    graph = model.graph
    graph.node.append(helper.make_node("Secret", ["x1"], ["hidden"], domain="custom.domain", name="secret", level=3))
    graph.node.append(helper.make_node("Act", ["x2"], ["acted"], domain="local"))
    graph.initializer.append(numpy_helper.from_array(np.ones((3, 3), np.int8), "int8"))
    graph.initializer.append(helper.make_tensor("typed_int", TensorProto.INT64, [3], [1, 2, 3]))
    graph.value_info.append(helper.make_tensor_value_info("x1", 1, ["N", 32]))
    graph.output.append(helper.make_tensor_value_info("hidden", 1, None))
    graph.output.append(helper.make_tensor_value_info("acted", 1, ["N", 32]))
    model.opset_import.add(domain="local", version=1)
    return model


MODELS = {"plain": net, "decorated": decorated, "adorned": adorned}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_ratio_zero_returns_the_model(make: Any) -> None:
    model = make()
    result = prune(model, 0.0)
    assert result.proto.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    assert not result.plan.removed and result.report.channels.before == result.report.channels.after


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_ratio_zero_writes_the_file(make: Any, tmp_path: Path) -> None:
    before, after = tmp_path / "a.onnx", tmp_path / "b.onnx"
    before.write_bytes(make().SerializeToString(deterministic=True))
    prune(before, 0.0).save(after)
    assert after.read_bytes() == before.read_bytes()


def test_ratio_zero_of_external_data_keeps_values_and_place(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    path, out = tmp_path / "a.onnx", tmp_path / "out" / "a.onnx"
    onnx.save(net(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    files = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    prune(path, 0.0).save(out)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == files  # the input is never touched
    for old, new in zip(net().graph.initializer, onnx.load(out).graph.initializer, strict=True):
        assert np.array_equal(numpy_helper.to_array(old), numpy_helper.to_array(new))


def test_a_ratio_that_takes_no_whole_channel_returns_the_model() -> None:
    model = net()
    result = prune(model, 0.05)
    assert result.proto == model
    assert len(result.report.whole_because) == 1 and "no whole unit" in result.report.whole_because[0]


def test_what_is_not_pruned_stays_when_something_is() -> None:
    model = net()
    model.metadata_props.add(key="author", value="somebody")
    model.doc_string, model.producer_name, model.producer_version, model.model_version = "doc", "tool", "1.2", 7
    model.graph.doc_string = "graph"
    annotation = model.graph.quantization_annotation.add(tensor_name="h")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    model.training_info.add().initialization.node.append(helper.make_node("Constant", [], ["c"], value_float=1.0))
    model.opset_import.add(domain="custom.domain", version=7)
    for message in (model, model.graph, model.graph.node[2], model.graph.initializer[0]):
        message.MergeFromString(b"\xba\x3e\x03abc")  # a field that this version of onnx does not know
    new = prune(model).proto
    assert shapes(new)["w"] == [4, 3, 3, 3]
    assert shapes(new)["v"] == [96, 2]
    for proto in (model, new):
        for t in proto.graph.initializer:
            for field in ("dims", "raw_data", "float_data"):
                t.ClearField(field)
    assert new.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.0},
        {"ratio": 0.5},
        {"ratio": None, "pattern": "weights=0.5"},
        {"ratio": 0.5, "mixing": True},
        {"ratio": 0.5, "only": ["^w$"]},
    ],
)
def test_the_model_of_the_caller_never_changes(options: dict[str, Any]) -> None:
    model = net()
    before = model.SerializeToString(deterministic=True)
    onnxprune.prune(model, **options)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.slow
def test_the_stages_do_not_change_it_either() -> None:
    model = net()
    before = model.SerializeToString(deterministic=True)
    analysis = onnxprune.analyze(model)
    made = onnxprune.plan(analysis, 0.5)
    onnxprune.score(analysis)
    assert analysis.model.proto.SerializeToString(deterministic=True) == before
    onnxprune.apply(made, model)
    onnxprune.verify(model, onnxprune.apply(made, model))
    assert model.SerializeToString(deterministic=True) == before


# --- kinds of models


def test_a_graph_gives_a_graph() -> None:
    graph = gs.import_onnx(net())
    names = list(graph.tensors())
    result = prune(graph)
    assert isinstance(result.model, gs.Graph) and isinstance(result.proto, onnx.ModelProto)
    assert tuple(result.model.tensors()["w"].shape) == (4, 3, 3, 3)
    assert tuple(graph.tensors()["w"].shape) == (8, 3, 3, 3) and list(graph.tensors()) == names


def test_changes_to_the_graph_of_a_result_stay() -> None:
    result = prune(gs.import_onnx(net()))
    assert isinstance(result.model, gs.Graph)
    result.model.name = "changed"
    assert result.model.name == "changed" and result.model is result.model
    assert result.graph() is not result.graph()


def test_a_proto_gives_a_proto_and_a_path_too(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    onnx.save(net(), path)
    by_path, by_name, by_proto = prune(path), prune(str(path)), prune(net())
    assert by_path.model == by_name.model == by_proto.model
    assert isinstance(by_proto.graph(), gs.Graph)


@pytest.mark.parametrize("thing", [None, 3, b"bytes", net().graph])
def test_anything_else_is_refused(thing: Any) -> None:
    with pytest.raises(InputError, match="a model is a path"):
        onnxprune.prune(thing, 0.5)


def test_the_same_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        prune(net()).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_local_functions_are_pruned_through() -> None:
    model = net()
    model.graph.node[2].op_type, model.graph.node[2].domain = "Act", "local"
    model.functions.append(
        helper.make_function(
            "local", "Act", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 18)]
        )
    )
    model.opset_import.add(domain="local", version=1)
    assert shapes(prune(model).proto)["w"] == [4, 3, 3, 3]


# --- stages


def test_stage_by_stage_is_prune() -> None:
    model = net()
    whole = prune(model)
    analysis = onnxprune.analyze(model)
    assert onnxprune.plan(analysis, 0.5, repair="none") == whole.plan
    by_plan = onnxprune.apply(onnxprune.Plan.from_json(whole.plan.to_json()), model)
    assert by_plan.proto == whole.proto
    groups = [g for g in analysis.groups if str(g.grade) == "exact"]
    counts = uniform(groups, 0.5, [Limits()] * len(groups))
    gone = np.zeros(analysis.coupling.classes.elements, dtype=bool)
    for g, scores, count in zip(groups, onnxprune.score(analysis, groups=groups), counts, strict=True):
        gone[g.channels[weakest(scores, count)]] = True
    assert plan.make(analysis.coupling, gone).removed == whole.plan.removed
    remove(analysis.model, analysis.coupling, gone)
    assert analysis.model.proto == whole.proto


def test_a_plan_prunes_another_checkpoint_to_its_own_masked_self() -> None:
    made, other = prune(net()).plan, net()
    rng = np.random.default_rng(7)
    for t in other.graph.initializer:
        fresh = np.abs(rng.standard_normal(list(t.dims))).astype(np.float32)
        t.CopyFrom(numpy_helper.from_array(fresh, t.name))
    pruned, masked = onnxprune.apply(made, other).proto, load(other).proto
    for t in masked.graph.initializer:
        array = numpy_helper.to_array(t).copy()
        for axis, indices in made.removed.get(t.name, {}).items():
            np.moveaxis(array, int(axis), 0)[indices] = 0
        t.CopyFrom(numpy_helper.from_array(array, t.name))
    expected, got = (oracle.session(m).run(None, random_feeds(other))[0] for m in (masked, pruned))
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_a_plan_fits_one_architecture() -> None:
    other = build(NET.replace("Tanh", "Erf"))
    with pytest.raises(InputError, match="another graph"):
        onnxprune.apply(prune(net()).plan, other)


# --- the report


def test_the_report_is_strict_json_with_its_keys() -> None:
    report = onnxprune.prune(net(), 0.5, repair="none").report
    assert {"params", "macs", "bytes", "drift", "verified", "channels", "groups", "seconds"} <= set(report.to_dict())
    assert json.loads(report.to_json()) == report.to_dict()
    assert report.params == Count(216 + 5 * 8 + 96 + 384, 108 + 5 * 4 + 24 + 192)
    assert report.channels == Count(20, 10)
    assert report.verified is True
    assert set(report.drift) == {"y"}
    assert report.bytes.after < report.bytes.before
    assert report.macs.after < report.macs.before


def test_the_report_counts_what_is_there(tmp_path: Path) -> None:
    result = prune(net())
    result.save(tmp_path / "out.onnx")
    assert result.report.bytes.after == (tmp_path / "out.onnx").stat().st_size
    assert result.report.params.after == sum(int(np.prod(s)) for s in shapes(result.proto).values())


def test_pruned_models_run(tmp_path: Path) -> None:
    result = onnxprune.prune(net(), 0.5, repair="none")
    onnx.checker.check_model(result.proto, full_check=True)
    assert oracle.session(result.proto).run(None, random_feeds(net()))[0].shape == (2, 2)
