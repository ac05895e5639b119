"""What calibration data add to the flow: damage curves, repair, and the drift on samples held back."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune import cost, damage, stats
from onnxprune.calibration import Progress, Samples, open_samples
from onnxprune.coupling import Coupling
from onnxprune.divergence import relative_errors
from onnxprune.errors import InputError
from onnxprune.groups import Group
from onnxprune.logits import scored
from onnxprune.model import Model
from onnxprune.narrowing import WHOLE, Narrowing
from onnxprune.observe import Batches, Moments, observe
from onnxprune.options import FROM_DATA, Options
from onnxprune.products import Product, products
from onnxprune.repair import calibrated, datafree, normalizations, recurrent, together
from onnxprune.repair.calibrated import Fitter
from onnxprune.repair.synthetic import Feeds
from onnxprune.resize import Lengths
from onnxprune.runtime import session
from onnxprune.scoring import Scores
from onnxprune.scoring.obs import Curve
from onnxprune.segments import CannotCut

logger = logging.getLogger(__name__)

HELD_BACK = 0.15
"""Share of the samples that neither scores nor repair see; the reported drift is measured on them."""
MEASURED_SHARE, MEASURED, MEASURED_MACS = 0.25, (32, 96), 1e12
"""Share of the samples to fit on that the heights of damage curves are measured with, how many at least and at most,
and the multiplications that all these runs together may take."""


MadeUp = Callable[[], list[Feeds]]
"""Makes inputs where there are no data, the first time that it is asked: scores and every repair have the same."""


@dataclass(frozen=True)
class Learned:
    """Calibration data, divided.

    Attributes:
        fit: What scores and repair learn from.
        held: What the report is measured on; the same as `fit` where there is one sample only.
        batches: How many batches `fit` has.
    """

    fit: Samples | _Made
    held: Samples | _Made
    batches: int


class _First:
    """The first batches of some samples, as often as they are asked for."""

    def __init__(self, samples: Samples | _Made, count: int) -> None:
        self._samples, self._count = samples, count

    def __iter__(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        seen = 0
        for feeds in self._samples.batches():
            yield feeds
            seen += max((len(v) for v in feeds.values() if v.ndim), default=1)
            if seen >= self._count:
                return


def open_data(model: Model, options: Options, progress: Progress | None = None) -> Learned | None:
    """The calibration data of a run, None where none are given; `progress` hears of every batch that is read.

    Raises:
        InputError: They cannot be read or do not fit the model.
    """
    if options.calib is None:
        return None
    samples = open_samples(options.calib, model.proto, limit=options.samples, seed=options.seed, progress=progress)
    fit, held = _divided(samples, HELD_BACK)
    logger.info("calibration data: %d samples, %d of them held back", samples.count, held.count)
    learned = Learned(fit, held, sum(1 for _ in fit.batches()))
    for feeds in itertools.islice(held.batches(), 1):
        session(model).run(None, feeds)  # before any piece of it: what does not run, or crashes, is told here
    return learned


def _divided(samples: Samples | _Made, share: float) -> tuple[Samples | _Made, Samples | _Made]:
    """Two disjoint parts, the second of this share; twice the same where there are too few."""
    return samples.split(share) if samples.parts > 1 else (samples, samples)


class _Made:
    """Made-up samples, held in memory."""

    labels = None

    def __init__(self, batches: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        self._batches = list(batches)

    def __iter__(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        return iter(self._batches)

    batches = __iter__

    @property
    def count(self) -> int:
        """How many samples."""
        return sum(max((len(v) for v in feeds.values() if v.ndim), default=1) for feeds in self._batches)

    @property
    def parts(self) -> int:
        """Into how many parts they can be split: batches stay whole."""
        return len(self._batches)

    def split(self, fraction: float) -> tuple[_Made, _Made]:
        """Two disjoint parts, the second of this share."""
        back = min(self.parts - 1, max(1, round(fraction * self.parts)))
        return _Made(self._batches[:-back]), _Made(self._batches[-back:])


@contextmanager
def looked_at(model: Model, data: Learned | None, options: Options,
              made_up: MadeUp) -> Iterator[tuple[Model, Learned | None, Options]]:
    """What scores are read from: model, data and options; without data made-up inputs take their place.

    Convolutions look at small patches, which made-up inputs get right; models that consist mainly of matrix products
    are scored by their weights alone, see `repair.datafree`. Normalizations have, while this lasts, the statistics
    of what is made up.

    Raises:
        InputError: Inputs are to be made, and cannot be: a shape is not known, say.
    """
    if data is not None or options.stats is not None or options.criterion not in FROM_DATA:
        yield model, data, options
        return
    if not datafree.convolutional(model):
        yield model, None, replace(options, importance="l2")
        return
    made = _Made(made_up())
    with normalizations.aligned(model, model.copy(), made) as reference:
        yield reference, Learned(made, made, made.parts), options


def settled(model: Model, options: Options) -> tuple[Options, str | None]:
    """The options with a repair other than ``auto``, and why that is none, where inputs were to be made for it."""
    if options.repair != "auto":
        return options, None
    if options.calib is not None or not options.channels:
        return replace(options, repair="none" if options.calib is None else "calibrated"), None
    why = datafree.hopeless(model, options.input_shapes or None)
    logger.info("repair: %s", "data-free" if why is None else f"none, since {why}")
    return replace(options, repair="data-free" if why is None else "none"), why


def moments(model: Model, coupling: Coupling, data: Learned | None, options: Options,
            narrowing: Narrowing = WHOLE, *, first: bool = True) -> dict[str, Moments]:
    """Moments of what the product layers read, on the samples that damage is not measured with.

    Args:
        model: The model to look at.
        coupling: Its analysis.
        data: Calibration data; None where there are statistics only.
        options: Where `stats` names a file that exists, the moments are those in it; one that does not is written.
        narrowing: What inputs of the model lost already.
        first: Whether the model is the one that was given, which statistics in a file are of.
    """
    layers = products(coupling.graph)
    stored = Path(options.stats) if options.stats is not None and first else None
    if stored is not None and stored.exists():
        return stats.read(stored, model, layers)
    assert data is not None
    seen, _ = _divided(data.fit, MEASURED_SHARE)
    try:
        found = observe(model, layers, narrowing.batches(seen), count=sum(1 for _ in seen.batches()), seed=options.seed,
                        memory=options.memory)
    except CannotCut as e:
        raise InputError(f"the model cannot be run in pieces: {e}", "leave --calib away") from e
    if stored is not None:
        stats.write(stored, model, layers, found)
        return stats.read(stored, model, layers)
    return found


def curves(model: Model, coupling: Coupling, groups: Sequence[Group], data: Learned | None, seen: Mapping[str, Moments],
           fallback: Sequence[Scores], options: Options, narrowing: Narrowing = WHOLE) -> list[Curve]:
    """The damage curve of each group, see `damage.curves`; heights only where groups are weighed against each other."""
    layers = products(coupling.graph)
    keep = [min(options.min_channels, g.units) for g in groups]
    batches: Batches = ()
    if data is not None and (options.target or options.across):
        batches = unseen(model, data, options, narrowing, runs=len(groups) * len(damage.PROBES))
    return damage.curves(model, coupling, groups, layers, seen, fallback, keep, batches, memory=options.memory)


def unseen(model: Model, data: Learned, options: Options, narrowing: Narrowing, *, runs: int) -> Batches:
    """Samples that the moments know nothing of, few enough to run the model on them so many times."""
    _, left = _divided(data.fit, MEASURED_SHARE)
    macs = cost.measure(model, narrowing.shapes(options.input_shapes)).macs or 0
    enough = np.clip(MEASURED_MACS / max(macs * runs, 1), *MEASURED)
    return narrowing.batches(_First(left, int(enough)))


def kept_features(coupling: Coupling, gone: NDArray[np.bool_]) -> dict[str, NDArray[np.int64]]:
    """Which output features of each product layer, or units of each recurrent one, stay, by the layer's name."""
    lengths = Lengths(coupling, gone)
    kept = {layer.name: lengths.kept(layer.output.axis(layer.out_axis)) for layer in products(coupling.graph)
            if _has_features(layer)}
    return kept | {cell.name: lengths.kept(cell.recurrence.axis(2)) for cell in recurrent.cells(coupling.graph)}


