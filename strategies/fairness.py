"""No client counts for more than a share, whatever it says of its images."""

from __future__ import annotations

from collections.abc import Mapping


def cap_weights(weights: Mapping[int, float], most: float) -> dict[int, float]:
    """Weights of which none is more than the share `most` of their sum; all alike where that is less than an equal one.

    The largest are lowered to v with v = most (j v + R), where j are lowered and R is the sum of the others: no more
    than it takes. At `most` = 1 they are as they were.
    """
    count = len(weights)
    if most >= 1 or not count:
        return dict(weights)
    if count * most <= 1:
        # The least, not a share: rows of a pool are counted by it.
        return dict.fromkeys(weights, min(weight for weight in weights.values() if weight > 0))
    falling = sorted(weights.values(), reverse=True)
    for lowered in range(count):
        rest = sum(falling[lowered:])
        level = most * rest / (1 - lowered * most)
        if falling[lowered] <= level:
            # With none lowered, none needs to be.
            return {client: min(weight, level) for client, weight in weights.items()} if lowered else dict(weights)
    raise ValueError(f"`weights` = {weights} must not be negative, nor all 0")
