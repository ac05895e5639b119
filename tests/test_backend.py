"""onnx's own node tests, driven through the rules: nothing crashes, and what is removed equals what is masked.

Each node is wrapped in several ways (see `node_models`), so that its axes are free to lose indices. A run takes every
fifth way of each; ``ONNXPRUNE_BACKEND=all`` takes all of them, which lasts some two minutes.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import zlib
from collections.abc import Iterator

import numpy as np
import onnx
import onnx.defs
import pytest

from onnxprune.coupling.coupling import Coupling, analyze
from onnxprune.coupling.groups import Grade
from onnxprune.graph.graph import Graph
from onnxprune.model.model import load
from onnxprune.ops import registry
from tests.support.node_models import ENDS, ROLES, NodeCase, node_cases, size, wrap
from tests.support.oracle import OLD_ONNX, OLD_RUNTIME, prune_and_mask, session

EVERYTHING = os.environ.get("ONNXPRUNE_BACKEND") == "all"
CHUNKS = 12
HALF_PRECISION = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}

NOT_COMPARED = {
    # pattern of the case's name -> why masking says nothing; these are analysed and pruned all the same
    "test_acosh*": "zero is outside the domain: the masked original is not a number",
    "test_div*": "a masked divisor is zero",
    "test_mod_*": "a masked divisor is zero",
    "test_log*": "the logarithm of a masked zero is infinite, and its product with a masked factor not a number",
    "test_reduce_log_sum*": "the logarithm of a masked zero is infinite",
    "test_reciprocal*": "the reciprocal of a masked zero is infinite",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_?d_mask_causal_expanded": "returns scores that a mask made infinite: times a masked zero they are not a number",
    "test_bernoulli*": "drawn at random",
    "test_training_dropout*": "drawn at random",
}
NO_RULE = {"ai.onnx.preview.training"}
"""Domains of operators without a rule: optimisers do not occur in models that run."""


class Skipped(Exception):
    """A wrapped model that nothing can be said of, and why."""


def ways(case: NodeCase) -> Iterator[tuple[str, str]]:
    """The ways of wrapping a case that this run looks at."""
    every = [(roles, end) for roles in ROLES for end in ENDS]
    start = zlib.crc32(case.name.encode()) % 5
    yield from every if EVERYTHING else every[start::5]


def reason(case: NodeCase) -> str | None:
    return next((why for pattern, why in NOT_COMPARED.items() if fnmatch.fnmatch(case.name, pattern)), None)


def chunk(number: int) -> list[NodeCase]:
    return list(node_cases().values())[number::CHUNKS]


def analysed(model: onnx.ModelProto) -> Coupling:
    return analyze(Graph(load(model).proto))


def checks(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:
        return False
    return True


def assert_equivalent(case: NodeCase, roles: str, end: str) -> int:
    """The pruned model computes what the masked original does; returns how many channels went.

    Raises:
        Skipped: There is nothing to prune, or onnxruntime does not run the case.
    """
    wrapped = wrap(case, roles, end)
    if wrapped is None:
        raise Skipped("no floats")
    model, feeds = wrapped
    pruned, masked, count = prune_and_mask(model)
    if not count:
        raise Skipped("nothing is free")
    assert checks(pruned) or not checks(model), "the checker complains of the pruned model only"
    try:
        whole = session(model).run(None, feeds)
    except Exception as e:  # an operator, type or version that it lacks
        raise Skipped("onnxruntime does not run it") from e
    expected, got = session(masked).run(None, feeds), session(pruned).run(None, feeds)
    if reason(case) is not None:
        raise Skipped("not compared")
    coarse = any(t.data_type in HALF_PRECISION for t in model.graph.initializer)
    tolerance = 2e-2 if coarse else 1e-4
    for a, b, before in zip(expected, got, whole, strict=True):
        if isinstance(a, np.ndarray) and a.dtype.kind == "f":
            assert a.shape == b.shape
            assert np.isfinite(a).all() or not np.isfinite(before).all(), "masking made it infinite: say so in the list"
            np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance * size(case))
    return count


@pytest.mark.slow
@pytest.mark.parametrize("number", range(CHUNKS))
def test_analysis_never_crashes(number: int) -> None:
    """As the cases stand all is interface: every group is pinned, with a reason."""
    for case in chunk(number):
        for group in analysed(case.model).groups:
            assert group.reasons or group.grade == Grade.EXACT, f"{case.name}: {group.name}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # cases about overflow
@pytest.mark.parametrize("number", range(CHUNKS))
def test_removal_equals_masking(number: int) -> None:
    pruned = 0
    for case in chunk(number):
        for roles, end in ways(case):
            try:
                pruned += assert_equivalent(case, roles, end) > 0
            except Skipped:
                continue
            except Exception as e:
                raise AssertionError(f"{case.name}, {roles}, {end}") from e
    if OLD_RUNTIME and pruned <= 60:
        pytest.skip("onnxruntime is older than the opset of the cases")
    assert pruned > 60  # the property must not hold for lack of anything removed


@pytest.mark.slow
def test_every_operator_has_a_rule() -> None:
    """Each operator of each case is registered, at the version that the case imports."""
    lacking = set()
    for case in node_cases().values():
        for node in Graph(load(case.model).proto).nodes:
            inlined = any((f.domain, f.name) == (node.domain, node.op_type) for f in case.model.functions)
            known = registry.find(node.domain, node.op_type, node.opset) is not None
            if not known and not inlined and node.domain not in NO_RULE:
                lacking.add((node.domain, node.op_type))
    assert lacking == set()


@functools.cache
def standard_operators() -> set[tuple[str, str]]:
    return {("" if s.domain == "ai.onnx" else s.domain, s.name) for s in onnx.defs.get_all_schemas()}


def test_every_standard_operator_has_a_rule() -> None:
    """A new opset cannot slip in unnoticed."""
    lacking = {
        (domain, name)
        for domain, name in standard_operators()
        if domain not in NO_RULE and registry.find(domain, name, 10**6) is None
    }
    assert lacking == set()


@pytest.mark.slow
@pytest.mark.skipif(OLD_ONNX, reason="onnx lacks some of the cases")
def test_the_list_matches_cases() -> None:
    names = list(node_cases())
    assert [p for p in NOT_COMPARED if not fnmatch.filter(names, p)] == []
