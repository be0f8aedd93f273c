"""temporary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

Feature = Literal["flat", "stats"]


def features(x: Tensor, kind: Feature) -> Tensor:
    """temporary."""
    return x.mean(dim=0).flatten()


def assign(looks: Tensor, num_clusters: int) -> list[int]:
    """temporary."""
    return [0] * looks.shape[1]


def follow(before: Mapping[int, int], labels: Mapping[int, int]) -> Mapping[int, int]:
    """temporary."""
    return labels
