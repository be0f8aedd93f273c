"""Gaussian data, for which the best denoiser is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from collafuse_flwr.diffusion.parametrization import Denoise, Prediction
from collafuse_flwr.diffusion.schedule import Schedule


@dataclass(frozen=True)
class Gaussian:
    """Pixels x_0 ~ N(mean, std^2), independent."""

    mean: float = 0.3
    std: float = 0.5

    def draw(self, count: int, seed: int, side: int = 2) -> Tensor:
        noise = torch.randn((count, 1, side, side), generator=torch.Generator().manual_seed(seed))
        return self.mean + self.std * noise

    def noise(self, schedule: Schedule, x_t: Tensor, t: Tensor) -> Tensor:
        """E[noise | x_t] by conditioning a joint Gaussian."""
        alpha_bar = schedule.at(t)
        centred = x_t - alpha_bar.sqrt() * self.mean
        return (1 - alpha_bar).sqrt() * centred / (alpha_bar * self.std**2 + 1 - alpha_bar)

    def denoise(self, schedule: Schedule, prediction: Prediction) -> Denoise:
        """The network that an infinitely long training would reach."""

        def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            noise, alpha_bar = self.noise(schedule, x_t, t), schedule.at(t)
            if prediction == "epsilon":
                return noise
            image = (x_t - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()
            return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * image

        return denoise
