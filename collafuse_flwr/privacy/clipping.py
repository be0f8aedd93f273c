"""Images clipped to a norm before they are noised, so that a release has a formal bound."""

from __future__ import annotations

import math

from torch import Tensor

from collafuse_flwr.config.config import Config


def norm_bound(config: Config, values: int) -> float:
    """C, the largest norm of an image of `values` values in [-1, 1] that is released: sqrt(values) without clipping."""
    return config.upload.clip_norm or config.spec.default_clip * math.sqrt(values)


def clipped_to(config: Config, values: int) -> float:
    """The norm that images of `values` values are clipped to; 0 where it is no less than they can have."""
    norm = norm_bound(config, values)
    return norm if norm < math.sqrt(values) else 0.0


def clip(config: Config, images: Tensor) -> Tensor:
    """x_0 min(1, C / |x_0|): images whose norm is at most C = `upload.clip_norm` (PFDM, arXiv 2504.00952).

    Without `upload.clip_norm` they are as they were, except under PFDM, whose own C is 3/4 sqrt(d).

    Args:
        config: the settings.
        images: (n, channels, size, size), d values each in [-1, 1], so that |x_0| <= sqrt(d).
    """
    norm = clipped_to(config, images[0].numel())
    if not norm:
        return images
    lengths = images.flatten(1).norm(dim=1).clamp(min=norm).view(-1, 1, 1, 1)
    clipped: Tensor = images * (norm / lengths)
    return clipped
