"""A denoiser of one's own: a few residual convolutions, conditioned on the step and the class."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from collafuse_flwr.diffusion.unet import ImageShape

WIDTH, BLOCKS = 16, 3


def residual(shape: ImageShape) -> nn.Module:
    """The factory that `model` names."""
    return Residual(shape)


class Residual(nn.Module):
    """(x_t, t, labels) -> what the network predicts, of the shape of x_t."""

    def __init__(self, shape: ImageShape) -> None:
        super().__init__()
        if shape.num_attributes:
            raise ValueError("this network knows no attributes")
        self.classes = nn.Embedding(shape.num_classes, WIDTH) if shape.num_classes else None
        self.first = nn.Conv2d(shape.channels, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(BLOCKS))
        self.last = nn.Conv2d(WIDTH, shape.channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Args: x (n, channels, size, size), t int64 (n,) in 0..T-1, class_labels int64 (n,) or None."""
        embedding = _sinusoidal(t)
        if self.classes is not None and class_labels is not None:
            embedding = embedding + self.classes(class_labels)
        features = self.first(x)
        for block in self.blocks:
            features = features + block(silu(features + embedding[:, :, None, None]))
        result: Tensor = self.last(silu(features))
        return result


def _sinusoidal(t: Tensor) -> Tensor:
    """The step as sines and cosines, (n, WIDTH)."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(WIDTH // 2, device=t.device) / (WIDTH // 2))
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
