"""What all that has left a client tells together, of one image and of the client."""

from __future__ import annotations

import math
from dataclasses import dataclass

from collafuse_flwr.privacy.accounting import Training, composed_epsilon


@dataclass(frozen=True)
class Exposure:
    """What has left, in all, of the image of which most has.

    `releases` counts paths of noise: releases on one path tell together what the least noisy tells. `snr`, of the
    image's own values, and `mu` are those of all paths together, `training` the steps of DP-SGD. `unbounded` says that
    something left for which there is no bound. `updates` are weights that were noised as they left, each the Gaussian
    mechanism on all images of the client together, and so on each of them (`dp_fedavg`); `plain_weights` says that
    others left without such noise.
    """

    releases: int
    snr: float
    mu: float
    training: tuple[Training, ...]
    unbounded: bool
    updates: tuple[Training, ...] = ()
    plain_weights: bool = False

    @property
    def dp_steps(self) -> int:
        """All steps of DP-SGD."""
        return sum(own.steps for own in self.training)

    def training_epsilon(self, delta: float) -> float:
        """Epsilon of all steps of DP-SGD, each with its own noise and sampling rate."""
        return composed_epsilon(0.0, delta, *self.training)

    def epsilon(self, delta: float) -> float:
        """Epsilon of everything."""
        return math.inf if self.unbounded else composed_epsilon(self.mu, delta, *self.training, *self.updates)

    def client_epsilon(self, delta: float) -> float:
        """Epsilon of all weights, for all images of the client together; inf where some left without noise."""
        return math.inf if self.unbounded or self.plain_weights else composed_epsilon(0.0, delta, *self.updates)
