"""Naming the images behind given releases."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from collafuse_flwr.privacy.leakage_bounds import matched_filter


@dataclass(frozen=True)
class Reidentification:
    """The share of releases whose image is named, in [0, 1], among so many candidates."""

    rate: float
    candidates: int

    @property
    def chance(self) -> float:
        """1 / N, the rate of a guess."""
        return 1 / self.candidates


def reidentify(received: Tensor, candidates: Tensor, truth: Tensor, alpha_bar: float) -> Reidentification:
    """Name the image behind each release by the matched filter; between equally likely candidates no attack is better.

    Between two candidates at distance D the rate is Phi(D sqrt(n snr) / 2). Naming another candidate with the same
    pixels counts as a success.

    Args:
        received: (n, ...) releases x_k, or the mean of several releases of each image.
        candidates: (N, ...) clean images that the attacker knows.
        truth: (n,) int64, the candidate behind each release.
        alpha_bar: of one release, in (0, 1].

    Raises:
        ValueError: `received` is empty, or `alpha_bar` is not in (0, 1].
    """
    if not len(received):
        raise ValueError("`received` holds nothing to attack")
    named = candidates[matched_filter(received, candidates, alpha_bar)]
    right = (named == candidates[truth]).flatten(1).all(dim=1)
    return Reidentification(right.double().mean().item(), len(candidates))
