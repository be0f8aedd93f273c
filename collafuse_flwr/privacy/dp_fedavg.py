"""DP-FedAvg (McMahan et al. 2018, arXiv 1710.06963): updates of the weights that are clipped, averaged and noised.

With w_0 the weights that all clients of a round were sent and w_i those that client i trained from them, its update is
D_i = (w_i - w_0) min(1, C / |w_i - w_0|), all tensors as one vector. Either each client sends w_0 + D_i + n, or the
server makes w_0 + (sum_i D_i + n) / K of K clients, all of which count alike; n is normal, of deviation z C. Neighbours
differ in all data of one client, replaced by any other: a D_i, or their sum, moves by at most 2 C, which makes a round
a Gaussian mechanism of mu = 2 / z. Epsilon is that of all rounds (`accounting.composed_epsilon`, at sampling rate 1: no
secret sampling of clients is assumed). For what clients send it holds against all, for averages not against the server.

    draws = keyed_generator(secret, content)
    update = clipped_update(trained, received, clip_norm=1.0)
    sent = moved(received, noised(update, draws, deviation=2.0))

Norms, sums and noise are of float64, and what is noised is rounded to multiples of 2^-12 z C, as in `diffusion.dp_sgd`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from collafuse_flwr.diffusion.dp_sgd import add_noise

Tensors = Mapping[str, Tensor]


def clipped_update(trained: Tensors, received: Tensors, clip_norm: float) -> dict[str, Tensor]:
    """D = (w - w_0) min(1, C / |w - w_0|) by name, in float64 on the CPU; 0 where w - w_0 is not finite.

    Args:
        trained: w; tensors of whole numbers, such as counters, are left out, so that they never leave.
        received: w_0, with every name of `trained` and its shape.
        clip_norm: C > 0; |w - w_0| is the norm over all tensors.
    """
    update = {
        name: value.detach().cpu().double() - received[name].cpu().double()
        for name, value in trained.items()
        if value.is_floating_point()
    }
    square = sum((value.square().sum() for value in update.values()), torch.zeros((), dtype=torch.float64))
    if not square.isfinite():
        return {name: torch.zeros_like(value) for name, value in update.items()}
    factor = (clip_norm / square.sqrt()).clamp(max=1)
    return {name: value * factor for name, value in update.items()}


def noised(update: Tensors, draws: np.random.Generator, deviation: float) -> dict[str, Tensor]:
    """An update with normal noise of a deviation > 0, rounded to multiples of 2^-12 of it."""
    return dict(zip(update, add_noise(list(update.values()), draws, deviation), strict=True))


def moved(received: Tensors, update: Tensors) -> dict[str, Tensor]:
    """w_0 + D by name, of the types of w_0; what D lacks is as it was received."""
    return {
        name: (value.cpu().double() + update[name].double()).to(value.dtype) if name in update else value.cpu().clone()
        for name, value in received.items()
    }


def update_bytes(update: Tensors) -> bytes:
    """All values of an update, to key its noise by: no two updates that differ have the same."""
    return b"".join(value.numpy().tobytes() for value in update.values())
