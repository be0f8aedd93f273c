"""Labels and latent codes from what the first block of a split generator uploads.

The block is a = ReLU(scale * (u - mean) / deviation + shift), u = W * [z, e], where e stands for the label, which is
that of one of the client's real images unless `split_gan.fake_labels` is drawn; a bias before the mean is taken off
says nothing. The server averages the block's weights and knows how codes are drawn, and so a batch's mean and deviation
but for chance. Of a row, the values above 0 are linear equations for its input, far more than the input has numbers:

    (a - shift) / scale * deviation + mean = W * [z, e]

Once the labels are known, so is what the batch had of each, and the equations are solved again. What all rows have in
common is lost with the mean: a batch of one label is recognized, but not its label.

    found = recover_labels_and_codes(generator_head[0].state_dict(), activations)    # of one batch

Where labels meet a discriminator's tail, the gradient that its client sends back is compared with what it would be of
each label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

#: Solutions, each with the mean and deviation that follow from the one before.
_TIMES = 4
#: Features that are scaled by less carry no information.
_LEAST = 1e-4
#: Added to the variances that are divided by, as in batch normalisation.
_FLOOR = 1e-5


@dataclass(frozen=True)
class RecoveredCodes:
    """Labels, int64 (n,), and latent codes, float64 (n, d)."""

    labels: Tensor
    z: Tensor


def recover_labels_and_codes(state: Mapping[str, Tensor], activations: Tensor) -> RecoveredCodes:
    """Labels and codes of a batch.

    Args:
        state: the `state_dict` of a `GeneratorStem`, whose batch normalisation scales no feature by 0.
        activations: what it made of the batch, (n, maps, side, side) with n >= 2, perhaps rounded.

    Raises:
        ValueError: the activations are not as many as the block puts out, or of a single row.
    """
    names = ("linear.weight", "norm.weight", "norm.bias", "embedding.weight")
    weight, scale, shift, table = (state[name].detach().double() for name in names)
    rows = activations.double().flatten(1)
    if rows.shape[1] != len(weight) or len(rows) < 2:
        raise ValueError(f"`activations` are {tuple(rows.shape)}, not two rows or more of {len(weight)} numbers")
    informative = (rows > 0) & (scale.abs() > _LEAST)
    normalised = (rows - shift) / torch.where(scale.abs() > _LEAST, scale, torch.ones_like(scale))
    dim = weight.shape[1] - table.shape[1]
    # The prior: codes are standard normal, and labels any.
    spread = torch.eye(weight.shape[1], dtype=torch.float64)
    spread[dim:, dim:] = table.T.cov(correction=0)
    centre = torch.cat([torch.zeros(dim, dtype=torch.float64), table.mean(dim=0)])
    labels, z = torch.zeros(len(rows), dtype=torch.int64), rows.new_zeros((len(rows), dim))
    for _ in range(_TIMES):
        deviation = ((weight @ spread) * weight).sum(dim=1).add(_FLOOR).sqrt()
        posterior = torch.stack(
            [
                _solve(weight[some], row[some] * deviation[some] + weight[some] @ centre)
                for row, some in zip(normalised, informative, strict=True)
            ]
        )
        labels, z = torch.cdist(posterior[:, dim:], table).argmin(dim=1), posterior[:, :dim]
        joined = torch.cat([z, table[labels]], dim=1)
        spread, centre = joined.T.cov(correction=0), joined.mean(dim=0)
    return RecoveredCodes(labels, z)


def labels_from_gradients(gradient: Tensor, candidates: Tensor, generator: torch.Generator) -> Tensor:
    """The label, int64 (n,), whose gradient is nearest to a row's; of equally near ones, any.

    Args:
        gradient: what a client sent at its tail's input, (n, ...).
        candidates: what it would have sent of each label, (classes, n, ...).
        generator: what chooses among labels that are equally near.
    """
    distance = (candidates - gradient).flatten(2).square().sum(dim=2)
    nearest = (distance == distance.min(dim=0).values).double()
    return torch.multinomial(nearest.T, 1, generator=generator)[:, 0]


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """The least squares solution, by normal equations: there are tens of equations for each unknown."""
    square = matrix.T @ matrix
    square.diagonal().add_(1e-9 * square.diagonal().mean())
    solution: Tensor = torch.linalg.solve(square, matrix.T @ right)
    return solution
