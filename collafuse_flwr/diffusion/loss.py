"""One denoising loss for everybody: the client from the image, the server from an upload at any cut."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from collafuse_flwr.diffusion.forward import add_noise, add_noise_official
from collafuse_flwr.diffusion.parametrization import Denoise, Prediction, to_noise
from collafuse_flwr.diffusion.schedule import Schedule

Weighting = Literal["uniform", "min_snr"]
Reduction = Literal["mean", "none"]


@dataclass(frozen=True)
class Objective:
    """What is regressed, and with what weight.

    `weighting` is uniform, or min_snr: min(snr, gamma) / snr for epsilon and min(snr, gamma) / (snr + 1) for v
    (Hang et al., arXiv 2303.09556, section 3.4).
    """

    prediction: Prediction = "v_prediction"
    weighting: Weighting = "uniform"
    gamma: float = 5.0


def denoising_loss(
    schedule: Schedule,
    objective: Objective,
    denoise: Denoise,
    x: Tensor,
    start: Tensor,
    t: Tensor,
    noise: Tensor,
    labels: Tensor | None = None,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """E |noise - sqrt((1 - r) / (1 - alpha_bar[t])) noise_hat(x_t, t)|^2 with r = alpha_bar[t] / alpha_bar[start].

    The network predicts the noise of the global chain, whatever `start` is; the factor is the double Tweedie relation
    E[noise_global | x_t] = sqrt((1 - alpha_bar[t]) / (1 - r)) E[noise | x_t], so the minimum is the ordinary denoiser
    though only x_start is seen. With start = 0 it is the loss of DDPM (arXiv 2006.11239, equation 14). For a v
    network the error is measured in v, i.e. divided by alpha_bar[t]: (1 - r) / (1 - alpha_bar[t]) |v - v_hat|^2. Rows
    of different cuts then weigh alike but for 1 - r; divided by r, a row would count alpha_bar[start] times.

    Args:
        schedule: the global schedule.
        objective: prediction and weighting.
        denoise: the network.
        x: x_start, shape (batch, channels, height, width): an image (start = 0) or an upload (start = its cut).
        start: the step of each x, shape (batch,), int64.
        t: the step to train, shape (batch,), int64 in start + 1..T.
        noise: standard normal, of the shape of `x`.
        labels: classes, attributes or None, as in `Denoise`.
        reduction: whether the weighted squared errors are averaged.

    Returns:
        The mean over the batch, a scalar; with none, the errors in the shape of `x`.
    """
    x_t = add_noise(schedule, x, start, t, noise)
    alpha_bar, r = schedule.at(t), schedule.at(t) / schedule.at(start)
    noise_hat = to_noise(schedule, objective.prediction, denoise(x_t, t, labels), x_t, t)
    error = ((1 - r) / (1 - alpha_bar)).sqrt() * noise_hat - noise
    weight = _snr_weight(objective, alpha_bar)
    if objective.prediction == "v_prediction":
        weight = weight / alpha_bar
    errors = weight * error.square()
    return errors.mean() if reduction == "mean" else errors


def official_loss(
    schedule: Schedule,
    objective: Objective,
    denoise: Denoise,
    x_k: Tensor,
    t: Tensor,
    noise: Tensor,
    labels: Tensor | None = None,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """E |noise - noise_hat(sqrt(alpha_bar[t]) x_k + sqrt(1 - alpha_bar[t]) noise, t)|^2, as in the authors' code.

    An upload is treated as a clean image, which noises it twice (`upload.noise=official`). Shapes as in
    `denoising_loss`.
    """
    x_t = add_noise_official(schedule, x_k, t, noise)
    alpha_bar = schedule.at(t)
    error = to_noise(schedule, objective.prediction, denoise(x_t, t, labels), x_t, t) - noise
    weight = _snr_weight(objective, alpha_bar)
    if objective.prediction == "v_prediction":
        weight = weight / alpha_bar
    errors = weight * error.square()
    return errors.mean() if reduction == "mean" else errors


def loss_scale(schedule: Schedule, objective: Objective, start: Tensor) -> float:
    """What the loss of some rows is multiplied by, so that its gradients are as large as those of images.

    With v a row's squared error is weighed by (1 - r) / (1 - alpha_bar[t]), up to 1 / alpha_bar[start]. One factor for
    all rows, 1 / mean(1 / alpha_bar[start]), takes that back, and leaves their shares alone. Without it the gradients
    of noisy uploads would be clipped in every step.

    Args:
        schedule: the global schedule.
        objective: prediction and weighting.
        start: the step of each row, shape (rows,), int64.
    """
    if objective.prediction != "v_prediction" or not len(start):
        return 1.0
    return 1 / (1 / schedule.alpha_bar[start.cpu()].double()).mean().item()


def bounded_mean(errors: Tensor, bound: float) -> Tensor:
    """The mean over a batch of each image's mean error, which counts as `bound` at most, and where it is no number.

    A loss of n images then says at most bound / n of one, whatever the network makes of it.
    """
    if bound == math.inf:
        return errors.mean()
    return errors.flatten(1).mean(1).nan_to_num(nan=bound, posinf=bound).clamp(max=bound).mean()


def _snr_weight(objective: Objective, alpha_bar: Tensor) -> Tensor:
    """The weight of each sample's squared error in its own prediction space."""
    if objective.weighting == "uniform":
        return torch.ones_like(alpha_bar)
    snr = alpha_bar / (1 - alpha_bar)
    capped = snr.clamp(max=objective.gamma)
    return capped / (snr + 1) if objective.prediction == "v_prediction" else capped / snr


def stratified_steps(first: Tensor, last: int | Tensor, generator: torch.Generator) -> Tensor:
    """Steps t uniform on first..last, one per sample, spread evenly over the batch to lower the loss's variance.

    Each t is uniform on its own range; together they are a stratified sample (Kingma et al., arXiv 2107.00630,
    appendix I.1, draw them so for continuous time). `first` has shape (batch,), int64,
    and so has `last` where it is not one for all.
    """
    batch = len(first)
    strata = torch.randperm(batch, generator=generator, device=first.device)
    jitter = torch.rand(batch, generator=generator, device=first.device, dtype=torch.float64)
    span = last - first + 1
    return first + (((strata + jitter) / batch) * span).long().clamp(max=span - 1)
