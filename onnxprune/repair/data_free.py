"""Repair without data: the refit of `calibrated`, on synthetic inputs.

What a removed channel did is expressed by those that stay, as neuron merging (Kim et al., NeurIPS 2020) and LBYL (Yun
et al., "Leave before you leave", 2022) do, and folded into the consumers. These compare filters, which is to take all
inputs for white noise; here the channels themselves are compared, on inputs with the statistics of natural ones that
pass through the real model. Means follow through the biases (Nagel et al., "Data-free quantization", ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxprune.calibration.synthetic import Feeds, synthetic
from onnxprune.layers.find import convolutional
from onnxprune.model.model import Model
from onnxprune.repair import layerwise
from onnxprune.repair.batch_norm import aligned
from onnxprune.repair.kept_indices import KeptIndices
from onnxprune.repair.layerwise import Fitter, Refit, Ridge
from onnxprune.runtime.io_slices import WHOLE, IoSlices
from onnxprune.verification.output_error import relative_errors

PENALTIES = (1e-2, 1e-1, 3e-1)
"""Stronger than with data: what synthetic inputs say of small directions is not to be trusted."""
EXACT_PENALTIES, EXACT_SHARE = (1e-6, 1e-4, 1e-2), 0.01
"""Where synthetic inputs are not to be trusted: a refit must leave less than this share of the error."""
JUDGES = 32
"""Samples that the models' outputs are compared on."""
LARGEST = 2**25
"""Values of one feed from which on a repair without data is not tried unasked."""
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
    return synthetic(original, None, seed, input_shapes=input_shapes, varied=not convolutional(original))


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
) -> list[Refit]:
    """Refits the layers of a pruned model in place, without data.

    A layer whose fit is no better on held-out samples stays as it is; where the outputs of the whole model are no
    nearer to the original's than before, on samples that no fit has seen, all layers stay as they are. Convolutions
    see small patches, which synthetic inputs get right. Models that consist mainly of matrix products see inputs
    as a whole (words, sounds, tables), which nobody can make up: there a refit counts only if it explains nearly all
    that went, that is, where what was removed repeats what is left, whatever the inputs.

    Args:
        original: The model before pruning.
        pruned: The model after it.
        kept: What the pruned model has of the original's values.
        batches: Synthetic inputs, see `inputs`.
        seed: Seed of the sampled positions.
        memory: Bytes of activations to hold, of both models together.
        io_slices: What inputs and outputs of the pruned model lost.
        fitter: What fits the layers; by default ridge least squares.

    Raises:
        CannotCut: The model cannot be run in pieces.
    """
    local = convolutional(pruned)
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
    """Batches to judge by and batches to fit to; the same ones where there are few."""
    size = 0
    for i, feeds in enumerate(batches):
        size += max((a.shape[0] for a in feeds.values() if a.ndim), default=1)
        if size >= JUDGES and i + 1 < len(batches) // 2:
            return batches[: i + 1], batches[i + 1 :]
    return batches, batches
