"""Images and labels by search from what a split discriminator's client uploads, however many blocks it keeps."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

from collafuse_flwr.privacy.attacks.activation_inversion import SLOPE, InvertedBatch

#: Steps whose curvature L-BFGS remembers.
HISTORY = 20


def search_activation_inversion(
    head: nn.Module,
    activations: Tensor,
    channels: int,
    num_steps: int,
    *,
    running: bool = False,
    pictures: str = "blocks.0.embedding.weight",
    slope: float = SLOPE,
) -> InvertedBatch:
    """argmin over images x and mixtures p of labels of |head(x, p E) - a|^2, by L-BFGS from grey images and no label.

    The last rectifier is undone on both sides, so that no value counts less for being negative. The batch's mean and
    deviation are those of the guess, which is why all rows that were normalised together are searched together.

        search_split(discriminator_head, uploaded, channels=1, num_steps=100)

    Args:
        head: the client's first blocks as the server knows them, called with images and labels; it is not changed.
        activations: a, of shape (n, ...), what the head gave for one batch.
        channels: of the images.
        num_steps: of L-BFGS, each of one or a few passes of the head.
        running: whether the head normalises by its running statistics, not by the batch's.
        pictures: the parameter E of the head with a picture of size^2 values for each label.
        slope: of the leaky rectifier that ends the head.
    """
    own = copy.deepcopy(head).train(not running).requires_grad_(False)
    table, target = own.get_parameter(pictures), _undone(activations.detach().float(), slope)
    count, size = len(target), math.isqrt(table.shape[1])
    images = torch.zeros((count, channels, size, size), device=target.device, requires_grad=True)
    logits = torch.zeros((count, len(table)), device=target.device, requires_grad=True)
    every = torch.arange(count, device=target.device)
    solver = torch.optim.LBFGS(
        [images, logits],
        max_iter=num_steps,
        history_size=HISTORY,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        # Row i has the label i, whose picture is its own mixture.
        output = functional_call(own, {pictures: logits.softmax(dim=1) @ table}, (images, every))
        distance = mse_loss(_undone(output, slope), target)
        distance.backward()
        return distance

    solver.step(loss)
    return InvertedBatch(images.detach().clamp(-1, 1), logits.argmax(dim=1))


def _undone(values: Tensor, slope: float) -> Tensor:
    """The leaky rectifier's input from its output."""
    return torch.where(values > 0, values, values / slope)
