"""Images clipped to a norm before they are noised, so that a release has a formal bound."""

from __future__ import annotations

from torch import Tensor


def clip_to_norm(images: Tensor, norm: float) -> Tensor:
    """x_0 min(1, C / |x_0|): images whose norm is at most C = `norm` > 0 (PFDM, arXiv 2504.00952).

    Args:
        images: (n, channels, size, size).
        norm: C.
    """
    lengths = images.flatten(1).norm(dim=1).clamp(min=norm).view(-1, 1, 1, 1)
    clipped: Tensor = images * (norm / lengths)
    return clipped
