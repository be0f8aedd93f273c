"""A GAN of one's own: dense blocks, which any strategy of GANs trains and the split GAN cuts."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from collafuse_flwr.diffusion.unet import ImageShape
from collafuse_flwr.gan.networks import LATENT, Architecture, Block

WIDTH, LABEL = 64, 8


def dense(shape: ImageShape) -> Architecture:
    """The factory that `model` names."""
    image = shape.channels, shape.size, shape.size
    values = math.prod(image)
    generator = (
        Block("codes", lambda: Conditioned(LATENT, shape.num_classes)),
        Block("hidden", lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU())),
        Block("image", lambda: nn.Sequential(nn.Linear(WIDTH, values), nn.Tanh(), nn.Unflatten(1, image))),
    )
    discriminator = (
        Block("images", lambda: Conditioned(values, shape.num_classes)),
        Block("hidden", lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2))),
        Block("logit", lambda: nn.Linear(WIDTH, 1)),
    )
    return Architecture(shape.channels, shape.size, shape.num_classes, generator, discriminator)


class Conditioned(nn.Module):
    """(codes or images, labels) -> features, (n, WIDTH): the first block of either net."""

    def __init__(self, values: int, num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, LABEL)
        self.linear = nn.Linear(values + LABEL, WIDTH)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Args: x (n, ...), labels int64 (n,)."""
        inputs = torch.cat([x.flatten(1), self.embedding(labels)], dim=1)
        return nn.functional.leaky_relu(self.linear(inputs), 0.2)
