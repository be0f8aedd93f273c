"""The step back of SFBD: images that noised ones may have come from, drawn by the network that learns from them."""

from __future__ import annotations

from torch import Tensor

from collafuse_flwr.diffusion.parametrization import Denoise, Prediction
from collafuse_flwr.diffusion.sampling import StepNoise, sample, sampling_timesteps
from collafuse_flwr.diffusion.schedule import Schedule


def draw_images(
    schedule: Schedule,
    prediction: Prediction,
    denoise: Denoise,
    x_k: Tensor,
    cut: int,
    noise: StepNoise,
    *,
    labels: Tensor | None = None,
    steps: int = 0,
    clamp: bool = True,
) -> Tensor:
    """x_0 ~ q(x_0 | x_k), by the ancestral chain of the network from step k to 0 (SFBD, arXiv 2502.05446, algorithm 1).

    With p the law that the network has learnt, the images have the law p'(x_0) = E_{x_k}[p(x_0 | x_k)] over the noised
    ones. That is the step of expectation maximisation: the likelihood of the noised images never falls from p to p',
    and the law that they come from is a fixed point. A network that is then trained on these images for t <= k is that
    of p'. The images must be drawn: posterior means have too little variance, and would shrink at every iteration.

    Args:
        schedule: the global schedule.
        prediction: what the network predicts.
        denoise: the network.
        x_k: noised images, shape (batch, channels, height, width).
        cut: k, their step, in 0..T.
        noise: draws the noise of a step.
        labels: classes, attributes or None, as in `Denoise`.
        steps: sampling steps; 0: all k. With few the chain has too little variance.
        clamp: whether the estimate of the image is clamped to [-1, 1].

    Returns:
        Images, of the shape of `x_k`.
    """
    grid = sampling_timesteps(cut, 0, steps)
    return sample(schedule, prediction, denoise, x_k, grid, sampler="ddpm", labels=labels, noise=noise, clamp=clamp)
