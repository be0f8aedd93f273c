"""Reconstruction of images from their releases by a denoiser: the backbone, or one that an attacker trains."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from collafuse_flwr.diffusion.loss import Objective
from collafuse_flwr.diffusion.parametrization import Denoise, Prediction, to_image
from collafuse_flwr.diffusion.sampling import sample, sampling_timesteps
from collafuse_flwr.diffusion.schedule import Schedule
from collafuse_flwr.diffusion.train import BatchSource, TimestepRange, TrainState, cosine_rate, train

#: Steps in which a chain is continued below the cut.
STEPS = 20
#: Images that a network sees at once, and in a batch of training.
BATCH = 128


def equivalent_release(schedule: Schedule, mean: Tensor, cut: int, releases: int) -> tuple[Tensor, int]:
    """The mean of n releases as one release x_t at the step t <= k whose SNR is nearest to n snr(k), and that step.

    mean / sqrt(alpha_bar[k]) is the image under noise of variance 1 / (n snr(k)), to which the mean is scaled.

    Args:
        schedule: the global schedule.
        mean: (N, ...) the mean of n releases of each image.
        cut: k >= 1.
        releases: n >= 1.
    """
    snr = schedule.snr()
    distance = (snr[1 : cut + 1].log() - math.log(releases * float(snr[cut]))).abs()
    step = int(distance.argmin()) + 1
    return mean * math.sqrt(float(schedule.alpha_bar[step] / schedule.alpha_bar[cut])), step


@torch.no_grad()
def predict_x0(
    schedule: Schedule, prediction: Prediction, denoise: Denoise, x: Tensor, step: int, labels: Tensor | None = None
) -> Tensor:
    """E[x_0 | x_t] as a network predicts it, which is the estimate of least squared error if the network is right.

    Args:
        schedule: the global schedule.
        prediction: what the network predicts.
        denoise: the network.
        x: (N, channels, size, size) at step t.
        step: t >= 1.
        labels: as in `Denoise`.
    """
    steps = torch.full((len(x),), step, dtype=torch.int64, device=x.device)
    label_batches = [None] * math.ceil(len(x) / BATCH) if labels is None else labels.split(BATCH)
    batches = zip(x.split(BATCH), steps.split(BATCH), label_batches, strict=True)
    return torch.cat([to_image(schedule, prediction, denoise(own, t, label), own, t) for own, t, label in batches])


def continue_sampling(
    schedule: Schedule, prediction: Prediction, denoise: Denoise, x: Tensor, step: int, labels: Tensor | None = None
) -> Tensor:
    """The image at the end of the chain from x_t, t = `step`, in 20 steps of DPM-Solver++, which draws no noise.

    Arguments as in `predict_x0`.
    """
    grid = sampling_timesteps(step, 0, STEPS)
    label_batches = [None] * math.ceil(len(x) / BATCH) if labels is None else labels.split(BATCH)
    return torch.cat(
        [
            sample(schedule, prediction, denoise, own, grid, sampler="dpm++", labels=label)
            for own, label in zip(x.split(BATCH), label_batches, strict=True)
        ]
    )


def train_shadow(
    state: TrainState,
    denoise: Denoise,
    shadows: BatchSource,
    schedule: Schedule,
    objective: Objective,
    *,
    step: int,
    num_steps: int,
    learning_rate: float,
    generator: torch.Generator,
) -> None:
    """Train a denoiser on an attacker's own images, noised to the one step t = `step` at which it will be used.

    Args:
        state: the network, which has its averaged weights afterwards.
        denoise: its forward call.
        shadows: the images.
        schedule: the global schedule.
        objective: prediction and weighting.
        step: t >= 1.
        num_steps: optimiser steps.
        learning_rate: at the start, of Adam; it falls as a cosine.
        generator: draws rows and noise, on the device of the images.
    """
    train(
        state,
        denoise,
        shadows,
        schedule=schedule,
        objective=objective,
        steps_range=TimestepRange(step, above=step - 1),
        batch_size=BATCH,
        num_steps=num_steps,
        learning_rate=lambda fraction: cosine_rate(learning_rate, fraction),
        generator=generator,
    )
    state.network.load_state_dict(state.ema_state_dict())
    state.network.eval()
