"""A smaller vocabulary: the stages of `onnxprune.cut_vocabulary`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.calibration.token_ids import counted, listed, most_frequent, special_ids
from onnxprune.cost.measure import measure
from onnxprune.edit.vocabulary import (
    Ids,
    Vocabulary,
    checked_ids,
    drop_words,
    find_vocabulary,
    other_readers,
    remap_inside,
    restore_places,
)
from onnxprune.errors import InputError, RunError, VerificationError, option
from onnxprune.extensions.registry import one_of
from onnxprune.graph.graph import Graph
from onnxprune.model.model import Model
from onnxprune.model.save import save
from onnxprune.options import checks
from onnxprune.pipeline.analysis import ModelSource
from onnxprune.pipeline.configuration import write_corrected
from onnxprune.pipeline.original import Original
from onnxprune.report.entries import Count
from onnxprune.report.vocabulary import VocabularyReport
from onnxprune.runtime.determinism import deterministic_run
from onnxprune.runtime.session import session
from onnxprune.verification.check import working_feeds
from onnxprune.verification.drift import Drift, drift

TOLERANCE = 1e-4
"""Relative RMS by which an output may be off on kept ids: sums of other lengths are rounded differently."""


class SmallVocabulary:
    """A model with a smaller vocabulary.

    Attributes:
        report: What was done.
        kept: The old ids that stay, ascending: the new id of each is its position. Shape (ids,).
    """

    def __init__(self, model: Model, report: VocabularyReport, kept: Ids) -> None:
        self._model, self.report, self.kept = model, report, kept

    def __repr__(self) -> str:
        return f"SmallVocabulary({self.report.tokens.before} -> {self.report.tokens.after} ids)"

    @property
    def model(self) -> onnx.ModelProto:
        """The model."""
        return self._model.proto

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model, whole or not at all, and configurations beside the original for it, see `Result.save`.

        Raises:
            InputError: The folder does not exist, or the path is that of the input.
            OutputError: Writing failed.
        """
        save(self._model, path)
        original = self._model.path
        if original is None:
            return
        words = self.report.tokens.after if self._gives_new else self.report.tokens.before
        self.report.notes[:] = write_corrected(original, self.model, Path(path), self.new_ids, words)
        if self.report.notes and self._numbers_differ:
            self.report.notes.append("configurations keep the old ids: inputs and outputs number words in two ways")

    @property
    def new_ids(self) -> dict[int, int] | None:
        """The new id of each kept one, where the model takes and gives new ids; None where either are the old ones."""
        if self._numbers_differ or not self._gives_new:
            return None
        return {int(old): new for new, old in enumerate(self.kept)}

    @property
    def _gives_new(self) -> bool:
        """Whether outputs number words by their new ids; those of a model that gives none by what it takes."""
        return self.report.logits == "kept" if self.report.outputs else self.report.remap == "outside"

    @property
    def _numbers_differ(self) -> bool:
        """Whether ids go in as they were and values come out in a new order, or the other way round."""
        return (self.report.remap == "outside") != self._gives_new

    def map_json(self) -> str:
        """The map of ids as JSON: ``kept``, the old id of each new one, and ``unknown``, the new id for all others."""
        unknown = self.report.unknown
        new = None if unknown is None else int(np.searchsorted(self.kept, unknown))
        return json.dumps({"kept": self.kept.tolist(), "unknown": new, "old_size": self.report.tokens.before}) + "\n"


def cut_vocabulary(
    model: ModelSource,
    keep: Sequence[int] | NDArray[Any] | str | os.PathLike[str],
    *,
    tokens: int | None = None,
    remap: str = "inside",
    logits: str = "kept",
    unknown: int | None = None,
    check: str | os.PathLike[str] | None = None,
    input: str | None = None,
    seed: int = 0,
) -> SmallVocabulary:
    """Drops ids from the vocabulary of a model: rows of its embedding and, tied or not, of its output layer.

    On texts of kept ids the model computes what it did, at the outputs that stay. Ids of special words that files
    beside the model name (``tokenizer.json``, ``config.json``, ``genai_config.json``) stay in any case.

    Args:
        model: The model: a path, a `ModelProto` or a `gs.Graph`; it is not changed.
        keep: The ids that stay, or a .txt file of them; or an .npz or .npy file with ``counts``, a number for each id,
            or with texts as arrays of ids, of which the ids that are used stay.
        tokens: Of ids from counts, how many stay at most: the most frequent ones.
        remap: ``inside``: the graph takes the old ids, which it maps by one Gather; ``outside``: it takes the new ones.
        logits: ``kept``: outputs have a value for each kept id; ``all``: for each old one, minus infinity if dropped.
        unknown: The id that dropped ones are taken for; None for the one that ``tokenizer.json`` names.
        check: An .npz or .npy file with texts as ids that were not used for `keep`: how many of theirs are dropped.
        input: The input that holds the ids; None for that of the largest table.
        seed: Seed of the ids that both models are compared on.

    Raises:
        InputError: The model has no vocabulary, or one that cannot get smaller, or an option is unusable.
        VerificationError: The result computes something else on kept ids.
    """
    one_of("remap", remap, ("inside", "outside"))
    one_of("logits", logits, ("kept", "all"))
    limit = None if tokens is None else checks.whole("tokens", tokens, 2)
    original = Original.of(model)
    changed = original.dense()
    graph = Graph(changed.proto)
    found, before = find_vocabulary(graph, input), measure(changed)
    special, named = special_ids(changed.path.parent if changed.path is not None else None, found.size)
    kept = checked_ids(_kept(keep, limit, found.size, special, unknown), found.size)
    stands = _unknown(unknown if unknown is not None else named, kept, remap)
    if remap == "outside":
        _check_only_looked_up(found, graph)
    drop_words(changed, graph, found, kept)
    if remap == "inside":
        assert stands is not None
        remap_inside(changed, found, kept, stands)
    if logits == "all":
        restore_places(changed, found, kept)
    after = measure(changed)
    report = VocabularyReport(
        Count(found.size, len(kept)),
        Count(before.params, after.params),
        Count(before.bytes, after.bytes),
        found.tables,
        found.inputs,
        [v.name for v in found.outputs],
        remap,
        logits,
        stands,
        None if check is None else _dropped_share(check, kept, found.size),
    )
    with deterministic_run():
        return SmallVocabulary(changed, _verified(report, original, changed, found, kept, seed), kept)


