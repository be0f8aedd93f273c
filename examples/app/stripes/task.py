"""What is one's own of the task: the images, and the network of both sides."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from collafuse_flwr.data.images import LazyImageDataset
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.diffusion.unet import ImageShape

CLASSES = ("lying", "standing")
COUNT, SIDE, WIDTH = 300, 8, 24


def load_stripes(_: DataConfig) -> LazyImageDataset:
    """300 greyscale images, 8 x 8, of stripes; `dataset` names it."""
    return LazyImageDataset(torch.arange(COUNT) % len(CLASSES), CLASSES, draw)


def draw(indices: Tensor) -> Tensor:
    """The images at some indices, (n, 1, 8, 8), uint8: waves of a random length and place."""
    images = []
    for index in indices.tolist():
        own = torch.Generator().manual_seed(index)
        length, place = torch.rand(2, generator=own).tolist()
        wave = torch.sin((2 + length) * torch.arange(SIDE) + 6.3 * place).expand(SIDE, SIDE)
        images.append((wave if index % len(CLASSES) else wave.T)[None])
    return (127.5 * (1 + torch.stack(images))).to(torch.uint8)


def denoiser(shape: ImageShape) -> nn.Module:
    """The factory of the network; `model` names it."""
    return Denoiser(shape)


class Denoiser(nn.Module):
    """(x_t, t, class) -> what the network predicts, of the shape of x_t."""

    def __init__(self, shape: ImageShape) -> None:
        super().__init__()
        self.step = nn.Sequential(nn.Linear(1, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.classes = nn.Embedding(max(1, shape.num_classes), WIDTH)
        self.first = nn.Conv2d(shape.channels, WIDTH, 3, padding=1)
        self.hidden = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(3))
        self.last = nn.Conv2d(WIDTH, shape.channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Args: x (n, channels, size, size), t int64 (n,) in 0..T-1, class_labels int64 (n,) or None."""
        embedding = self.step(t[:, None] / 100)
        if class_labels is not None:
            embedding = embedding + self.classes(class_labels)
        features = self.first(x)
        for layer in self.hidden:
            features = features + layer(silu(features + embedding[:, :, None, None]))
        result: Tensor = self.last(silu(features))
        return result
