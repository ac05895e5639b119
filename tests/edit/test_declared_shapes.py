"""Every shape that a pruned model declares is the one that inference finds, and that a run has."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.ops import case as rows
from tests.support import oracle
from tests.support.graph_builder import Seeded
from tests.support.lanes import spread
from tests.support.random_graphs import random_model


def declared(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a declared shape for whatever inference knows, and for its initializers."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    named = {v.name for v in inferred.graph.value_info}
    inferred.graph.value_info.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        for t in inferred.graph.initializer
        if t.name not in named
    )
    return inferred


def shapes(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    return {
        v.name: [d.dim_value if d.HasField("dim_value") else d.dim_param for d in v.type.tensor_type.shape.dim]
        for v in (*model.graph.input, *model.graph.value_info, *model.graph.output)
        if v.type.tensor_type.HasField("shape")
    }


def without_declarations(model: onnx.ModelProto) -> onnx.ModelProto:
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    return bare


def check(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    pruned, _, _ = oracle.prune_and_mask(declared(model), seed=seed)
    onnx.checker.check_model(pruned, full_check=True)
    stated = shapes(pruned)
    stored = {t.name: list(t.dims) for t in pruned.graph.initializer}
    assert {name: stated[name] for name in stored if name in stated} == {n: s for n, s in stored.items() if n in stated}
    found = shapes(onnx.shape_inference.infer_shapes(without_declarations(pruned), data_prop=True))
    for name, shape in found.items():
        pairs = zip(stated.get(name, shape), shape, strict=True)
        wrong = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int) and a != b]
        assert not wrong, f"{name} is declared {stated[name]}, inference finds {shape}"
    return pruned


@pytest.mark.parametrize("row", spread(rows.every_row(), 15), ids=lambda r: r.name)
def test_declared_shapes_are_those_that_inference_finds(row: rows.Case) -> None:
    check(row.model(), 0)


@pytest.mark.parametrize("seed", spread(range(40)))
def test_declared_shapes_are_those_of_a_run(seed: int) -> None:
    model = random_model(Seeded(seed))
    pruned = check(model, seed)
    stated = shapes(pruned)
    shown = without_declarations(pruned)
    made = [o for node in shown.graph.node for o in node.output if o]
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    feeds = rows.random_feeds(pruned)
    for name, array in zip(made, oracle.session(shown).run(None, feeds), strict=True):
        for length, actual in zip(stated.get(name, np.shape(array)), np.shape(array), strict=True):
            assert not isinstance(length, int) or length == actual, f"{name} is declared {stated[name]}"
