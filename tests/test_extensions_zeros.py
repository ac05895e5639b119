"""Criteria from outside choose zeros as built-in ones do: with and without data, with and without a refit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import onnxprune
from onnxprune.errors import InputError
from onnxprune.extensions.points import criteria
from tests.support import outside
from tests.support.commands import Cli, assert_refused


def largest_first(weight: onnxprune.WeightView) -> NDArray[np.float64]:
    """The larger an element, the sooner it is zero: nothing of ours would choose so."""
    assert weight.input_rms is None
    return -np.abs(weight.values)


def by_input(weight: onnxprune.WeightView) -> NDArray[np.float64]:
    """What is multiplied with large inputs stays, whatever its size."""
    assert weight.input_rms is not None
    return np.broadcast_to(weight.input_rms, weight.values.shape)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    onnxprune.zero_criterion("largest-first")(largest_first)
    onnxprune.zero_criterion("by-input", needs="moments")(by_input)
    yield
    for name in ("largest-first", "by-input", "both"):
        criteria.remove(name)


def data() -> dict[str, NDArray[np.float32]]:
    """Inputs of which the even ones are small."""
    x = np.random.default_rng(0).standard_normal((256, 6)).astype(np.float32)
    x[:, ::2] /= 100
    return {"x": x}


def weights(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"repair": "none"},
        {"calib": data(), "repair": "none"},
        {"calib": data(), "repair": "calibrated"},
        {"repair": "data-free"},
    ],
)
def test_elements_are_chosen_by_weights(options: dict[str, Any]) -> None:
    made = onnxprune.prune(outside.net(), pattern="weights=0.5", importance="largest-first", **options)
    before, after = weights(outside.net()), weights(made.proto)
    for name in ("w", "v"):
        magnitude = np.abs(before[name])
        assert ((after[name] == 0) == (magnitude >= np.median(magnitude))).all()
    assert made.report.resolved is not None and made.report.resolved.zeros == "largest-first"


def test_a_pattern_holds_whatever_the_criterion() -> None:
    made = onnxprune.prune(outside.net(), pattern="2:4", importance="largest-first", repair="none")
    before, after = (w["v"].reshape(4, 4, 3) for w in (weights(outside.net()), weights(made.proto)))
    assert ((after == 0).sum(axis=1) == 2).all()
    kept = np.where(after == 0, np.inf, np.abs(before)).min(axis=1)
    assert (np.where(after == 0, np.abs(before), 0).max(axis=1) >= kept).all()
    assert (np.abs(before)[after != 0].mean()) < np.abs(before)[after == 0].mean()


@pytest.mark.slow
@pytest.mark.parametrize("repair", ["none", "calibrated"])
def test_elements_are_chosen_by_inputs(repair: str) -> None:
    made = onnxprune.prune(
        outside.net(), pattern="1:2", importance="by-input", calib=data(), repair=repair, global_ranking=False
    )
    rows = weights(made.proto)["w"]
    assert (rows[::2] == 0).all() and (rows[1::2] != 0).all()


def test_across_weights() -> None:
    """All elements are ranked together: the layer whose scores are low as a whole gives all."""

    @onnxprune.zero_criterion("both")
    def smaller_tensor_first(weight: onnxprune.WeightView) -> NDArray[np.float64]:
        scores = np.full(weight.values.shape, 2.0 if weight.values.size > 60 else 1.0)
        scores.flat[0] = 1e6  # what a tensor is scaled by
        return scores

    made = onnxprune.prune(
        outside.net(), pattern="weights=0.4", importance="both", repair="none", global_ranking=True
    ).proto
    assert (weights(made)["w"] == 0).sum() + (weights(made)["v"] == 0).sum() == int(0.4 * (6 * 16 + 16 * 3))


def test_one_name_for_channels_and_zeros(cli: Cli, tmp_path: Path) -> None:
    onnxprune.zero_criterion("both")(largest_first)
    onnxprune.criterion("both")(outside.last_goes)
    path = outside.saved(tmp_path)
    made = onnxprune.prune(path, 0.5, pattern=["channels", "2:4"], importance="both", repair="none")
    assert made.plan.removed["w"] == {"1": list(range(8, 16))}
    left = np.abs(weights(outside.net())["v"][:8]).reshape(2, 4, 3)
    zero = weights(made.proto)["v"].reshape(2, 4, 3) == 0
    assert (np.sort(np.where(zero, left, 0), axis=1)[:, 2:] == np.sort(left, axis=1)[:, 2:]).all()
    ended = cli(
        path, "--ratio", 0.5, "--pattern", "channels", "--pattern", "2:4", "--importance", "both", "--repair", "none"
    )
    assert ended.code == 0 and onnx.load(tmp_path / "net.pruned.onnx") == made.proto  # fmt: skip


@pytest.mark.slow
def test_a_function_is_known_by_its_name() -> None:
    by_name, by_function = (
        onnxprune.prune(outside.net(), pattern="2:4", importance=i, repair="none").proto
        for i in ("largest-first", largest_first)
    )
    assert by_name == by_function


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (lambda w: w.values[0], "a number for each element of a weight of shape"),
        (lambda w: np.full(w.values.shape, np.nan), "with NaN"),
        (lambda w: np.full(w.values.shape, "x"), "a number for each element"),
        (lambda w: w.nothing, "'both', which was added to onnxprune, failed: AttributeError"),
    ],
)
def test_scores_that_are_none_are_refused(found: Any, said: str) -> None:
    onnxprune.zero_criterion("both")(found)
    with pytest.raises(InputError, match=said):
        onnxprune.prune(outside.net(), pattern="2:4", importance="both", repair="none")


def test_what_has_a_meaning_of_its_own_is_refused() -> None:
    for name in ("l2", "wanda", "obs", "alps"):
        with pytest.raises(InputError, match=f"'{name}' is the package's own"):
            onnxprune.zero_criterion(name)(largest_first)
    onnxprune.criterion("both")(outside.last_goes)
    with pytest.raises(InputError, match="needs weights for channels, and would need moments for zeros"):
        onnxprune.zero_criterion("both", needs="moments")(by_input)
    with pytest.raises(InputError, match="a criterion needs 'weights', 'moments' or 'gradients'"):
        onnxprune.zero_criterion("both", needs="data")  # type: ignore[arg-type]


def test_requests_that_are_refused(cli: Cli, tmp_path: Path) -> None:
    path = outside.saved(tmp_path)
    asked = assert_refused(cli(path, "--ratio", 0.5, "--importance", "largest-first"))
    assert "importance 'largest-first' chooses zeros, not channels" in asked
    missing = assert_refused(cli(path, "--pattern", "2:4", "--importance", "by-input"))
    assert "importance 'by-input' needs calibration data" in missing
