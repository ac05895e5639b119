"""Repair without data: the refit of `calibrated`, on made-up inputs.

What a removed channel did is expressed by those that stay, as neuron merging (Kim et al., NeurIPS 2020) and LBYL (Yun
et al., "Leave before you leave", 2022) do, and folded into the consumers. These compare filters, which is to take all
inputs for white noise; here the channels themselves are compared, on inputs with the statistics of natural ones that
pass through the real model. Means follow through the biases (Nagel et al., "Data-free quantization", ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxprune.damage import relative_error
from onnxprune.model import Model
from onnxprune.repair import calibrated
from onnxprune.repair.calibrated import Kept, Refit
from onnxprune.repair.normalizations import aligned
from onnxprune.repair.synthetic import Feeds, synthetic
from onnxprune.runtime import session

PENALTIES = (1e-2, 1e-1, 3e-1)
"""Stronger than with data: what made-up inputs say of small directions is not to be trusted."""
JUDGES = 32
"""Samples that the models' outputs are compared on."""
MEMORY = 2**30


def repair(original: Model, pruned: Model, kept: Kept, *, seed: int = 0, count: int | None = None,
           input_shapes: Mapping[str, Sequence[int]] | None = None, memory: int = MEMORY) -> list[Refit]:
    """Refits the layers of a pruned model in place, without data.

    A layer whose fit is no better on samples held back stays as it is; where the outputs of the whole model are no
    nearer to the original's than before, on samples that no fit has seen, all layers stay as they are.

    Args:
        original: The model before pruning.
        pruned: The model after it.
        kept: Which output features of the original's layers stay, by the layer's name.
        seed: Seed of the inputs and of the places that are sampled.
        count: Samples to make; None for as many as the size of one suggests.
        input_shapes: Shapes by input name, where the model leaves them open.
        memory: Bytes of activations to hold, of both models together.
    """
    batches = synthetic(original, count, seed, input_shapes=input_shapes)
    judges, batches = _split(batches)
    plain = pruned.copy()
    with aligned(original, pruned, batches) as reference:
        done = calibrated.repair(reference, pruned, kept, batches, len(batches), seed=seed, memory=memory,
                                 penalties=PENALTIES)
    if any(r.penalty is not None for r in done) and not _nearer(original, plain, pruned, judges):
        pruned.proto.CopyFrom(plain.proto)
        done = [Refit(r.layer, None, r.before, r.before) for r in done]
    return done


def _split(batches: list[Feeds]) -> tuple[list[Feeds], list[Feeds]]:
    """Batches to judge by and batches to fit to; the same ones where there are few."""
    size = 0
    for i, feeds in enumerate(batches):
        size += max((a.shape[0] for a in feeds.values() if a.ndim), default=1)
        if size >= JUDGES and i + 1 < len(batches) // 2:
            return batches[:i + 1], batches[i + 1:]
    return batches, batches


def _nearer(original: Model, plain: Model, repaired: Model, batches: Sequence[Feeds]) -> bool:
    """Whether the repaired model's outputs are nearer to the original's than the unrepaired one's."""
    outputs = [[s.run(None, feeds) for feeds in batches] for s in map(session, (original, plain, repaired))]
    return relative_error(outputs[0], outputs[2]) < relative_error(outputs[0], outputs[1])
