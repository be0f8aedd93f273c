"""Whether an image was among those that a denoiser was trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.diffusion.forward import add_noise
from collafuse_flwr.diffusion.parametrization import Denoise, Prediction, to_noise
from collafuse_flwr.diffusion.schedule import Schedule

#: Steps at which the loss of an image is measured, at even distances over a network's range.
LOSS_STEPS = 8
#: Rate of false alarms at which hits are counted.
FALSE_ALARMS = 0.01
#: Images that a network sees at once.
_BATCH = 256


@dataclass(frozen=True)
class Membership:
    """Area under the ROC curve and share of members found at 1 % false alarms (no information: 0.5 and 0.01).

    `error` is the standard deviation of the area of an attack without information.
    """

    auc: float
    tpr: float
    error: float


def membership(members: Tensor, others: Tensor) -> Membership:
    """Tell members from others by a score that is lower for members, such as a loss.

    Without information the area is the Mann-Whitney statistic of two samples of one law, of variance
    (n + m + 1) / (12 n m). With fewer than 100 others no false alarm is allowed at all.

    Args:
        members: (n,) scores.
        others: (m,) scores.
    """
    from sklearn.metrics import roc_auc_score, roc_curve  # noqa: PLC0415 - slow, and clients import this package

    n, m = len(members), len(others)
    scores = -torch.cat([members, others]).double().cpu().numpy()
    true = np.arange(n + m) < n
    false_alarms, hits, _ = roc_curve(true, scores, drop_intermediate=False)
    return Membership(
        auc=float(roc_auc_score(true, scores)),
        tpr=float(hits[false_alarms <= FALSE_ALARMS].max()),
        error=math.sqrt((n + m + 1) / (12 * n * m)),
    )


@torch.no_grad()
def denoising_losses(
    schedule: Schedule,
    prediction: Prediction,
    denoise: Denoise,
    images: Tensor,
    steps: range,
    seed: int,
    labels: Tensor | None = None,
) -> Tensor:
    """Mean of |noise - noise_hat(x_t, t)|^2 over some t, for each image, with noise that is the same for all images.

    Args:
        schedule: the global schedule.
        prediction: what the network predicts.
        denoise: the network.
        images: x_0, (n, channels, size, size).
        steps: the steps that the network was trained on.
        seed: of the noise.
        labels: as in `Denoise`.

    Returns:
        (n,)
    """
    chosen = sorted({steps[round(i * (len(steps) - 1) / (LOSS_STEPS - 1))] for i in range(LOSS_STEPS)})
    total = torch.zeros(len(images), device=images.device)
    for step in chosen:
        noise = torch.randn(images.shape[1:], generator=named_generator(seed, "membership", step)).to(images.device)
        for rows in torch.arange(len(images), device=images.device).split(_BATCH):
            t = torch.full_like(rows, step)
            each = noise.expand(len(rows), *noise.shape)
            x_t = add_noise(schedule, images[rows], torch.zeros_like(rows), t, each)
            output = denoise(x_t, t, None if labels is None else labels[rows])
            error = to_noise(schedule, prediction, output, x_t, t) - each
            total[rows] += error.square().flatten(1).mean(dim=1)
    return total / len(chosen)


@torch.no_grad()
def predicted_noise_norms(
    schedule: Schedule,
    prediction: Prediction,
    denoise: Denoise,
    images: Tensor,
    step: int,
    labels: Tensor | None = None,
) -> Tensor:
    """|noise_hat(x_0, t)| of each clean image at one small t, lower for members (SimA, arXiv 2509.25003): one query.

    Arguments as in `denoising_losses`.

    Returns:
        (n,)
    """
    norms = []
    for rows in torch.arange(len(images), device=images.device).split(_BATCH):
        t = torch.full_like(rows, step)
        output = denoise(images[rows], t, None if labels is None else labels[rows])
        norms.append(to_noise(schedule, prediction, output, images[rows], t).flatten(1).norm(dim=1))
    return torch.cat(norms)
