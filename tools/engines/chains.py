"""Original and pruned model in every engine, and every tool before and after pruning."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import onnxprune
from onnxprune.errors import OnnxPruneError, RunError
from onnxprune.runtime.sample_inputs import candidate_sizes, sample_inputs
from onnxprune.runtime.session import session
from onnxprune.testing import assert_equivalent
from tools.engines import registry
from tools.engines.attempt import Failed, Feeds, converted, engine_outputs

SAMPLES = 4
MAX_ERROR = 0.01
"""Relative error of outputs up to which an engine computes the model; after pruning, three times its error before."""


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        model: Name of the model.
        chain: Name of the engine; of a tool followed by "then prune", or after "prune then".
        before: Error of the engine or the tool on the original, relative to onnxruntime; None where it fails.
        after: The same of the pruned model.
        why: What failed.
    """

    model: str
    chain: str
    before: float | None
    after: float | None
    why: str

    @property
    def verdict(self) -> str:
        """``both work``, ``both fail``, ``only before`` or ``only after``."""
        works = self.before is not None and self.before <= limit(None)
        if "quantize" in self.chain:  # an approximation, as good as the tool makes it
            works = self.before is not None
        still = self.after is not None and self.after <= limit(self.before if works else None)
        return {(True, True): "both work", (False, False): "both fail", (True, False): "only before"}.get(
            (works, still), "only after"
        )

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON."""
        return {**asdict(self), "verdict": self.verdict}


def limit(before: float | None) -> float:
    """The error that counts as working, given that on the original."""
    return max(MAX_ERROR, 3 * (before or 0))


def rows(models: Sequence[Path], names: Sequence[str], ratio: float) -> Iterator[Row]:
    """Compares models in the engines and tools of these names, see `Row`."""
    for path in models:
        with tempfile.TemporaryDirectory(prefix="onnxprune-engines-") as folder:
            yield from _Bench(path, Path(folder), ratio).rows(names)


class _Bench:
    """One model, its pruned version, inputs, and the outputs of both in onnxruntime."""

    def __init__(self, path: Path, folder: Path, ratio: float) -> None:
        self._name, self._folder, self._ratio = path.stem, folder, ratio
        self._original, self._pruned = path, folder / "pruned.onnx"
        onnxprune.prune(path, ratio=ratio, repair="none").save(self._pruned)
        self._samples = _samples(onnx.load(path))
        self._expected = {model: self._run(model) for model in (self._original, self._pruned)}

    def rows(self, names: Sequence[str]) -> Iterator[Row]:
        for name in names:
            if name in registry.ENGINES:
                yield self._engine(name)
            else:
                yield from self._tool(name)

    def _engine(self, name: str) -> Row:
        errors: list[float | None] = []
        why = ""
        for model in (self._original, self._pruned):
            try:
                found = engine_outputs(name, model, self._samples[0], self._folder / f"{name}-{model.stem}")
                errors.append(error(self._expected[model], found))
            except Failed as failure:
                errors.append(None)
                why = why or str(failure)
        return Row(self._name, name, errors[0], errors[1], why)

    def _tool(self, name: str) -> Iterator[Row]:
        """Both orders: the tool on the pruned model, and pruning of what the tool makes of the original."""
        made: dict[Path, Path] = {}
        errors: dict[Path, float | None] = dict.fromkeys(self._expected)
        why = ""
        for model, expected in self._expected.items():
            try:
                made[model] = converted(name, model, self._samples, self._folder / f"{name}-{model.stem}")
                errors[model] = error(expected, self._run(made[model]))
            except (Failed, RunError) as failure:
                why = why or str(failure)
        before = errors[self._original]
        yield Row(self._name, f"prune then {name}", before, errors[self._pruned], why)
        if before is None:
            yield Row(self._name, f"{name} then prune", None, None, why)
        else:
            yield Row(self._name, f"{name} then prune", before, *self._pruned_after(made[self._original]))

    def _pruned_after(self, model: Path) -> tuple[float | None, str]:
        """Masked equivalence of what pruning makes of a tool's result: 0, or None and what is wrong."""
        try:
            result = onnxprune.prune(model, ratio=self._ratio, repair="none")
            if not result.plan.removed:
                return None, f"nothing is pruned: {result.report.whole_because}"
            assert_equivalent(model, result, feeds=self._samples[0])
        except (OnnxPruneError, AssertionError) as failure:
            return None, str(failure)
        return 0.0, ""

    def _run(self, model: Path) -> list[np.ndarray]:
        return list(session(model).run(None, self._samples[0]))


def _samples(proto: onnx.ModelProto) -> list[Feeds]:
    """Made inputs of the first sizes that the model takes."""
    runner = session(proto)
    problem: RunError | None = None
    for sizes in candidate_sizes(proto):
        found = [sample_inputs(proto, seed=seed, sizes=sizes) for seed in range(SAMPLES)]
        try:
            runner.run(None, found[0])
        except RunError as failure:
            problem = problem or failure
        else:
            return found
    raise problem or ValueError("there are no sizes")


def error(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """Largest relative error (RMS of the difference over RMS) of the outputs, in order; axes of length 1 do not count.

    Raises:
        Failed: Their number or their shapes differ, whatever the order of axes.
    """
    if len(expected) != len(found):
        raise Failed(f"{len(found)} outputs instead of {len(expected)}")
    return max((_error(np.asarray(a), np.asarray(b)) for a, b in zip(expected, found, strict=True)), default=0.0)


def _error(expected: np.ndarray, found: np.ndarray) -> float:
    a, b = (np.squeeze(array).astype(np.float64) for array in (expected, found))
    if a.shape == b.shape:
        forms = [b]
    else:  # channels last
        forms = [form for form in (np.moveaxis(b, -1, axis) for axis in range(b.ndim)) if form.shape == a.shape]
    if not forms:
        raise Failed(f"an output has shape {list(found.shape)} instead of {list(expected.shape)}")
    finite = np.isfinite(a)
    gaps = [np.sqrt(np.mean(np.square((form - a)[finite]))) if finite.any() else 0.0 for form in forms]
    size = float(np.sqrt(np.mean(np.square(a[finite])))) if finite.any() else 1.0
    gap = float(np.nan_to_num(min(gaps), nan=np.inf))
    return gap / size if size else gap
