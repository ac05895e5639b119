"""Which widths are measured."""

from __future__ import annotations

import numpy as np
import pytest

import onnxprune
from onnxprune.allocation.widths import limits_of
from onnxprune.coupling.groups import Grade, Group
from onnxprune.timing.samples import CYCLE, sampled_widths
from tests.support.paths import MODELS


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    return [g for g in onnxprune.analyze(MODELS / "pt_resnet_bn.onnx").groups if g.grade == Grade.EXACT]


def test_every_group_keeps_some_and_is_seen_over_its_whole_range(groups: list[Group]) -> None:
    found = np.array(sampled_widths(groups, 48, 0))
    units = np.array([g.units for g in groups])
    assert found.shape == (48, len(groups)) and (found >= 0).all() and (found < units).all()
    assert (found.max(axis=0) >= 0.7 * units).all() and (found.min(axis=0) <= 0.2 * units).all()


def test_most_samples_share_a_multiple(groups: list[Group]) -> None:
    """Those with a number in the cycle: every width is a multiple of it, or as it was."""
    for i, removed in enumerate(sampled_widths(groups, 24, 3)):
        multiple = CYCLE[i % len(CYCLE)]
        if multiple is not None:
            limits = limits_of(groups, 1, multiple)
            for group, held, n in zip(groups, limits, removed.tolist(), strict=True):
                assert n == group.units - held.kept(group.units, n)


def test_some_widths_are_off_all_multiples(groups: list[Group]) -> None:
    kept = np.concatenate([[g.units for g in groups] - removed for removed in sampled_widths(groups, 48, 0)])
    assert (kept % 2 == 1).mean() > 0.05


def test_the_seed_decides(groups: list[Group]) -> None:
    one, same, other = (np.array(sampled_widths(groups, 8, seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert [len(x) for x in sampled_widths([], 3, 0)] == [0, 0, 0]
