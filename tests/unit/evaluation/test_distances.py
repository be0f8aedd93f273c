from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import helmert, sqrtm
from torch import Tensor, nn

from collafuse_flwr.data.images import normalize
from collafuse_flwr.evaluation.distances import KernelDistance, frechet_distance, kernel_distance
from collafuse_flwr.evaluation.features import PixelFeatures

IDENTITY = nn.Identity()


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(count: int, mean: Tensor, covariance: Tensor, seed: int) -> Tensor:
    """Points whose sample mean and covariance are exactly those given."""
    points = normal(count, len(mean), seed=seed)
    points = points - points.mean(dim=0)
    whitening: Tensor = torch.linalg.cholesky(torch.linalg.inv(points.T @ points / (count - 1)))
    root: Tensor = torch.linalg.cholesky(covariance.double())
    return points @ whitening @ root.T + mean


def random_covariance(dimensions: int, seed: int) -> Tensor:
    factor = normal(dimensions, dimensions, seed=seed)
    return factor @ factor.T + 0.1 * torch.eye(dimensions, dtype=torch.float64)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_frechet_distance_is_the_closed_form_of_gaussians(offset: float) -> None:
    mean_a, mean_b = normal(5, seed=1) + offset, normal(5, seed=2) + offset
    cov_a, cov_b = random_covariance(5, seed=3), random_covariance(5, seed=4)
    root = np.real(sqrtm((cov_a @ cov_b).numpy()))
    expected = (mean_a - mean_b).square().sum() + (cov_a + cov_b).trace() - 2 * np.trace(root)
    a, b = with_moments(200, mean_a, cov_a, seed=5), with_moments(300, mean_b, cov_b, seed=6)
    assert frechet_distance(a, b, IDENTITY) == pytest.approx(float(expected), rel=1e-6)


def test_frechet_distance_in_one_dimension() -> None:
    a = with_moments(50, torch.tensor([1.0]), torch.tensor([[4.0]]), seed=1)
    b = with_moments(50, torch.tensor([-2.0]), torch.tensor([[25.0]]), seed=2)
    assert frechet_distance(a, b, IDENTITY) == pytest.approx(3**2 + (5 - 2) ** 2, rel=1e-6)


def test_frechet_distance_of_identical_images_is_zero_even_when_few() -> None:
    images = torch.rand(10, 1, 8, 8) * 2 - 1
    assert frechet_distance(images, images, PixelFeatures()) == pytest.approx(0, abs=1e-5)


def test_frechet_distance_of_fewer_points_than_dimensions_loses_no_digits() -> None:
    """Of 4 points each, in 300 dimensions or in the 7 that they are in."""
    low_a, low_b = normal(4, 7, seed=1), 2 * normal(4, 7, seed=2)
    turn = torch.linalg.qr(normal(300, 7, seed=3)).Q
    shift = normal(300, seed=4)
    u, v = (helmert(4) @ points.numpy() / 3**0.5 for points in (low_a, low_b))
    root = np.trace(np.real(sqrtm(u @ v.T @ v @ u.T)))
    expected = float((low_a.mean(dim=0) - low_b.mean(dim=0)).square().sum()) + np.square(u).sum() + np.square(v).sum()
    measured = frechet_distance(low_a @ turn.T + shift, low_b @ turn.T + shift, IDENTITY)
    # In all 300 dimensions the square roots of rounding errors would add up to more than 1e-7.
    assert measured == pytest.approx(expected - 2 * root, rel=1e-10)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_uint8_is_measured_as_the_floats_that_it_stands_for(distance: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, high, (20, 1, 4, 4), dtype=torch.uint8, generator=generator) for high in (256, 128))
    scaled = normalize(a), normalize(b)
    assert distance(a, b, PixelFeatures()) == distance(*scaled, PixelFeatures())


def test_kernel_distance_of_two_points_is_the_closed_form() -> None:
    a, b = 0.5, -2.0
    expected = (a * a + 1) ** 3 + (b * b + 1) ** 3 - 2 * (a * b + 1) ** 3
    result = kernel_distance(torch.full((6, 1), a), torch.full((4, 1), b), IDENTITY)
    assert result.mean == pytest.approx(expected)
    assert result.std == pytest.approx(0, abs=1e-9)


def test_kernel_distance_is_near_zero_for_equal_laws_and_large_for_others() -> None:
    a, b, c = normal(500, 6, seed=1), normal(700, 6, seed=2), normal(700, 6, seed=3) + 1
    assert abs(kernel_distance(a, b, IDENTITY).mean) < 0.05
    assert kernel_distance(a, c, IDENTITY).mean > 1


def test_kernel_distance_is_unbiased_for_four_images() -> None:
    images = normal(300, 8, 1, 2, 2, seed=1)
    estimates = torch.tensor([kernel_distance(each[:4], each[4:], PixelFeatures()).mean for each in images])
    assert abs(estimates.mean()) < 4 * estimates.std() / len(estimates) ** 0.5


def test_kernel_distance_subsets_depend_on_the_seed_alone() -> None:
    a, b = normal(20, 3, seed=1), normal(60, 3, seed=2)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = kernel_distance(a, b, IDENTITY, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert kernel_distance(a, b, IDENTITY, seed=7) == first
    assert kernel_distance(a, b, IDENTITY, seed=8) != first
    assert first.std > 0


def test_kernel_distance_of_all_images_has_no_spread() -> None:
    result = kernel_distance(normal(20, 3, seed=1), normal(20, 3, seed=2), IDENTITY)
    assert isinstance(result, KernelDistance)
    assert result.std == 0


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_too_few_or_broken_images_are_named(distance: object) -> None:
    assert callable(distance)
    good, single = torch.zeros(4, 3), torch.zeros(1, 3)
    with pytest.raises(ValueError, match="`real` has 1 images"):
        distance(single, good, IDENTITY)
    with pytest.raises(ValueError, match="`generated` has 1 images"):
        distance(good, single, IDENTITY)
    with pytest.raises(ValueError, match=r"`generated` .* not finite"):
        distance(good, torch.full((4, 3), torch.nan), IDENTITY)
