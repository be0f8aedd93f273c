"""Reconstruction of an image from the gradient that a client sends: what sharing weights may disclose."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

#: Step size of the search, for images in [-1, 1].
STEP_SIZE = 0.1


def invert_gradient(
    loss: Callable[[Tensor], Tensor], network: nn.Module, sent: list[Tensor], start: Tensor, num_steps: int
) -> Tensor:
    """The image whose gradient is most like the one that was sent: argmin_x 1 - cos(dL(x)/dw, g) by Adam.

    Gradient inversion (Zhu et al., arXiv 1906.08935) with the distance of Geiping et al. (arXiv 2003.14053). It is the
    easiest case for the attacker: `loss` fixes the step t, the noise and the labels as the client had them.

    Args:
        loss: L(x), the denoising loss of images (1, channels, size, size).
        network: whose weights w the loss depends on.
        sent: g, the gradient of each of its parameters.
        start: the first guess.
        num_steps: of Adam.

    Returns:
        Of the shape of `start`, in [-1, 1].
    """
    guess = start.clone().requires_grad_()
    search = torch.optim.Adam([guess], lr=STEP_SIZE)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(search, num_steps)
    target = torch.cat([own.flatten() for own in sent])
    for _ in range(num_steps):
        gradient = torch.cat([own.flatten() for own in gradients(loss(guess), network, differentiable=True)])
        distance = 1 - torch.cosine_similarity(gradient, target, dim=0)
        (guess.grad,) = torch.autograd.grad(distance, [guess])
        search.step()
        decay.step()
        with torch.no_grad():
            guess.clamp_(-1, 1)
    return guess.detach()


def gradients(loss: Tensor, network: nn.Module, *, differentiable: bool = False) -> list[Tensor]:
    """The gradient of a loss in each parameter of a network: what a client of one step discloses."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, parameters, create_graph=differentiable, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]