def _has_features(layer: Product) -> bool:
    """Whether the output is known to have the features that the layer makes: a model may declare what is not so."""
    shape = layer.output.shape or []
    return -len(shape) <= layer.out_axis < len(shape) and shape[layer.out_axis] == layer.features[1]


def repair(original: Model, pruned: Model, kept: Mapping[str, NDArray[np.int64]], data: Learned | None,
           options: Options, narrowing: Narrowing, made_up: MadeUp, *, fitter: Fitter | None = None,
           plain: Model | None = None) -> list[dict[str, Any]]:
    """Refits the pruned model in place; what the report says of each layer.

    Running statistics follow in the end. What does not bring the outputs nearer to the original's, on the data that it
    was made from, is taken back: each layer may be nearer to what it made, and still the errors add up.

    Args:
        original: The model before pruning.
        pruned: The model after it.
        kept: Which output features of the original's layers stay, by the layer's name.
        data: Calibration data.
        options: How to repair.
        narrowing: What inputs and outputs of the pruned model lost.
        made_up: Makes inputs, where there are no data.
        fitter: What fits a product layer; by default least squares.
        plain: What to fall back to; by default the pruned model as it is.
    """
    plain = pruned.copy() if plain is None else plain
    try:
        if data is None or options.repair == "data-free":
            done = datafree.repair(original, pruned, kept, made_up(), seed=options.seed, memory=options.memory,
                                   narrowing=narrowing, fitter=fitter)
        else:
            done = calibrated.repair(original, pruned, kept, data.fit, data.batches, seed=options.seed,
                                     memory=options.memory, narrowing=narrowing, fitter=fitter)
        if data is not None and options.repair == "calibrated":
            versions, names = [plain, pruned.copy()], ["pruned", "refitted"]
            if fitter is None:
                done += together.repair(original, pruned, kept, data.fit, seed=options.seed, memory=options.memory,
                                        narrowing=narrowing)
                versions.append(pruned.copy())
                names.append("refitted together")
            if normalizations.reestimate(original, pruned, data.fit, narrowing):
                versions.append(pruned.copy())
                names.append("with new running statistics")
            errors = relative_errors(original, versions, data.fit.batches(), narrowing)
            best = int(np.argmin(errors))  # of equals the first: what changes nothing is left out
            pruned.proto.CopyFrom(versions[best].proto)
            logger.info("squared error of the outputs: %s; %s is taken",
                        ", ".join(f"{error:.3g} {how}" for how, error in zip(names, errors, strict=True)), names[best])
            if best == 0:
                done = [replace(r, penalty=None, after=r.before) for r in done]
    except CannotCut as e:
        raise InputError(f"the model cannot be run in pieces: {e}", "repair needs that: use --repair none") from e
    return [asdict(r) for r in done]


