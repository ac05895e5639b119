"""Trains a small decoder on a made-up language and writes it as ONNX, with its data.

``python -m tools.train_language --out models/language`` takes some fifteen minutes on one CPU core.
"""

# Requirements (as used): torch==2.14.1 onnx==1.23.2 numpy==2.4.6

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional as F

from tools.decoder_graph import EPSILON, Shape, decoder, random_weights
from tools.language_text import WORDS, samples

SHAPE = Shape(vocabulary=len(WORDS), width=64, heads=8, keys=2, size=16, inner=160, layers=4, tied=True)
BATCH, STEPS, RATE = 32, 1500, 5e-3
TRAINING, CALIBRATION, TEST = 16_384, 384, 256
"""Samples of each kind; they are of different seeds, and none is of another's."""


def forward(weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Logits of the decoder that `tools.decoder_graph` writes; ids of shape (batch, length)."""
    batch, length = ids.shape
    angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, SHAPE.size, 2) / SHAPE.size)
    cos, sin = (torch.cat([t, t], 1) for t in (angles.cos(), angles.sin()))

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt() * weights[name]

    def heads(x: Tensor, name: str, count: int) -> Tensor:
        return (x @ weights[name]).view(batch, length, count, SHAPE.size).transpose(1, 2)

    def turned(x: Tensor) -> Tensor:
        low, high = x.chunk(2, -1)
        return x * cos + torch.cat([-high, low], -1) * sin

    x = weights["embed"][ids]
    for i in range(SHAPE.layers):
        name = f"layers.{i}"
        y = norm(x, f"{name}.norm1")
        q, k = turned(heads(y, f"{name}.q", SHAPE.heads)), turned(heads(y, f"{name}.k", SHAPE.keys))
        v, times = heads(y, f"{name}.v", SHAPE.keys), SHAPE.heads // SHAPE.keys
        k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, -1)
        x = x + a @ weights[f"{name}.o"]
        y = norm(x, f"{name}.norm2")
        x = x + (F.silu(y @ weights[f"{name}.gate"]) * (y @ weights[f"{name}.up"])) @ weights[f"{name}.down"]
    return norm(x, "norm") @ weights["embed"].T


def trained(steps: int) -> dict[str, np.ndarray]:
    """Weights after a number of steps of AdamW with a one-cycle schedule."""
    torch.manual_seed(0)
    start = random_weights(SHAPE)
    start["embed"] *= 0.125  # the output layer has the same matrix: logits begin near one
    weights = {name: torch.from_numpy(array).requires_grad_() for name, array in start.items()}
    data = torch.from_numpy(samples(TRAINING, seed=1))
    optimiser = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for step in range(steps):
        ids = data[torch.randint(len(data), (BATCH,))]
        loss = F.cross_entropy(forward(weights, ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
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
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    onnx.save(decoder(SHAPE, trained(given.steps), "plain"), given.out / "decoder.onnx")
    for name, count, seed in (("calib", CALIBRATION, 2), ("test", TEST, 3)):
        np.savez_compressed(given.out / f"{name}.npz", input_ids=samples(count, seed))


if __name__ == "__main__":
    main()
