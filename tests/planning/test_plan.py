"""Plans: plain data that comes back as it was, fits one architecture, and refuses what it cannot mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper, numpy_helper

import onnxprune
from onnxprune.coupling.groups import Grade, Group
from onnxprune.errors import InputError
from onnxprune.planning import plan as planning
from onnxprune.planning.fingerprint import fingerprint
from onnxprune.planning.masks import pack_mask, unpack_mask
from onnxprune.planning.plan import Plan, channels, make
from tests.ops.case import build, coupling_of
from tests.support import oracle
from tests.support.graph_builder import Seeded
from tests.support.random_graphs import random_model

NET = """(float[N,3,4,4] x) => (float[N,2,4,4] y) <float[6,3,1,1] w, float[6] b, float[8,6,1,1] u, float[2,8,1,1] v>
    { h = Conv(x, w, b)  r = Relu(h)  k = Conv(r, u)  s = Sigmoid(k)  y = Conv(s, v) }"""


def net() -> onnx.ModelProto:
    return build(NET)


def plan() -> Plan:
    return onnxprune.plan(onnxprune.analyze(net()), 0.5, repair="none")


# --- JSON


def test_json_round_trip() -> None:
    made = plan()
    assert Plan.from_json(made.to_json()) == made
    assert json.loads(made.to_json())["version"] == 1


def test_a_plan_with_the_empty_key_of_earlier_versions_is_read() -> None:
    made = plan()
    data = json.loads(made.to_json())
    assert "blocks" not in data
    assert Plan.from_json(json.dumps({**data, "blocks": {}})) == made
    with pytest.raises(InputError, match="unknown keys: blocks"):
        Plan.from_json(json.dumps({**data, "blocks": {"w": []}}))


def test_json_is_strict() -> None:
    """Scores that are no numbers become null: NaN is not JSON."""
    made = plan()
    made.groups[0]["scores"] = [float("nan")]
    with pytest.raises(ValueError, match="Out of range float"):
        made.to_json()
    assert "NaN" not in plan().to_json()


def test_scores_of_every_unit_are_in_the_plan() -> None:
    entry = next(g for g in plan().groups if g["name"] == "w:0")
    assert (entry["channels"], entry["grade"], entry["pinned"], len(entry["scores"])) == (6, "exact", [], 6)
    weakest = sorted(range(6), key=lambda i: entry["scores"][i])[:3]
    assert entry["removed"] == sorted(weakest) == plan().removed["w"]["0"]


def test_a_plan_without_lengths_can_be_read() -> None:
    """Earlier versions wrote none, and no constants."""
    data = json.loads(plan().to_json())
    assert data.pop("constants") == ["w", "b", "u", "v"]
    assert data.pop("lengths") == {"w": {"0": 6}, "b": {"0": 6}, "u": {"0": 8, "1": 6}, "v": {"1": 8}}
    assert Plan.from_json(json.dumps(data)).removed == data["removed"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "null",
        "3",
        '"text"',
        "{}",
        '{"version": 1}',
        '{"model": "a"}',
        '{"version": 2, "model": "a"}',
        '{"version": 1, "model": 3}',
        '{"version": 1, "model": "a", "surprise": 1}',
        '{"version": 1, "model": "a", "removed": []}',
        '{"version": 1, "model": "a", "removed": {"w": []}}',
        '{"version": 1, "model": "a", "removed": {"w": {"x": [1]}}}',
        '{"version": 1, "model": "a", "removed": {"w": {"-1": [1]}}}',
        '{"version": 1, "model": "a", "removed": {"w": {"0": 1}}}',
        '{"version": 1, "model": "a", "removed": {"w": {"0": [1.5]}}}',
        '{"version": 1, "model": "a", "removed": {"w": {"0": [true]}}}',
        '{"version": 1, "model": "a", "removed": {"w": {"0": [-1]}}}',
        '{"version": 1, "model": "a", "lengths": {"w": {"0": "8"}}}',
        '{"version": 1, "model": "a", "lengths": {"w": [8]}}',
        '{"version": 1, "model": "a", "constants": [3]}',
        '{"version": 1, "model": "a", "refilled": [3]}',
        '{"version": 1, "model": "a", "split": {"a": 3}}',
        '{"version": 1, "model": "a", "zeroed": {"w": {"mask": 3}}}',
        '{"version": 1, "model": "a", "groups": {}}',
        '{"version": 1, "model": "a", "groups": [3]}',
        *(
            '{"version": 1, "model": "a", "groups": [{"name": "g", "channels": 1, "grade": "exact", ' + lists + "}]}"
            for lists in (
                '"removed": [[]], "pinned": []',
                '"removed": [true], "pinned": []',
                '"removed": [], "pinned": [3]',
            )
        ),
        '{"version": 1, "model": "a", "mixing": 1}',
        "[" * 100000,
    ],
)
def test_what_is_no_plan_is_told_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        Plan.from_json(text)
    assert "\n" not in str(caught.value) and "plan" in str(caught.value)


# --- fingerprint


def describe(model: onnx.ModelProto) -> None:
    model.doc_string, model.producer_name = "doc", "somebody"
    model.metadata_props.add(key="k", value="v")
    model.graph.doc_string = "graph"
    model.graph.node[0].doc_string = "node"
    model.graph.initializer[0].doc_string = "weight"
    model.graph.input[0].doc_string = "input"
    model.graph.value_info.append(helper.make_tensor_value_info("h", 1, ["N", 6, 4, 4]))


def new_weights(model: onnx.ModelProto) -> None:
    for t in model.graph.initializer:
        t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t) * 3 + 1, t.name))


def rename(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "other"


def widen(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((6, 3, 3, 3), np.float32), "w"))


CHANGES: list[tuple[Callable[[onnx.ModelProto], Any], bool]] = [
    (describe, False),
    (new_weights, False),
    (lambda m: m.graph.node[0].attribute.append(helper.make_attribute("strides", [2, 2])), True),
    (rename, True),
    (widen, True),
    (lambda m: setattr(m.graph.node[1], "op_type", "Tanh"), True),
    (lambda m: setattr(m.graph.node[1], "domain", "own"), True),
    (lambda m: setattr(m.opset_import[0], "version", 17), True),
    (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 4), True),
    (lambda m: m.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((6, 3, 1, 1), np.float16), "w")), True),
    (lambda m: m.graph.node.pop(1), True),
]


@pytest.mark.parametrize(("change", "seen"), CHANGES)
def test_fingerprint(change: Callable[[onnx.ModelProto], Any], seen: bool) -> None:
    model = net()
    before = fingerprint(model)
    change(model)
    assert (fingerprint(model) != before) is seen


def test_fingerprint_sees_a_shape_constant_and_not_a_weight_in_a_node() -> None:
    def model(size: int, weight: float) -> onnx.ModelProto:
        return build(
            f"""(float[N,3,4] x) => (float[N,12] y) <int64[2] s>
            {{ c = Constant <value = float[4] {{{weight}, 2.0, 3.0, 4.0}}> ()  h = Add(x, c)  y = Reshape(h, s) }}""",
            constants={"s": [0, size]},
        )

    assert fingerprint(model(12, 1.0)) == fingerprint(model(12, 9.0))
    assert fingerprint(model(12, 1.0)) != fingerprint(model(-1, 1.0))


@pytest.mark.parametrize(("rows", "seen"), [(64, True), (65, False), (4096, False)])
def test_fingerprint_sees_the_values_of_small_integer_tensors_only(rows: int, seen: bool) -> None:
    """A table of 4096 x 64 indices is not gone through: what counts is the number of its elements."""

    def model(first: int) -> onnx.ModelProto:
        made = build("(int64[N] x) => (int64[N,64] y) { y = Gather(table, x) }")
        table = np.zeros((rows, 64), np.int64)
        table[0, 0] = first
        made.graph.initializer.append(numpy_helper.from_array(table, "table"))
        return made

    assert (fingerprint(model(1)) != fingerprint(model(2))) is seen


def test_fingerprint_ignores_the_description_of_an_attribute() -> None:
    model = build("(float[N,3] x) => (float[N,3] y) { y = LeakyRelu <alpha = 0.5> (x) }")
    before = fingerprint(model)
    model.graph.node[0].attribute[0].doc_string = "the slope"
    assert fingerprint(model) == before


def test_fingerprint_ignores_the_bias_of_a_quantised_layer() -> None:
    """It is a whole number of 32 bits, and still a weight."""

    def model(bias: int) -> onnx.ModelProto:
        return build(
            """(uint8[N,3,4,4] x) => (float[N,2,4,4] y)
            <int8[2,3,1,1] w, float s, uint8 z, int8 nil, int32[2] b, float t>
            { h = DequantizeLinear(x, s, z)  k = DequantizeLinear(w, s, nil)  c = DequantizeLinear(b, t)  y = Conv(h, k, c) }""",
            constants={"b": [bias, 2]},
        )

    assert fingerprint(model(1)) == fingerprint(model(7))


def test_fingerprint_looks_into_bodies() -> None:
    def model(op: str) -> onnx.ModelProto:
        return build(f"""(float[N,3] x, bool flag) => (float[N,3] y)
            {{ y = If (flag) <then_branch = a () => (float[N,3] t) {{ t = {op}(x) }},
                              else_branch = b () => (float[N,3] e) {{ e = Relu(x) }}> }}""")

    assert fingerprint(model("Tanh")) != fingerprint(model("Erf"))


# --- channels


@pytest.mark.parametrize("seed", range(12))
def test_channels_of_a_plan_are_those_that_it_was_made_of(seed: int) -> None:
    coupling = coupling_of(random_model(Seeded(seed), 12))
    gone = oracle.draw_removal(coupling, 0.5, seed)
    weighty = [np.flatnonzero(coupling.channel == c) for c in np.flatnonzero(gone)]
    assert all(len(w) for w in weighty)
    made = Plan.from_json(make(coupling, gone).to_json())
    assert np.array_equal(channels(made, coupling), gone)


def test_a_plan_without_removals_removes_nothing() -> None:
    coupling = coupling_of(net())
    assert not channels(make(coupling, np.zeros(coupling.classes.elements, dtype=bool)), coupling).any()


def edited(change: Callable[[Plan], Any]) -> Plan:
    made = plan()
    change(made)
    return made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.removed["u"].pop("1"), "only a part of what is tied"),
        (lambda p: p.removed.pop("b"), "only a part of what is tied"),
        (lambda p: p.removed["w"]["0"].pop(), "only a part of what is tied"),
        (
            lambda p: p.removed["w"]["0"].append(next(i for i in range(6) if i not in p.removed["w"]["0"])),
            "only a part of what is tied",
        ),
        (lambda p: p.removed["w"].update({"0": [6]}), "index 6 of axis 0"),
        (lambda p: p.removed["w"].update({"7": [0]}), "axis 7"),
        (lambda p: p.removed["w"].update({"1": [0]}), "pinned"),
        (lambda p: p.removed.update({"nobody": {"0": [1]}}), "'nobody'"),
        (lambda p: setattr(p, "model", "0" * 64), "another graph"),
        (
            lambda p: [p.removed[n].update({a: list(range(6))}) for n, a in (("w", "0"), ("b", "0"), ("u", "1"))],
            "leaves nothing",
        ),
    ],
)
def test_an_edited_plan_that_makes_no_sense_is_refused(change: Callable[[Plan], Any], message: str) -> None:
    made = edited(change)
    with pytest.raises(InputError, match=message):
        onnxprune.apply(made, net())


def test_a_plan_may_be_edited_consistently() -> None:
    """Taking one channel out of the plan everywhere it is named is all that it needs."""
    made = plan()
    saved = made.removed["w"]["0"][0]
    for name, axis in (("w", "0"), ("b", "0"), ("u", "1")):
        made.removed[name][axis].remove(saved)
    new = onnxprune.apply(made, net()).proto
    assert {t.name: list(t.dims) for t in new.graph.initializer} == {
        "w": [4, 3, 1, 1],
        "b": [4],
        "u": [4, 4, 1, 1],
        "v": [2, 4, 1, 1],
    }


# --- masks


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)))
def test_masks_come_back(mask: np.ndarray) -> None:
    assert np.array_equal(unpack_mask(pack_mask(mask), mask.shape), mask)


def test_a_mask_has_one_bit_an_element_most_significant_first() -> None:
    import base64
    import zlib

    mask = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]], dtype=bool)
    assert zlib.decompress(base64.b64decode(pack_mask(mask))) == bytes([0b10000001, 0b10000000])


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("!!!", (3,)),
        ("AAAA", (3,)),
        (pack_mask(np.ones(9, bool)), (3,)),
        (pack_mask(np.ones(3, bool)), (9,)),
        ("", (1,)),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(text: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="mask"):
        unpack_mask(text, shape)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=6, max_size=6))
def test_scores_are_rounded_or_null(scores: list[float]) -> None:
    group = Group("g", np.arange(6), Grade.EXACT, [], [])
    entry = planning.describe(group, [1], np.array(scores))
    for mine, true in zip(entry["scores"], scores, strict=True):
        if np.isfinite(true):  # of two numbers that are about as near either will do
            assert mine == float(f"{mine:.6g}") == pytest.approx(true, rel=5.001e-6, abs=0)
        else:
            assert mine is None
    json.dumps(entry, allow_nan=False)
