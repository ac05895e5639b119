"""Repair without data: the refit of `calibrated`, on synthetic inputs.

Removed channels are approximated by combinations of the kept ones, which are folded into the consumers, as in neuron
merging (Kim et al., NeurIPS 2020) and LBYL (Yun et al., "Leave before you leave", 2022). These compare filters, which
assumes that inputs are white noise; here the activations of channels are compared, on inputs with the statistics of
natural ones. Biases correct the means (Nagel et al., "Data-free quantization", ICCV 2019).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from onnxprune.calibration.synthetic import Feeds, synthetic
from onnxprune.cost.measure import mainly_convolutions
from onnxprune.model.model import Model
from onnxprune.repair import layerwise
from onnxprune.repair.batch_norm import aligned
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.repair.layerwise import Fitter, Refit, Ridge
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.verification.output_error import relative_errors

PENALTIES = (1e-2, 1e-1, 3e-1)
"""Ridges for convolutions; stronger than with data, since synthetic inputs estimate small directions badly."""
EXACT_PENALTIES, EXACT_SHARE = (1e-6, 1e-4, 1e-2), 0.01
"""The same for models of matrix products, where a refit must leave less than this share of the error."""
JUDGES, LARGEST_SHARE = 32, 0.4
"""Samples that the models' outputs are compared on, and the largest share of all where that is fewer."""
LARGEST = 2**25
"""Size of one feed above which ``repair=auto`` does not repair without data."""
MEMORY = 2**30


def inputs(original: Model, seed: int = 0, input_shapes: Mapping[str, Sequence[int]] | None = None) -> list[Feeds]:
    """Synthetic inputs for `repair`.

    Args:
        original: The model before pruning.
        seed: Seed of the inputs.
        input_shapes: Shapes by input name, where the model leaves them open.

    Raises:
        InputError: None can be made: a shape is not known, say.
    """
    varied = not mainly_convolutions(original, input_shapes)
    return synthetic(original, None, seed, input_shapes=input_shapes, varied=varied)


def repair(
    original: Model,
    pruned: Model,
    kept: KeptIndices,
    batches: Sequence[Feeds],
    *,
    seed: int = 0,
    memory: int = MEMORY,
    io_slices: IoSlices = WHOLE,
    fitter: Fitter | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> list[Refit]:
    """Refits the layers of a pruned model in place, without data.

    A layer whose fit is no better on held-out samples is left unchanged; where the outputs of the whole model are no
    nearer to the original's than before, on samples that no fit has seen, all layers are. Convolutions read small
    patches, whose statistics synthetic inputs have. Models that consist mainly of matrix products read whole inputs
    (words, sounds, tables), which cannot be synthesized: there a refit is accepted only if it leaves nearly no error,
    that is, where removed channels are redundant whatever the inputs.

    Args:
        original: The model before pruning.
        pruned: The model after it.
        kept: What the pruned model has of the original's values.
        batches: Synthetic inputs, see `inputs`.
        seed: Seed of the sampled positions.
        memory: Bytes of activations to hold, of both models together.
        io_slices: What inputs and outputs of the pruned model lost.
        fitter: What fits the layers; by default ridge least squares.
        input_shapes: Shapes by input name, where the model leaves them open.

    Raises:
        CannotCut: The model cannot be run in pieces.
    """
    local = mainly_convolutions(original, input_shapes)
    ridge = Ridge(PENALTIES) if local else Ridge(EXACT_PENALTIES, EXACT_SHARE)
    judges, batches = _split(batches)
    plain = pruned.copy()
    with aligned(original, pruned, batches, kept) as reference:
        before = pruned.copy()
        done = layerwise.repair(
            reference,
            pruned,
            kept,
            batches,
            len(batches),
            seed=seed,
            memory=memory,
            io_slices=io_slices,
            fitter=fitter or ridge,
        )
        was, now = relative_errors(reference, [before, pruned], judges, io_slices)
    if now >= was and any(r.penalty is not None for r in done):
        pruned.proto.CopyFrom(plain.proto)
        done = [Refit(r.layer, None, r.before, r.before) for r in done]
    return done


def _split(batches: Sequence[Feeds]) -> tuple[Sequence[Feeds], Sequence[Feeds]]:
    """Batches to compare outputs on and batches to fit to; the same ones where there are few.

    The first batches with `JUDGES` samples if these are fewer than half of the batches; else as many as there are up to
    `LARGEST_SHARE` of the samples, if that is half of `JUDGES`.
    """
    sizes = [max((a.shape[0] for a in feeds.values() if a.ndim), default=1) for feeds in batches]
    ends = list(itertools.accumulate(sizes))
    enough = next((i + 1 for i, end in enumerate(ends) if end >= JUDGES), len(batches))
    if enough < len(batches) // 2:
        return batches[:enough], batches[enough:]
    few = [i + 1 for i, end in enumerate(ends) if JUDGES // 2 <= end <= LARGEST_SHARE * ends[-1]]
    return (batches[: few[-1]], batches[few[-1] :]) if few else (batches, batches)
