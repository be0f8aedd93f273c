"""The smallest cut that discloses no more than `cut.target`."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import DataError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.diffusion.schedule import Schedule
from collafuse_flwr.privacy.accounting import epsilon, release_mu
from collafuse_flwr.privacy.clipping import clip, norm_bound
from collafuse_flwr.privacy.leakage_bounds import covariance_eigenvalues, gaussian_bits, snr_db
from collafuse_flwr.privacy.reidentification import reidentification_rate


def choose_cut(config: Config, schedule: Schedule, images: Tensor, client: int) -> int:
    """The smallest k in 1..T - 1 at which these images disclose at most the target that the settings name.

    More noise never discloses more, so k is found by bisection. Re-identification is simulated with the same noise at
    every k, among the client's own images: among more of them the rate is lower.

    Args:
        config: the settings, with a `cut.criterion` of disclosure and its `cut.target`.
        schedule: the global schedule.
        images: x_0 in [-1, 1], shape (n, channels, size, size), n >= 2: all that the client releases.
        client: its number, which names the stream of simulated noise.

    Returns:
        k.

    Raises:
        DataError: no cut discloses so little.
    """
    target = config.cut_target()
    if target is None:
        raise ValueError("the settings name no target")
    name, most = target
    disclosed = _measure(name, config, schedule, clip(config, images), client)
    steps = range(1, schedule.timesteps)
    # False up to the cut and True from there on is the order that bisect needs.
    found = bisect.bisect_left(steps, True, key=lambda k: disclosed(k) <= most)
    if found == len(steps):
        raise DataError(
            f"`cut.target` = {most:g} ({name}) cannot be met by client {client}: even at the last cut "
            f"before the end of the chain, {steps[-1]} of {schedule.timesteps}, "
            f"it is {disclosed(steps[-1]):.3g}; raise it, or choose strategy=local"
        )
    return steps[found]


def _measure(name: str, config: Config, schedule: Schedule, images: Tensor, client: int) -> Callable[[int], float]:
    """What all releases of an image disclose, as a function of k in 1..T - 1."""
    releases, alpha_bar, snr = total_releases(config), schedule.alpha_bar.tolist(), schedule.snr().tolist()
    if name == "snr_db":
        return lambda k: snr_db(alpha_bar[k])
    if name == "bits":
        eigenvalues = covariance_eigenvalues(images)
        return lambda k: gaussian_bits(snr[k], eigenvalues, releases=releases)
    if name == "epsilon":
        norm, delta = norm_bound(config, images[0].numel()), config.dp.delta
        return lambda k: epsilon(release_mu(snr[k], norm, releases=releases), delta)
    rate = partial(reidentification_rate, images, torch.arange(len(images)), releases=releases)
    return lambda k: rate(alpha_bar[k], generator=named_generator(config.run.seed, "cut_reid", client))


def total_releases(config: Config) -> int:
    """Noised copies of each image that leave a client over the whole run, if it takes part in every round."""
    upload = config.upload
    copies = upload.draws_per_image * (1 if upload.noise == "fixed" else config.run.num_rounds)
    return min(copies, upload.max_releases) if upload.max_releases else copies
