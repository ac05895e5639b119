"""The PyTorch networks that `train_pytorch.py` trains: convolutional, attention and recurrent ones for 8x8 images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is projected by a 1x1 convolution where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, c_in, H, W] to [N, c_out, H / stride, W / stride]."""
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + self.shortcut(x))


class ResNet(nn.Module):
    """A small residual network, 32 channels at 8x8 pixels and then 64 at 4x4."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.blocks = nn.Sequential(ResidualBlock(32, 32), ResidualBlock(32, 64, 2), ResidualBlock(64, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, 1, 8, 8] to logits [N, 10]."""
        return self.head(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1).flatten(1))


class InvertedResidual(nn.Module):
    """Widen by a 1x1 convolution, filter each channel by itself, narrow again without an activation."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1, expansion: int = 4) -> None:
        super().__init__()
        wide = c_in * expansion
        self.body = nn.Sequential(
            nn.Conv2d(c_in, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.skip = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, c_in, H, W] to [N, c_out, H / stride, W / stride]."""
        return x + self.body(x) if self.skip else self.body(x)


class MobileNet(nn.Module):
    """Inverted residuals at 8x8 and then 4x4 pixels, closed by a wide 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, 1, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU6(),
            InvertedResidual(32, 32),
            InvertedResidual(32, 48, 2),
            InvertedResidual(48, 48),
            InvertedResidual(48, 64),
            InvertedResidual(64, 64),
            nn.Conv2d(64, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU6(),
        )
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, 1, 8, 8] to logits [N, 10]."""
        return self.head(self.features(x).mean(dim=(2, 3)))


class Attention(nn.Module):
    """Multi-head self-attention with separate projections for queries, keys and values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [N, T, dim] to [N, T, dim]."""
        projected = (layer(x) for layer in (self.query, self.key, self.value))
        q, k, v = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in projected)  # [N, heads, T, dim / heads]
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Attention and a GELU network, each normalised first and added to the stream of tokens."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [N, T, dim] to [N, T, dim]."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchTransformer(nn.Module):
    """A transformer over the sixteen 2x2 patches of a digit, averaged over the patches at the end."""

    def __init__(self, dim: int = 64, heads: int = 4, hidden: int = 256, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, dim, 2, 2)
        self.position = nn.Parameter(torch.randn(1, 16, dim) * 0.4)  # on the scale of the patches: learns faster
        self.layers = nn.Sequential(*(EncoderLayer(dim, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, 1, 8, 8] to logits [N, 10]."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.layers(tokens)).mean(dim=1))


class RowTransformer(nn.Module):
    """PyTorch's own encoder (packed projection, normalisation after the sum) over eight rows and a class token."""

    def __init__(self, dim: int = 64, heads: int = 4, hidden: int = 256, depth: int = 3) -> None:
        super().__init__()
        self.rows = nn.Linear(8, dim)
        self.token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.position = nn.Parameter(torch.randn(1, 9, dim) * 0.02)
        layer = nn.TransformerEncoderLayer(dim, heads, hidden, dropout=0.1, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, 1, 8, 8] to logits [N, 10]."""
        rows = self.rows(x.squeeze(1))
        tokens = torch.cat([self.token.expand(rows.shape[0], -1, -1), rows], dim=1) + self.position
        return self.head(self.encoder(tokens)[:, 0])


class RowLSTM(nn.Module):
    """A two-layer bidirectional LSTM that reads a digit row by row, averaged over the rows at the end."""

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Sequential(nn.Linear(2 * hidden, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, 1, 8, 8] to logits [N, 10]."""
        states, _ = self.lstm(x.squeeze(1))
        return self.head(states.mean(dim=1))
