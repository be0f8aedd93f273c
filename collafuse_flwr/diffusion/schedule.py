"""Noise schedules: how much of the image is left at each step of the forward process."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: Largest beta of the cosine and sigmoid schedules (Nichol and Dhariwal, arXiv 2102.09672, section 3.2).
MAX_BETA = 0.999


@dataclass(frozen=True)
class Schedule:
    """The forward process x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) noise, for t = 0..T.

    `alpha_bar` has shape (T + 1,), float64, decreases strictly and starts with alpha_bar[0] = 1
    (Ho et al., arXiv 2006.11239, equation 4).
    """

    alpha_bar: Tensor
    name: str = "custom"

    def __post_init__(self) -> None:
        ab = self.alpha_bar
        if ab.ndim != 1 or len(ab) < 2 or ab[0] != 1 or not bool((ab[1:] < ab[:-1]).all()) or ab[-1] <= 0:
            raise ValueError("`alpha_bar` must be one-dimensional, start with 1, decrease strictly and stay positive")

    @property
    def timesteps(self) -> int:
        """T, the number of steps."""
        return len(self.alpha_bar) - 1

    @property
    def betas(self) -> Tensor:
        """beta_t = 1 - alpha_bar[t] / alpha_bar[t - 1] for t = 1..T, shape (T,)."""
        return 1 - self.alpha_bar[1:] / self.alpha_bar[:-1]

    def at(self, t: Tensor) -> Tensor:
        """alpha_bar at the steps `t`, of shape (batch,), as float32 of shape (batch, 1, 1, 1)."""
        return self.alpha_bar.to(t.device).gather(0, t).to(torch.float32).view(-1, 1, 1, 1)

    def snr(self) -> Tensor:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) for t = 0..T, shape (T + 1,); infinite at t = 0."""
        return self.alpha_bar / (1 - self.alpha_bar)

    def snr_inverse(self, snr: float) -> int:
        """The first step t whose snr(t) is at most `snr` (a ratio of powers, > 0): where to cut for a given disclosure.

        Raises:
            ValueError: not even the last step T is that noisy.
        """
        noisy_enough = torch.nonzero(self.snr() <= snr)
        if len(noisy_enough) == 0:
            raise ValueError(f"`snr` = {snr:g} is below {self.snr()[-1].item():g}, the least that {self.name} reaches")
        return int(noisy_enough[0])


def cosine(timesteps: int, s: float = 0.008) -> Schedule:
    """alpha_bar(t) = cos^2((t/T + s) / (1 + s) * pi/2), betas at most 0.999 (arXiv 2102.09672, equation 17)."""
    t = np.linspace(0, 1, timesteps + 1)
    return _from_curve(np.cos((t + s) / (1 + s) * math.pi / 2) ** 2, "cosine")


def linear(timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """betas from `beta_start` to `beta_end` (arXiv 2006.11239, T = 1000), scaled by 1000/T so that x_T is noise."""
    scale = 1000 / timesteps
    betas = np.clip(np.linspace(scale * beta_start, scale * beta_end, timesteps), 0, MAX_BETA)
    return Schedule(torch.from_numpy(np.concatenate([[1.0], np.cumprod(1 - betas)])), "linear")


def sigmoid(timesteps: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Schedule:
    """alpha_bar(t) falls as a sigmoid from `start` to `end`, at temperature `tau` (Chen, arXiv 2301.10972)."""
    t = np.linspace(0, 1, timesteps + 1)
    curve = 1 / (1 + np.exp((t * (end - start) + start) / tau))
    return _from_curve(curve - curve[-1], "sigmoid")


def _from_curve(curve: np.ndarray[tuple[int], np.dtype[np.float64]], name: str) -> Schedule:
    """Turn a falling curve into alpha_bar, with every beta held at most at MAX_BETA."""
    betas = np.clip(1 - curve[1:] / curve[:-1], 0, MAX_BETA)
    return Schedule(torch.from_numpy(np.concatenate([[1.0], np.cumprod(1 - betas)])), name)


SCHEDULES: dict[str, Callable[[int], Schedule]] = {"cosine": cosine, "linear": linear, "sigmoid": sigmoid}


def make_schedule(name: str, timesteps: int) -> Schedule:
    """The schedule called `name` (cosine, linear, sigmoid) with T = `timesteps` steps."""
    return SCHEDULES[name](timesteps)
