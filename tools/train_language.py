"""Trains a small decoder on a made-up language and writes it as ONNX, with its data.

``python -m tools.train_language --out models/language`` takes some fifteen minutes on one CPU core; with ``--experts``
it trains a mixture of experts instead, in two.
"""

# Requirements (as used): torch==2.14.1 onnx==1.23.2 numpy==2.4.6

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional as F

from tools.decoder_graph import EPSILON, Shape, decoder, random_weights
from tools.language_text import WORDS, samples

SHAPE = Shape(vocabulary=len(WORDS), width=64, heads=8, keys=2, size=16, inner=160, layers=4, tied=True)
MIXTURE = replace(SHAPE, heads=4, inner=32, layers=3, experts=8, chosen=2)
BATCH, STEPS, MIXTURE_STEPS, RATE = 32, 1500, 600, 5e-3
BALANCE = 0.01
"""Weight of the loss that spreads tokens over experts."""
TRAINING, CALIBRATION, TEST = 16_384, 384, 256
"""Samples of each kind; they are of different seeds, and none is of another's."""


def forward(shape: Shape, weights: dict[str, Tensor], ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the decoder that `tools.decoder_graph` writes, and how unevenly experts are taken.

    Args:
        shape: Its sizes.
        weights: Its weights.
        ids: Tokens; shape (batch, length).
    """
    (batch, length), uneven = ids.shape, torch.zeros(())
    angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, shape.size, 2) / shape.size)
    cos, sin = (torch.cat([t, t], 1) for t in (angles.cos(), angles.sin()))

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt() * weights[name]

    def heads(x: Tensor, name: str, count: int) -> Tensor:
        return (x @ weights[name]).view(batch, length, count, shape.size).transpose(1, 2)

    def turned(x: Tensor) -> Tensor:
        low, high = x.chunk(2, -1)
        return x * cos + torch.cat([-high, low], -1) * sin

    x = weights["embed"][ids]
    for i in range(shape.layers):
        name = f"layers.{i}"
        y = norm(x, f"{name}.norm1")
        q, k = turned(heads(y, f"{name}.q", shape.heads)), turned(heads(y, f"{name}.k", shape.keys))
        v, times = heads(y, f"{name}.v", shape.keys), shape.heads // shape.keys
        k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, -1)
        x = x + a @ weights[f"{name}.o"]
        y = norm(x, f"{name}.norm2")
        gate, up, down = (weights[f"{name}.{part}"] for part in ("gate", "up", "down"))
        if shape.experts:
            shares = (y @ weights[f"{name}.router"]).softmax(-1)
            factors = taken(shares, shape.chosen)
            uneven = uneven + shape.experts * ((factors > 0).float().mean((0, 1)) * shares.mean((0, 1))).sum()
            wide = F.silu(torch.einsum("btd,edh->bteh", y, gate)) * torch.einsum("btd,edh->bteh", y, up)
            x = x + torch.einsum("bteh,ehd->btd", wide * factors[..., None], down)
        else:
            x = x + (F.silu(y @ gate) * (y @ up)) @ down
    return norm(x, "norm") @ weights["embed"].T, uneven


def taken(shares: Tensor, chosen: int) -> Tensor:
    """The factors of the experts that each token has, which sum to 1, and 0 for the others."""
    best = shares.topk(chosen, -1)
    found = torch.zeros_like(shares).scatter(-1, best.indices, best.values)
    return found / found.sum(-1, keepdim=True)


def trained(shape: Shape, steps: int) -> dict[str, np.ndarray]:
    """Weights after a number of steps of AdamW with a one-cycle schedule."""
    torch.manual_seed(0)
    start = random_weights(shape)
    start["embed"] *= 0.125  # the output layer has the same matrix: logits begin near one
    weights = {name: torch.from_numpy(array).requires_grad_() for name, array in start.items()}
    data = torch.from_numpy(samples(TRAINING, seed=1))
    optimiser = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for step in range(steps):
        ids = data[torch.randint(len(data), (BATCH,))]
        logits, uneven = forward(shape, weights, ids)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) + BALANCE * uneven
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: {loss.item():.4f}", flush=True)
    return {name: tensor.detach().numpy() for name, tensor in weights.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--experts", action="store_true", help="a mixture of experts, experts.onnx; no data")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    shape, name, steps = (MIXTURE, "experts", MIXTURE_STEPS) if given.experts else (SHAPE, "decoder", STEPS)
    onnx.save(decoder(shape, trained(shape, given.steps or steps), "plain"), given.out / f"{name}.onnx")
    if given.experts:
        return
    for name, count, seed in (("calib", CALIBRATION, 2), ("test", TEST, 3)):
        np.savez_compressed(given.out / f"{name}.npz", input_ids=samples(count, seed))


if __name__ == "__main__":
    main()
