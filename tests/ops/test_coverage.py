"""Every registered operator occurs in a model of this folder: a new rule cannot come without a row."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import onnx.defs
import pytest

import onnxprune.ops
from onnxprune.ops import registry
from tests.ops import case
from tests.support.oracle import OLD_ONNX

FOLDER = Path(__file__).parent
Key = tuple[str, str]

UNKNOWN_TO_ONNX = {"SimplifiedLayerNormalization"}
"""Operators in the standard's domain that only onnxruntime has."""


def registered() -> set[Key]:
    return {(domain, op_type) for domain, op_type, _, _ in registry.table()}


def in_rows() -> set[Key]:
    """Domain and type of every operator of a row."""
    return {key for c in case.every_row() for key in case.operators(c.model())}


def in_text() -> set[str]:
    """Names that are called in the text of a model, ``Op(a)`` or ``Op <k = 1> (a)``, or that a test is given."""
    text = "\n".join(p.read_text() for p in FOLDER.glob("test_*.py") if p.name != Path(__file__).name)
    return {*re.findall(r"\b([A-Z]\w+)\s*(?=[(<])", text), *re.findall(r'"([A-Z]\w+)"', text)}


def without_row() -> list[Key]:
    return sorted(key for key in registered() - in_rows() if key[1] not in in_text())


@pytest.mark.slow
def test_what_has_no_row_is_pinned() -> None:
    """A rule that carries channels needs a row; without one it may only pin, and must say so in its own words."""
    carried = []
    for domain, op_type in without_row():
        model = case.build("(float[N,3] x) => (y) <float[3,6] w> { h = MatMul(x, w)  y = Identity(h) }",
                           domains=[domain] if domain else [])
        model.graph.node[1].CopyFrom(onnx.helper.make_node(op_type, ["h"] * 3, ["y"], domain=domain))
        reasons = case.group(case.coupling_of(model), "w:1").reasons
        own = [r for r in reasons if op_type in r and "could not be analysed" not in r and "rank unknown" not in r]
        if not own:
            carried.append(f"{domain}::{op_type}".removeprefix("::"))
    assert not carried, f"no model in tests/ops has {', '.join(carried)}"


@pytest.mark.slow
def test_most_operators_are_judged_by_the_oracle() -> None:
    """Rows are run in onnxruntime and compared with the masked original."""
    standard = {key for key in registered() if key[0] == ""}
    assert len(standard & in_rows()) > 0.8 * len(standard)


@pytest.mark.skipif(OLD_ONNX, reason="onnx lacks some of the operators")
def test_standard_operators_are_spelled_right() -> None:
    """A rule for a name that the standard lacks would never be asked."""
    standard = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
    assert {op_type for domain, op_type in registered() if domain == ""} - standard == UNKNOWN_TO_ONNX


def test_each_family_is_imported() -> None:
    """A file of rules that is not imported registers nothing."""
    files = {p.stem for p in Path(onnxprune.ops.__file__).parent.glob("*.py")} - {"__init__", "registry", "op", "ties"}
    assert {name for name in files if not hasattr(onnxprune.ops, name)} == set()
