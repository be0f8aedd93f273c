"""Images clipped to a norm before they are noised, so that a release has a formal bound."""

from __future__ import annotations

import math

from torch import Tensor

from collafuse_flwr.config.config import Config

#: PFDM's norm for images of d values, in sqrt(d): that of an image at three quarters of full contrast.
PFDM_CLIP = 0.75


def norm_bound(config: Config, values: int) -> float:
    """C, the largest norm of an image of `values` values in [-1, 1] that is released: sqrt(values) without clipping."""
    default = PFDM_CLIP if config.run.strategy == "pfdm" else 1.0
    return config.split.clip_norm or default * math.sqrt(values)


def clip(config: Config, images: Tensor) -> Tensor:
    """x_0 min(1, C / |x_0|): images whose norm is at most C = `clip_norm` (PFDM, arXiv 2504.00952).

    Without `clip_norm` they are as they were, except under PFDM, whose own C is 3/4 sqrt(d).

    Args:
        config: the settings.
        images: (n, channels, size, size), d values each in [-1, 1], so that |x_0| <= sqrt(d).
    """
    norm, values = norm_bound(config, images[0].numel()), images[0].numel()
    if norm >= math.sqrt(values):
        return images
    lengths = images.flatten(1).norm(dim=1).clamp(min=norm).view(-1, 1, 1, 1)
    clipped: Tensor = images * (norm / lengths)
    return clipped
