"""Re-identification: how often the image behind a release is found among all images of the federation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from collafuse_flwr.data.images import subsample_evenly
from collafuse_flwr.privacy.leakage_bounds import matched_filter

#: Images that are attacked: the standard error of the rate is at most 0.016, and large clients cost no more.
MAX_TARGETS = 1000


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


def reidentification_rate(
    candidates: Tensor, targets: Tensor, alpha_bar: float, *, releases: int, generator: torch.Generator
) -> float:
    """Success rate of the matched filter at naming the image behind its releases x_k; no attack does better.

    n releases of one image average to sqrt(alpha_bar) x_0 + sqrt((1 - alpha_bar) / n) eps, which is drawn here once
    for each target. Naming another candidate with the same pixels counts as a success.

    Args:
        candidates: (M, ...) the clean images that the attacker knows, equally likely.
        targets: (N,) int64, those of the candidates that were released; of more than 1000, as many at even distances.
        alpha_bar: of one release, in (0, 1].
        releases: n >= 1 noised copies of each image, with independent noise.
        generator: draws the noise.

    Raises:
        ValueError: `targets` is empty, `alpha_bar` is not in (0, 1], or `releases` is below 1.

    """
    if len(targets) < 1 or releases < 1:
        raise ValueError(f"`targets` has {len(targets)} images and `releases` is {releases}, both must be at least 1")
    if alpha_bar == 1:
        return 1.0
    targets = subsample_evenly(targets, MAX_TARGETS)
    x_0 = candidates[targets]
    noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
    mean = math.sqrt(alpha_bar) * x_0 + math.sqrt((1 - alpha_bar) / releases) * noise
    return reidentify(mean, candidates, targets, alpha_bar).rate
