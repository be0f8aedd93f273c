"""Memorization: whether generated images repeat training images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 256  # samples whose distances are held at once


@dataclass(frozen=True)
class Memorization:
    """Samples nearer to a training than to a held-out image (share in [0, 1]), and the ratio of both distances.

    `chance` is the share without memory: of n training and m held-out images that are alike the nearest is a training
    image with probability n / (n + m). `ratio` is the median of distance to the nearest training image over distance
    to the nearest held-out image, among equally many of both; without memory it is about 1.
    """

    share: float
    chance: float
    ratio: float


def memorization(samples: Tensor, training: Tensor, held_out: Tensor, generator: torch.Generator) -> Memorization:
    """Compare the distances in pixels of generated images to what was, and what was not, trained on.

    Args:
        samples: (s, ...) generated images, s >= 1.
        training: (n, ...) n >= 1.
        held_out: (m, ...) images of the same law that were not trained on, m >= 1.
        generator: draws the equally many.
    """
    fewer = min(len(training), len(held_out))
    seen = training[torch.randperm(len(training), generator=generator)[:fewer]]
    unseen = held_out[torch.randperm(len(held_out), generator=generator)[:fewer]]
    to_training, to_held_out = _nearest(samples, training), _nearest(samples, held_out)
    nearer = (to_training < to_held_out).double() + (to_training == to_held_out).double() / 2
    ratio = _nearest(samples, seen) / _nearest(samples, unseen).clamp(min=torch.finfo(samples.dtype).tiny)
    chance = len(training) / (len(training) + len(held_out))
    return Memorization(nearer.mean().item(), chance, ratio.median().item())


def _nearest(samples: Tensor, images: Tensor) -> Tensor:
    """The distance of each sample to the nearest image, (s,)."""
    flat = images.flatten(1)
    return torch.cat([torch.cdist(block, flat).amin(dim=1) for block in samples.flatten(1).split(_BLOCK)])
