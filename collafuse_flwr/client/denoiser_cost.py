"""What a client's denoiser costs: counted once per process, the same for all clients with such a network and images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from collafuse_flwr.config.config import Config
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.evaluation.cost import backward_flops, forward_flops, training_flops


@dataclass(frozen=True)
class DenoiserCost:
    """Floating-point operations of a denoiser for one image: of one call of it, and of training it on one."""

    forward: int
    training: int


_COUNTED: dict[tuple[object, ...], DenoiserCost] = {}


def denoiser_cost(
    config: Config, setup: DiffusionSetup, network: nn.Module, shape: tuple[int, int, int, int]
) -> DenoiserCost:
    """The cost of a client's network by the settings; where it trains parts of it, with the gradients of these alone.

    `shape` is channels and side of its images, their classes, and the attributes that it is conditioned on.
    """
    key = (config.diffusion, config.client.model, setup.trained_parts, setup.conditioning, setup.null_label, *shape)
    if key not in _COUNTED:
        channels, size, _, attributes = shape
        step = torch.ones(1, dtype=torch.int64, device=setup.runtime.device)
        x = torch.zeros((1, channels, size, size), device=setup.runtime.device)
        labels = None if setup.conditioning == "none" else step.new_zeros((1, attributes) if attributes else 1)
        denoise = setup.denoise(network.eval())
        forward = forward_flops(denoise, x, step, labels)
        training = training_flops(forward, 1)
        if setup.trained_parts != "all":
            trained = [own for own in network.parameters() if own.requires_grad]
            training = forward + backward_flops(denoise, trained, x, step, labels)
        _COUNTED[key] = DenoiserCost(forward, training)
    return _COUNTED[key]
