"""A data set of one's own: images of squares, discs and crosses, drawn as they are read."""

from __future__ import annotations

import torch
from torch import Tensor

from collafuse_flwr.data.images import LazyImageDataset
from collafuse_flwr.data.settings import DataConfig

CLASSES = ("square", "disc", "cross")
COUNT, SIDE = 600, 16


def load_shapes(_: DataConfig) -> LazyImageDataset:
    """600 greyscale images, 16 x 16, of three classes; each shape has its own place, size and brightness."""
    labels = torch.arange(COUNT) % len(CLASSES)
    return LazyImageDataset(labels, CLASSES, lambda indices: torch.stack([_draw(int(i)) for i in indices]))


def _draw(index: int) -> Tensor:
    """The image at an index, always the same, (1, 16, 16), uint8."""
    own = torch.Generator().manual_seed(index)
    row, column = (int(torch.randint(6, SIDE - 6, (), generator=own)) for _ in range(2))
    radius = int(torch.randint(3, 6, (), generator=own))
    y, x = torch.meshgrid(torch.arange(SIDE) - row, torch.arange(SIDE) - column, indexing="ij")
    inside = {
        "square": (y.abs() < radius) & (x.abs() < radius),
        "disc": y.square() + x.square() < radius**2,
        "cross": (y.abs() < radius) & (x.abs() < radius) & ((y.abs() < 2) | (x.abs() < 2)),
    }[CLASSES[index % len(CLASSES)]]
    return (inside * torch.randint(128, 256, (), generator=own)).to(torch.uint8)[None]
