"""Uploads that the backbone is not trained on: their loss rises when it learns the others by heart."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.diffusion.loss import denoising_loss, stratified_steps
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.diffusion.train import BatchSource

#: Draws of (upload, t, noise) that a loss is the mean of, and how many are in a batch.
DRAWS, BATCH = 2048, 256
#: Steps of the backbone between two measurements.
EVERY = 64


def held_out_counts(sizes: Mapping[int, int], fraction: float, seed: int) -> dict[int, int]:
    """How many of each client's uploads are held out: their fraction, rounded up or down by chance, but never all.

    By chance, so that of many clients with few uploads each as many are held out in all.
    """
    counts = {}
    for client, rows in sizes.items():
        chance = torch.rand((), generator=named_generator(seed, "held-out uploads", client)).item()
        counts[client] = min(rows - 1, int(fraction * rows + chance)) if fraction else 0
    return counts


@torch.no_grad()
def held_out_loss(setup: DiffusionSetup, network: nn.Module, source: BatchSource, scale: float) -> float:
    """The denoising loss of uploads, times `scale`, always at the same t and noise."""
    generator = named_generator(setup.seed, "held-out loss", device=setup.runtime.device)
    denoise, last = setup.denoise(network.eval()), setup.schedule.timesteps
    errors: list[Tensor] = []
    # At even distances where there are more, in turn where there are fewer: of every client its share.
    rows = torch.arange(DRAWS) * len(source) // DRAWS if len(source) > DRAWS else torch.arange(DRAWS) % len(source)
    for picked in rows.split(BATCH):
        x, start, labels = source.batch(picked)
        t = stratified_steps(start + 1, last, generator)
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        errors.append(denoising_loss(setup.schedule, setup.objective, denoise, x, start, t, noise, labels))
    return scale * torch.stack(errors).mean().item()
