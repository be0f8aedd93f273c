"""The cut: noising an image up to step k, and from step k on."""

from __future__ import annotations

from torch import Tensor

from collafuse_flwr.diffusion.schedule import Schedule


def cut_step(cut_ratio: float, timesteps: int) -> int:
    """K = round(c T), the last step that the client keeps (CollaFuse, arXiv 2406.14429; t counts from the image).

    Raises:
        ValueError: `cut_ratio` is outside [0, 1].
    """
    if not 0 <= cut_ratio <= 1:
        raise ValueError(f"`cut_ratio` = {cut_ratio} must be in [0, 1]")
    return round(cut_ratio * timesteps)


def add_noise(schedule: Schedule, x: Tensor, start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """x_t = sqrt(r) x_start + sqrt(1 - r) noise, with r = alpha_bar[t] / alpha_bar[start].

    With start = 0 this is the forward process of an image (arXiv 2006.11239, equation 4); with start = k it carries
    an upload x_k on, and x_t has the same law as if it had been made from the image in one go.

    Args:
        schedule: the global schedule.
        x: x_start, shape (batch, channels, height, width).
        start: the step at which each x is, shape (batch,), int64 in 0..T.
        t: the step to go to, shape (batch,), int64 in start..T.
        noise: standard normal, of the shape of `x`.
    """
    r = schedule.at(t) / schedule.at(start)
    return r.sqrt() * x + (1 - r).clamp(min=0).sqrt() * noise


def add_noise_official(schedule: Schedule, x_k: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """X = sqrt(alpha_bar[t]) x_k + sqrt(1 - alpha_bar[t]) noise: an upload noised as if it were a clean image.

    The authors' public code does this (`upload.noise=official`): the signal left is alpha_bar[t] alpha_bar[k].
    """
    alpha_bar = schedule.at(t)
    return alpha_bar.sqrt() * x_k + (1 - alpha_bar).sqrt() * noise