def judge(original: Model, pruned: Model, data: Learned, narrowing: Narrowing) -> dict[str, Any]:
    """What the samples held back say: the outputs' relative squared error and, with labels, top-1 and top-5."""
    error, = relative_errors(original, [pruned], data.held.batches(), narrowing)
    found: dict[str, Any] = {"samples": data.held.count, "relative_error": error}
    labels = data.held.labels
    if labels is not None:
        pairs = [(model, narrow.batches(data.held)) for model, narrow in ((original, WHOLE), (pruned, narrowing))]
        before, after = ([batch[0] for batch in session(scored(m)).each(batches)] for m, batches in pairs)
        found["top1"] = {"before": _top(before, labels, 1), "after": _top(after, labels, 1)}
        found["top5"] = {"before": _top(before, labels, 5), "after": _top(after, labels, 5)}
    return found


def _top(scores: Sequence[NDArray[Any]], labels: NDArray[Any], k: int) -> float | None:
    """Share of samples whose label is among the k largest; None where there is no score a class."""
    if not all(batch.ndim for batch in scores):
        return None
    flat = np.concatenate([batch.reshape(len(batch), -1) for batch in scores])
    wanted = np.asarray(labels).reshape(-1)
    if len(flat) != len(wanted) or flat.shape[1] <= k or wanted.dtype.kind not in "iu":
        return None
    best = np.argpartition(-flat, k, axis=1)[:, :k]
    return float((best == wanted[:, None]).any(axis=1).mean())
