from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from collafuse_flwr.evaluation.coverage import Coverage, measure_coverage

IDENTITY = nn.Identity()


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(real: Tensor, generated: Tensor, k: int) -> Coverage:
    """Evaluate the equations of the papers, one pair of points at a time."""

    def radius(points: Tensor, i: int) -> float:
        return sorted(math.dist(points[i].tolist(), other.tolist()) for other in points)[k]

    def in_ball(point: Tensor, centres: Tensor, i: int) -> bool:
        return math.dist(point.tolist(), centres[i].tolist()) <= radius(centres, i)

    n, m = range(len(real)), range(len(generated))
    return Coverage(
        precision=sum(any(in_ball(generated[j], real, i) for i in n) for j in m) / len(m),
        recall=sum(any(in_ball(real[i], generated, j) for j in m) for i in n) / len(n),
        density=sum(in_ball(generated[j], real, i) for i in n for j in m) / (k * len(m)),
        coverage=sum(any(in_ball(generated[j], real, i) for j in m) for i in n) / len(n),
    )


@pytest.mark.parametrize("rows", [1024, 4])
def test_agrees_with_the_definition_whatever_the_block(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collafuse_flwr.evaluation.coverage._ROWS", rows)
    real, generated = normal(15, 2, seed=1), 0.7 * normal(11, 2, seed=2) + 1
    result, expected = measure_coverage(real, generated, IDENTITY, k=3), by_definition(real, generated, 3)
    assert 0 < expected.recall < expected.precision
    assert result == expected


def test_identical_sets_cover_each_other() -> None:
    points = normal(100, 4, seed=1)
    result = measure_coverage(points, points, IDENTITY, k=5)
    # Each ball holds its k neighbours and its own centre.
    assert result == Coverage(precision=1, recall=1, density=6 / 5, coverage=1)


def test_copies_of_one_image_cover_each_other() -> None:
    points = torch.full((10, 1, 8, 8), 0.3)
    result = measure_coverage(points, points, nn.Flatten())
    assert (result.precision, result.recall, result.coverage) == (1, 1, 1)


def test_sets_far_apart_do_not_cover_each_other() -> None:
    points = normal(100, 4, seed=1)
    assert measure_coverage(points, points + 100, IDENTITY) == Coverage(0, 0, 0, 0)


def test_a_dropped_mode_costs_recall_and_coverage_but_not_precision() -> None:
    mode, other = normal(50, 3, seed=1), normal(50, 3, seed=2) + 100
    result = measure_coverage(torch.cat([mode, other]), mode, IDENTITY)
    assert (result.precision, result.recall, result.coverage) == (1, 0.5, 0.5)


def test_equal_laws_give_the_expected_density_and_coverage() -> None:
    n, k = 1000, 5
    result = measure_coverage(normal(n, 3, seed=1), normal(n, 3, seed=2), IDENTITY, k=k)
    # Naeem et al. 2020: exact for any law with a density.
    expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    assert result.coverage == pytest.approx(expected, abs=0.02)
    assert result.density == pytest.approx(1, abs=0.1)


def test_too_few_images_are_named() -> None:
    with pytest.raises(ValueError, match="`generated` has 5 images, at least 6"):
        measure_coverage(normal(6, 2, seed=1), normal(5, 2, seed=2), IDENTITY)