def _kept(
    keep: Sequence[int] | NDArray[Any] | str | os.PathLike[str],
    tokens: int | None,
    size: int,
    special: Ids,
    unknown: int | None,
) -> Ids:
    """The ids that stay; no text that is counted shows the unknown one."""
    if isinstance(keep, (str, os.PathLike)) and Path(keep).suffix in (".npz", ".npy"):
        always = special if unknown is None else np.union1d(special, unknown)
        return most_frequent(counted(keep, size), tokens, always)
    if tokens is not None:
        raise InputError("tokens limits ids that are counted, and these are listed", f"leave {option('tokens')} away")
    ids = np.asarray(listed(keep) if isinstance(keep, (str, os.PathLike)) else keep)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise InputError(f"the ids that stay must be whole numbers, not {ids.dtype} of shape {ids.shape}")
    return np.union1d(ids.astype(np.int64), special)


def _unknown(wanted: int | None, kept: Ids, remap: str) -> int | None:
    """The id that dropped ones are taken for; raises InputError where one is needed and there is none."""
    if wanted is not None and wanted in kept:
        return int(wanted)
    if wanted is not None:
        raise InputError(f"the unknown id {wanted} is not kept", f"keep it, or name another with {option('unknown')}")
    if remap == "inside":
        raise InputError(
            "nothing says which id dropped ones are taken for", f"give {option('unknown', 0)}, an id that is kept"
        )
    return None


def _check_only_looked_up(found: Vocabulary, graph: Graph) -> None:
    others = other_readers(found, graph)
    if others:
        raise InputError(
            f"{others[0].label} compares ids with old ones, or computes with them", f"give {option('remap', 'inside')}"
        )


def _dropped_share(check: str | os.PathLike[str], kept: Ids, size: int) -> float:
    counts = counted(check, size)
    total = float(counts.sum())
    return 1 - float(counts[kept].sum()) / total if total else 0.0


def _verified(
    report: VocabularyReport, original: Original, changed: Model, found: Vocabulary, kept: Ids, seed: int
) -> VocabularyReport:
    """The report with what a run of both models on kept ids gave.

    Raises:
        VerificationError: An output is another one, or the result does not run.
    """
    try:
        feeds, names = working_feeds(original.load())
    except InputError as error:
        return replace(report, unverified_because=str(error))
    rng = np.random.default_rng(seed)
    new = {name: rng.integers(0, len(kept), feeds[name].shape) for name in found.inputs}
    old = feeds | {name: kept[ids].astype(feeds[name].dtype) for name, ids in new.items()}
    given = feeds | {name: ids.astype(feeds[name].dtype) for name, ids in new.items()}
    expected = session(original.load()).run(names, old)
    try:
        actual = session(changed).run(names, old if report.remap == "inside" else given)
    except RunError as error:
        raise VerificationError(f"the model does not run in onnxruntime: {error}") from error
    drifts = _drifts(report, names, expected, actual, kept)
    other = [name for name, moved in drifts.items() if not moved.within(TOLERANCE)]
    if other:
        raise VerificationError(f"output {other[0]!r} is another one on kept ids")
    return replace(report, drift=drifts, verified=True)


def _drifts(
    report: VocabularyReport, names: Sequence[str], expected: Sequence[Any], actual: Sequence[Any], kept: Ids
) -> dict[str, Drift]:
    found = {}
    for name, a, b in zip(names, expected, actual, strict=True):
        if name in report.outputs:
            a, b = a[..., kept], b[..., kept] if report.logits == "all" else b
        found[name] = drift(a, b)
    return found
