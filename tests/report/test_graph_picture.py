"""The groups of a model drawn on its graph."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import onnxprune
from onnxprune.report.graph_dot import dot
from onnxprune.report.graph_picture import Picture, picture
from onnxprune.report.graph_svg import assigned_lanes, svg
from tests.report.test_sensitivity import HOSTILE, hostile
from tests.support.commands import Cli, assert_refused
from tests.support.paths import MODELS
from tests.support.text_models import text_model

BODY = """
  a = Conv (x, w1)
  b = Conv (a, w2)
  c = Conv (b, w3)
  d = Add (a, c)
  e = GlobalAveragePool (d)
  s = Shape (e)
  f = Flatten (e)
  y = MatMul (f, w4)
"""
WEIGHTS = {"w1": (4, 3, 1, 1), "w2": (6, 4, 1, 1), "w3": (4, 6, 1, 1), "w4": (4, 5)}
SVG = "{http://www.w3.org/2000/svg}"


def drawn(model: object, title: str = "net") -> Picture:
    return picture(title, onnxprune.analyze(model).coupling)


@pytest.fixture(scope="module")
def residual() -> Picture:
    ends = "float[N,3,8,8] x", "float[N,5] y"
    return drawn(text_model(np.random.default_rng(0), BODY, *ends, **WEIGHTS))


def test_nodes_are_in_order_with_their_weights_and_groups(residual: Picture) -> None:
    assert [node.operator for node in residual.nodes] == [
        *("Conv", "Conv", "Conv", "Add", "GlobalAveragePool", "Flatten", "MatMul")
    ]
    assert [node.shape for node in residual.nodes[:3]] == [[4, 3, 1, 1], [6, 4, 1, 1], [4, 6, 1, 1]]
    names = [{residual.groups[g].name for g in node.groups if residual.groups[g].colour} for node in residual.nodes]
    assert names == [{"w1:0"}, {"w1:0", "w2:0"}, {"w1:0", "w2:0"}, set(), set(), set(), {"w1:0"}]


def test_values_carry_their_group_to_all_their_readers(residual: Picture) -> None:
    found = {v.name: (v.source, v.readers, [residual.groups[g].name for g in v.groups]) for v in residual.values}
    assert found == {
        "x": (-1, [0], []),
        "a": (0, [1, 3], ["w1:0"]),
        "b": (1, [2], ["w2:0"]),
        "c": (2, [3], ["w1:0"]),
        "d": (3, [4], ["w1:0"]),
        "e": (4, [5], ["w1:0"]),
        "f": (5, [6], ["w1:0"]),
        "y": (6, [7], []),
    }


def test_groups_that_may_be_pruned_have_colours_of_their_own(residual: Picture) -> None:
    colours = [group.colour for group in residual.groups if group.grade != "pinned"]
    assert len(set(colours)) == len(colours) == 2 and all(re.fullmatch("#[0-9a-f]{6}", str(c)) for c in colours)
    assert {group.colour for group in residual.groups if group.grade == "pinned"} == {None}


@pytest.mark.parametrize("name", ["pt_resnet_bn", "pt_transformer", "pt_mobilenet"])
def test_no_two_values_share_a_part_of_a_lane(name: str) -> None:
    found = drawn(MODELS / f"{name}.onnx")
    lanes = assigned_lanes(found)
    assert lanes
    for (i, a), (j, b) in itertools.combinations(lanes.items(), 2):
        one, other = found.values[i], found.values[j]
        assert a != b or max(one.readers) <= other.source or max(other.readers) <= one.source


def test_the_svg_has_a_box_a_node_and_a_line_a_value(residual: Picture) -> None:
    root = ElementTree.fromstring(svg(residual))
    boxes = [e for e in root.iter(f"{SVG}rect") if e.get("class") == "box"]
    lines = list(root.iter(f"{SVG}path"))
    colours = {group.name: group.colour for group in residual.groups}
    assert len(boxes) == 7 and len(lines) == 8
    assert [line.get("stroke") for line in lines[1:3]] == [colours["w1:0"], colours["w2:0"]]
    height = float(str(root.get("height")))
    assert all(float(str(box.get("y"))) + 18 < height for box in boxes)


def test_hostile_names_are_texts() -> None:
    """In the markup of SVG and in the strings of Graphviz."""
    found = drawn(hostile(), "</svg><script>\n\"'")
    root = ElementTree.fromstring(svg(found))
    assert {e.tag.removeprefix(SVG) for e in root.iter()} == {"svg", "style", "text", "path", "title", "rect", "g"}
    names = [e.text or "" for e in root.iter(f"{SVG}text")]
    assert any(name.startswith("</script>") for name in names) and all(name.isprintable() for name in names)
    text = dot(found)
    assert re.sub(r'"(\\.|[^"\\])*"', '""', text).count('"') == 2 * len(re.findall(r'"(?:\\.|[^"\\])*"', text))
    assert all(line.isprintable() for line in text.splitlines())
    assert len(re.findall(r"^n\d+ -> |^v\d+ -> ", text, re.M)) == 2 * (len(HOSTILE) + 1) + 1


@pytest.mark.slow
def test_the_command_draws_both_kinds_the_same_each_time(cli: Cli, tmp_path: Path) -> None:
    model, page = MODELS / "pt_transformer.onnx", tmp_path / "groups.svg"
    assert cli("inspect", model, "--graph", page).code == 0
    first = page.read_bytes()
    assert cli("inspect", model, "--graph", page).code == 0
    assert page.read_bytes() == first and b"layers.0.mlp.0.bias:0 (256)" in first
    assert cli("inspect", model, "--graph", tmp_path / "groups.dot").code == 0
    assert (tmp_path / "groups.dot").read_text(encoding="utf-8").startswith(f'digraph "{model}" {{')
    assert "--anonymise" in assert_refused(cli("inspect", model, "--anonymise", "--graph", page))


def test_layers_are_listed_with_costs_and_reasons(cli: Cli) -> None:
    """In execution order; MACs add up to those of the model."""
    data = json.loads(cli("inspect", MODELS / "pt_resnet_bn.onnx", "--json").out)
    layers = data["layers"]
    assert [layer["operator"] for layer in layers] == ["Conv"] * 8 + ["Gemm"]
    assert layers[1] | {"groups": []} == {
        "name": "/blocks/blocks.0/conv1/Conv",
        "operator": "Conv",
        "shape": [32, 32, 3, 3],
        "params": 9216,
        "macs": 32 * 32 * 9 * 64,
        "groups": [],
        "pinned": [],
    }
    assert sum(layer["macs"] for layer in layers) == 3_295_872
    assert layers[-1]["pinned"] == ["graph output 'output'"]
    assert [layer["pinned"] for layer in layers[:-1]] == [[]] * 8
