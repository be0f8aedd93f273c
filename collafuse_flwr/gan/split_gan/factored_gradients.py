"""Gradients at a tail of one linear layer as their two factors: without loss, and far fewer numbers.

The gradient at the input of a linear layer is that at its output times its weights. Sending both tells the server
nothing that it could not solve for, but it does hand it the tail's weights and the images' gradients in the clear.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from collafuse_flwr.gan.networks import Blocks
from collafuse_flwr.gan.spectral_norm import SpectralLinear, normalised
from collafuse_flwr.gan.split_gan.ops import Tensors

FACTOR, WEIGHT, GRAD = "factor_", "weight_", "grad_"


def can_factor(tail: Blocks) -> bool:
    """Whether a tail is its last block alone."""
    return len(tail.indices) == 1


def weight_of(tail: Blocks) -> Tensor:
    """A copy of the weights of the linear layer in such a tail."""
    linear = next(part for part in tail.modules() if isinstance(part, (torch.nn.Linear, torch.nn.ConvTranspose2d)))
    weight = normalised(linear.weight) if isinstance(linear, SpectralLinear) else linear.weight
    return weight.detach().clone()


def expand(tensors: Tensors, shape: torch.Size) -> Tensors:
    """Make each grad_<name> of its factor, (n, ...), and the one weight; other tensors stay.

    Args:
        tensors: factor_<name>, (n, 1) of a logit or (n, channels, size, size) of an image, and weight_<cut>, (1, d) or
            (maps, channels, 3, 3), as torch keeps them.
        shape: of one row at the cut.
    """
    weight = next((x for name, x in tensors.items() if name.startswith(WEIGHT)), None)
    if weight is None:
        return tensors
    return {
        name.replace(FACTOR, GRAD): _grad(factor, weight, shape)
        for name, factor in tensors.items()
        if name.startswith(FACTOR)
    }


def _grad(factor: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
    # In this process factors come in the arithmetic that made them, in which weights never are.
    factor, weight = factor.float(), weight.float()
    if weight.dim() == 2:
        return (factor @ weight).view(-1, *shape)
    return conv2d(factor, weight, padding=1)


def names_up(names: tuple[str, ...], tail: str | None) -> tuple[str, ...]:
    """What takes the place of gradients at a factored tail's cut, `gt` or `dt`."""
    if tail is None or not any(name.startswith(GRAD) for name in names):
        return names
    return (*(name.replace(GRAD, FACTOR) for name in names), f"{WEIGHT}{tail}")
