"""Tools and engines that come before and after pruning: both orders work, for what is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.oracle import OLD_ONNX
from tests.support.paths import MODELS
from tools.engines import registry
from tools.engines.attempt import Failed
from tools.engines.chains import Row, error, rows
from tools.engines.table import markdown

WORKING = [("pt_resnet_bn", name) for name in registry.NAMES]
WORKING += [
    ("pt_transformer", name)
    for name in ("quantize_dynamic", "ort_transformers", "half", "ort_half", "slim", "simplify")
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "name"), WORKING)
def test_what_works_before_pruning_works_after(model: str, name: str) -> None:
    try:
        registry.versions(name)
    except LookupError as missing:
        pytest.skip(str(missing))
    if OLD_ONNX and (model, name) == ("pt_transformer", "quantize_dynamic"):
        pytest.skip("the quantiser refuses the original as well, by the shapes that this onnx infers")
    found = list(rows([MODELS / f"{model}.onnx"], [name], ratio=0.5))
    assert len(found) == (1 if name in registry.ENGINES else 2)
    assert {row.chain: row.verdict for row in found} == {row.chain: "both work" for row in found}, found


@pytest.mark.slow
def test_what_fails_says_why(tmp_path: Path) -> None:
    """A tool that cannot do anything with a model, before or after."""
    (bad,) = [row for row in rows([MODELS / "pt_resnet_bn.onnx"], ["broken"], 0.5) if row.chain == "broken then prune"]
    assert bad.verdict == "both fail" and "No module named 'tools.engines.broken'" in bad.why


def test_every_module_is_an_engine_or_a_tool() -> None:
    for name in registry.NAMES:
        module = registry.load(name)
        assert module.PACKAGES
        assert hasattr(module, "outputs" if name in registry.ENGINES else "convert")
    with pytest.raises(LookupError, match="not installed"):
        missing = type("Module", (), {"PACKAGES": ("no-such-distribution",)})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry, "load", lambda name: missing)
            registry.versions("slim")


@pytest.mark.parametrize(
    ("chain", "before", "after", "verdict"),
    [
        ("mnn", 1e-6, 1e-6, "both work"),
        ("mnn", 1e-6, 0.02, "only before"),
        ("mnn", 0.008, 0.02, "both work"),
        ("mnn", None, None, "both fail"),
        ("mnn", 0.5, 0.5, "both fail"),
        ("mnn", None, 1e-6, "only after"),
        ("mnn", 1e-6, None, "only before"),
        ("prune then quantize_dynamic", 0.05, 0.1, "both work"),
        ("prune then quantize_dynamic", 0.05, 0.2, "only before"),
    ],
)
def test_a_row_says_on_which_side_it_works(chain: str, before: float | None, after: float | None, verdict: str) -> None:
    assert Row("m", chain, before, after, "").verdict == verdict


def test_errors_do_not_depend_on_the_order_of_axes() -> None:
    a = np.random.default_rng(0).standard_normal((1, 3, 4, 5))
    assert error([a], [a]) == error([a], [np.moveaxis(a, 1, -1)]) == error([a], [a[0]]) == 0
    assert error([a], [1.1 * a]) == pytest.approx(0.1)
    assert error([a], [np.full_like(a, np.nan)]) == np.inf
    with pytest.raises(Failed, match="shape"):
        error([a], [a[:, :2]])
    with pytest.raises(Failed, match="2 outputs"):
        error([a], [a, a])


def test_tables_count_models_and_list_what_does_not_work() -> None:
    done = [Row("a", "slim then prune", 0.0, 0.0, ""), Row("b", "slim then prune", None, None, "no | such\nop")]
    text = markdown([row.as_dict() for row in done], {"slim": {"onnxslim": "1.0"}}, {"mnn": "MNN is not installed"})
    assert "| slim then prune | onnxslim 1.0 | 2 | 1 | 1 | 0 | 0 | 0 |" in text
    assert "| b | slim then prune | both fail | no / such op |" in text
    assert "| Model | slim |\n|---|---|\n| a | works |\n| b | fails |" in text
    assert text.endswith("Skipped: mnn, since MNN is not installed.")
