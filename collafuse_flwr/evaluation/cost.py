"""Cost in floating-point operations: measured for one forward pass, multiplied out for training and sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def forward_flops(net: Callable[..., object], *inputs: object) -> int:
    """Operations of one call `net(*inputs)`, no gradients: a multiplication and an addition are 2.

        forward_flops(unet, torch.zeros(1, 1, 8, 8), torch.zeros(1))    # per image, for a batch of one

    Counts matrix products, convolutions and attention, as `torch.utils.flop_counter` does; element-wise operations
    and normalisations are left out.
    """
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 - it imports triton, and clients this module

    # Attention as plain matrix products, or the count would depend on which fused kernels the device has.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net(*inputs)
    return int(counter.get_total_flops())


def backward_flops(net: Callable[..., Tensor], parameters: Sequence[Tensor], *inputs: object) -> int:
    """Operations of the gradients of one call `net(*inputs)` with respect to some of its parameters, counted likewise.

    Where all are trained that is nearly twice the forward pass; of what is frozen the gradients of weights are spared,
    and those of values wherever nothing that is trained comes before.
    """
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 - as above

    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = net(*inputs)
        forward = counter.get_total_flops()
        torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    return int(counter.get_total_flops() - forward)


def training_flops(forward: int, images: int) -> int:
    """3 * forward * images: the backward pass costs twice the forward one (Kaplan et al. 2020, arXiv 2001.08361, 2.1).

    `forward` is the cost of one image, `images` how many the optimiser saw, repetitions included.
    """
    return 3 * forward * images


def sampling_flops(forward: int, steps: int, images: int) -> int:
    """Forward * steps * images, where `steps` is the number of calls of the network for one image."""
    return forward * steps * images
