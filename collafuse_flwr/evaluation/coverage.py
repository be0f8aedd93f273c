"""Fidelity and diversity as separate figures: precision, recall, density and coverage."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from collafuse_flwr.evaluation.features import extract_pair

_ROWS = 1024  # rows of the distance matrix held at once


@dataclass(frozen=True)
class Coverage:
    """Shares in [0,1], except density, which is 1 in expectation for equal laws and at most N / k."""

    precision: float
    recall: float
    density: float
    coverage: float


def measure_coverage(
    real: Tensor, generated: Tensor, features: nn.Module, *, k: int = 5, batch_size: int = 512
) -> Coverage:
    """Count which points x_i (real), y_j (generated) lie in whose ball, of radius r = distance to the k-th neighbour.

    precision = mean_j [any_i |x_i - y_j| <= r(x_i)], recall = mean_i [any_j |x_i - y_j| <= r(y_j)]
    (Kynkaanniemi et al. 2019, arXiv 1904.06991, section 2);
    density = sum_ij [|x_i - y_j| <= r(x_i)] / (k M), coverage = mean_i [any_j |x_i - y_j| <= r(x_i)]
    (Naeem et al. 2020, arXiv 2002.09797, section 3).

    Args:
        real: (N, ...), N > k.
        generated: (M, ...), M > k.
        features: maps (N, ...) to (N, d).
        k: which neighbour within the own set gives the radius.
        batch_size: images per call of `features`.

    Raises:
        ValueError: a set has at most k images, or features that are not finite.

    """
    real, generated = extract_pair(real, generated, features, at_least=k + 1, batch_size=batch_size)
    real_radius, generated_radius = _radius(real, k), _radius(generated, k)
    precise, inside = 0, 0
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = torch.zeros_like(recalled)
    for rows, radius in zip(torch.split(generated, _ROWS), torch.split(generated_radius, _ROWS), strict=True):
        distance = _distance(rows, real)
        in_real_ball = distance <= real_radius
        precise += int(in_real_ball.any(dim=1).sum())
        inside += int(in_real_ball.sum())
        covered |= in_real_ball.any(dim=0)
        recalled |= (distance <= radius[:, None]).any(dim=0)
    return Coverage(
        precision=precise / len(generated),
        recall=recalled.double().mean().item(),
        density=inside / (k * len(generated)),
        coverage=covered.double().mean().item(),
    )


def _radius(points: Tensor, k: int) -> Tensor:
    """Distance (N,) of each point to its k-th neighbour; the point itself, at distance 0, is the first of k + 1."""
    return torch.cat([_distance(rows, points).kthvalue(k + 1, dim=1).values for rows in torch.split(points, _ROWS)])


def _distance(a: Tensor, b: Tensor) -> Tensor:
    # The product formula |a|^2 - 2ab + |b|^2 would put a copy of a point at a distance above 0.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
