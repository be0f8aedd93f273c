"""Where one network takes over from another on the chain, by the losses of both on the same images."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from collafuse_flwr.diffusion.loss import Objective, denoising_loss, stratified_steps
from collafuse_flwr.diffusion.parametrization import Denoise
from collafuse_flwr.diffusion.schedule import Schedule

#: Stretches of equal length that the chain is measured in, beside the cut, where one more ends.
STRETCHES = 10


def handover_edges(timesteps: int, cut: int) -> list[int]:
    """The steps at which a network may take over, from 0 to T, rising: the ends of the stretches, and the cut."""
    return sorted({cut, *(round(i * timesteps / STRETCHES) for i in range(STRETCHES + 1))})


@torch.no_grad()
def stretch_losses(
    schedule: Schedule,
    objective: Objective,
    denoise: Denoise,
    x: Tensor,
    labels: Tensor | None,
    edges: list[int],
    generator: torch.Generator,
) -> list[float]:
    """The denoising loss in each stretch of the chain, summed over its steps; inf where it is no number.

    L_j = (e_j+1 - e_j) E |noise - noise_hat(x_t, t)|^2, t uniform on e_j + 1 .. e_j+1, weighted as in training
    (`denoising_loss`). A generator in the same state gives two networks the same steps and noise.

    Args:
        schedule: the global schedule.
        objective: prediction and weighting.
        denoise: the network.
        x: images in [-1, 1], shape (batch, channels, height, width).
        labels: classes, attributes or None, as in `Denoise`.
        edges: rising steps, m + 1 of them, as from `handover_edges`.
        generator: draws steps and noise, on the device of `x`.

    Returns:
        The losses of the m stretches, the lowest steps first.
    """
    losses, start = [], torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for low, high in pairwise(edges):
        t = stratified_steps(start + low + 1, high, generator)
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        loss = denoising_loss(schedule, objective, denoise, x, start, t, noise, labels).item()
        losses.append((high - low) * loss if math.isfinite(loss) else math.inf)
    return losses


def best_handover(edges: list[int], above: list[float], below: list[float]) -> int:
    """The edge s with the least sum of losses, of one network on (s, T] and of the other on (0, s].

    s = T leaves the chain to the network `below`, s = 0 to the one `above`. Of equal sums the least noisy step counts.
    One change of networks, and not one for each stretch: a multistep sampler begins anew at each.
    """
    reached = [0.0, *accumulate(below)]
    left = [*reversed(list(accumulate(reversed(above)))), 0.0]
    sums = [own + others for own, others in zip(reached, left, strict=True)]
    return edges[sums.index(min(sums))]
