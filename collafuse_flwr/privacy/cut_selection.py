"""The smallest cut that keeps to a limit of disclosure."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.diffusion.schedule import Schedule
from collafuse_flwr.privacy.accounting import epsilon, release_mu
from collafuse_flwr.privacy.leakage_bounds import covariance_eigenvalues, gaussian_bits, snr_db
from collafuse_flwr.privacy.reidentification import reidentification_rate


@dataclass(frozen=True)
class DisclosureLimit:
    """What all releases of an image may disclose.

    Attributes:
        criterion: snr_db, bits, epsilon or reid.
        target: its largest value.
        releases: noised copies of each image, n >= 1.
        clip_norm: C, the largest norm of an image.
        delta: of (epsilon, delta)-differential privacy.
        seed: names the stream of simulated noise.
    """

    criterion: str
    target: float
    releases: int
    clip_norm: float
    delta: float
    seed: int


def smallest_cut(limit: DisclosureLimit, schedule: Schedule, images: Tensor, client: int) -> int:
    """The smallest k in 1..T - 1 at which these images keep to the limit.

    More noise never discloses more, so k is found by bisection. Re-identification is simulated with the same noise at
    every k, among the client's own images: among more of them the rate is lower.

    Args:
        limit: the limit.
        schedule: the global schedule.
        images: x_0, clipped, shape (n, channels, size, size), n >= 2: all that the client releases.
        client: its number, which names the stream of simulated noise.

    Returns:
        k.

    Raises:
        DataError: no cut discloses so little.
    """
    disclosed = _measure(limit, schedule, images, client)
    steps = range(1, schedule.timesteps)
    # False up to the cut and True from there on is the order that bisect needs.
    index = bisect.bisect_left(steps, True, key=lambda k: disclosed(k) <= limit.target)
    if index == len(steps):
        raise DataError(
            f"`cut.target` = {limit.target:g} ({limit.criterion}) cannot be met by client {client}: even at the last "
            f"cut before the end of the chain, {steps[-1]} of {schedule.timesteps}, it is {disclosed(steps[-1]):.3g}; "
            "raise it, or choose strategy=local"
        )
    return steps[index]


def _measure(limit: DisclosureLimit, schedule: Schedule, images: Tensor, client: int) -> Callable[[int], float]:
    """What all releases of an image disclose, as a function of k in 1..T - 1."""
    releases, alpha_bar, snr = limit.releases, schedule.alpha_bar.tolist(), schedule.snr().tolist()
    if limit.criterion == "snr_db":
        return lambda k: snr_db(alpha_bar[k])
    if limit.criterion == "bits":
        eigenvalues = covariance_eigenvalues(images)
        return lambda k: gaussian_bits(snr[k], eigenvalues, releases=releases)
    if limit.criterion == "epsilon":
        return lambda k: epsilon(release_mu(snr[k], limit.clip_norm, releases=releases), limit.delta)
    if limit.criterion != "reid":
        raise ValueError(f"`criterion` = {limit.criterion} must be snr_db, bits, epsilon or reid")
    rate = partial(reidentification_rate, images, torch.arange(len(images)), releases=releases)
    return lambda k: rate(alpha_bar[k], generator=named_generator(limit.seed, "cut_reid", client))
