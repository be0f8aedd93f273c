"""What settings mean for what images disclose: the norm they are clipped to, and how often they are released."""

from __future__ import annotations

import math

from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.diffusion.schedule import Schedule
from collafuse_flwr.privacy.accounting import Training
from collafuse_flwr.privacy.clipping import clip_to_norm


def norm_bound(config: Config, values: int) -> float:
    """C, the largest norm of an image of `values` values in [-1, 1] that is released: sqrt(values) without clipping."""
    return config.upload.clip_norm or config.spec.default_clip * math.sqrt(values)


def clipped_to(config: Config, values: int) -> float:
    """The norm that images of `values` values are clipped to; 0 where it is no less than they can have."""
    norm = norm_bound(config, values)
    return norm if norm < math.sqrt(values) else 0.0


def clip(config: Config, images: Tensor) -> Tensor:
    """Images in [-1, 1], shape (n, channels, size, size), as they are before they are noised.

    Without `upload.clip_norm` they are as they were, except under PFDM, whose own C is 3/4 sqrt(values).
    """
    norm = clipped_to(config, images[0].numel())
    return clip_to_norm(images, norm) if norm else images


def total_releases(config: Config) -> int:
    """Noised copies of each image that leave a client over the whole run, if it takes part in every round."""
    upload = config.upload
    copies = upload.draws_per_image * (1 if upload.noise == "fixed" else config.run.num_rounds)
    return min(copies, upload.max_releases) if upload.max_releases else copies


def noised_updates(config: Config, rounds: int = 1) -> list[Training]:
    """What clients noise the weights by that they send in so many rounds: the Gaussian mechanism on all their data."""
    own = config.averaging
    return [Training(own.noise_multiplier, 1.0, rounds)] if own.noise == "client" else []


def weight_protections(config: Config, *, dp_sgd: bool = True) -> set[str]:
    """Which values of a policy's `weights` a client's weights meet; `dp_sgd`: that all steps so far were of DP-SGD."""
    private = dp_sgd and config.dp.noise_multiplier > 0 and not config.spec.is_gan
    return {name for name, met in (("dp_sgd", private), ("client_dp", noised_updates(config))) if met}


def choose_cut(config: Config, schedule: Schedule, images: Tensor, client: int) -> int:
    """The smallest k in 1..T - 1 at which a client's images disclose at most `cut.target`, by `cut.criterion`.

    Raises:
        DataError: no cut discloses so little.
    """
    # Slow to import, for a deployed client at every message.
    from collafuse_flwr.privacy.cut_selection import DisclosureLimit, smallest_cut  # noqa: PLC0415

    limit = DisclosureLimit(
        config.cut.criterion,
        config.cut.target,
        releases=total_releases(config),
        clip_norm=norm_bound(config, images[0].numel()),
        delta=config.dp.delta,
        seed=config.run.seed,
    )
    return smallest_cut(limit, schedule, clip(config, images), client)
