from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from collafuse_flwr.privacy.leakage_bounds import (
    IMAGES_PER_VALUE,
    covariance_eigenvalues,
    gaussian_bits,
    matched_filter,
    snr_db,
    underestimates_bits,
    wiener_mse,
    wiener_psnr,
)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


COVARIANCE = torch.tensor([[2.0, 0.6, 0.0], [0.6, 1.0, 0.2], [0.0, 0.2, 0.1]], dtype=torch.float64)
EIGENVALUES = torch.linalg.eigvalsh(COVARIANCE)


def gaussian_data(count: int) -> Tensor:
    root: Tensor = torch.linalg.cholesky(COVARIANCE)
    return normal(count, 3, seed=1) @ root.T


def log_density(points: Tensor, covariance: Tensor) -> Tensor:
    """Log density of the Gaussian with mean 0, less the constant that is the same for every covariance."""
    precision: Tensor = torch.linalg.inv(covariance)
    return -((points @ precision * points).sum(dim=1) + torch.logdet(covariance)) / 2


def test_snr_in_decibels() -> None:
    assert snr_db(0.5) == 0
    assert snr_db(10 / 11) == pytest.approx(10)
    assert snr_db(1.0) == math.inf
    assert snr_db(0.0) == -math.inf


@pytest.mark.parametrize("alpha_bar", [-0.1, 1.1, math.nan])
def test_snr_outside_its_range_is_refused(alpha_bar: float) -> None:
    with pytest.raises(ValueError, match="`alpha_bar`"):
        snr_db(alpha_bar)


@pytest.mark.parametrize("count", [5, 48, 100])
def test_eigenvalues_are_those_of_the_covariance(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collafuse_flwr.privacy.leakage_bounds._BLOCK", 20)  # more than one block of the 48 pixels
    images = normal(count, 3, 4, 4, seed=count).float()
    expected = torch.linalg.eigvalsh(torch.cov(images.double().flatten(1).T)).clamp(min=0).flip(0)
    result = covariance_eigenvalues(images)
    assert result.shape == (48,)
    assert result.dtype == torch.float64
    assert result.min() >= 0
    torch.testing.assert_close(result, expected, atol=1e-12, rtol=1e-9)


def test_eigenvalues_of_many_images_take_some_from_everywhere() -> None:
    images = torch.linspace(-1, 1, 1000).reshape(1000, 1, 1, 1)
    assert covariance_eigenvalues(images, max_images=50).item() == pytest.approx(1 / 3, rel=0.1)


@pytest.mark.parametrize(("count", "max_images"), [(1, 4096), (5, 1)])
def test_eigenvalues_need_two_images(count: int, max_images: int) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        covariance_eigenvalues(torch.zeros(count, 1, 2, 2), max_images=max_images)


@pytest.mark.parametrize("releases", [1, 4])
def test_bits_are_the_mutual_information_of_gaussian_data(releases: int) -> None:
    snr, count = 0.7, 200_000
    x = gaussian_data(count)
    noise = torch.eye(3, dtype=torch.float64) / (snr * releases)
    y = x + normal(count, 3, seed=2) / math.sqrt(snr * releases)
    information = log_density(y - x, noise) - log_density(y, COVARIANCE + noise)
    bits = gaussian_bits(snr, EIGENVALUES, releases=releases)
    assert bits == pytest.approx(information.mean().item() / math.log(2), abs=0.02)


def test_bits_bound_the_information_of_data_that_is_not_gaussian() -> None:
    # A fair sign in +-1 has variance 1 and one bit, which the bound approaches from above as noise grows.
    variance = torch.ones(1, dtype=torch.float64)
    assert gaussian_bits(1000.0, variance) > 1
    y = normal(200_000, seed=1) / 2 + 1  # snr 4, given the sign +1
    information = 1 - torch.log2(1 + torch.exp(-8 * y)).mean().item()
    assert information < gaussian_bits(4.0, variance) < 1.5 * information


@pytest.mark.parametrize("releases", [1, 5])
def test_wiener_error_is_that_of_the_best_linear_estimate(releases: int) -> None:
    snr, count = 0.7, 100_000
    x = gaussian_data(count)
    noise = normal(count, releases, 3, seed=2).mean(dim=1) / math.sqrt(snr)
    gain = COVARIANCE @ torch.linalg.inv(COVARIANCE + torch.eye(3, dtype=torch.float64) / (snr * releases))
    error = (x - (x + noise) @ gain.T).square().mean().item()
    assert wiener_mse(snr, EIGENVALUES, releases=releases) == pytest.approx(error, rel=0.01)


@given(st.floats(1e-4, 1e4))
def test_information_grows_by_half_the_error(snr: float) -> None:
    # I-MMSE: dI/dsnr = mmse / 2 in nats (Guo, Shamai and Verdu 2005), the mmse summed over dimensions.
    step = 1e-4 * snr
    slope = (gaussian_bits(snr + step, EIGENVALUES) - gaussian_bits(snr - step, EIGENVALUES)) / (2 * step)
    assert slope * math.log(2) == pytest.approx(3 * wiener_mse(snr, EIGENVALUES) / 2, rel=1e-5)


def test_no_signal_and_no_noise() -> None:
    eigenvalues = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    assert gaussian_bits(0.0, eigenvalues) == 0
    assert gaussian_bits(math.inf, eigenvalues) == math.inf
    assert wiener_mse(0.0, eigenvalues) == pytest.approx(1)
    assert wiener_mse(math.inf, eigenvalues) == 0
    assert wiener_psnr(0.0, eigenvalues) == pytest.approx(10 * math.log10(4))
    assert wiener_psnr(math.inf, eigenvalues) == math.inf
    assert gaussian_bits(math.inf, torch.zeros(3)) == 0


@pytest.mark.parametrize("measure", [gaussian_bits, wiener_mse, wiener_psnr])
def test_impossible_releases_are_refused(measure: object) -> None:
    assert callable(measure)
    for snr in (-1.0, math.nan):
        with pytest.raises(ValueError, match="`snr`"):
            measure(snr, EIGENVALUES)
    with pytest.raises(ValueError, match="`releases`"):
        measure(1.0, EIGENVALUES, releases=0)


@pytest.mark.parametrize("alpha_bar", [0.05, 0.3])
def test_matched_filter_between_two_succeeds_as_often_as_theory_says(
    alpha_bar: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collafuse_flwr.privacy.leakage_bounds._BLOCK", 3000)
    count, candidates = 20_000, normal(2, 1, 2, 2, seed=1)
    truth = torch.arange(count) % 2
    y = math.sqrt(alpha_bar) * candidates[truth] + math.sqrt(1 - alpha_bar) * normal(count, 1, 2, 2, seed=2)
    success = (matched_filter(y, candidates, alpha_bar) == truth).double().mean().item()
    # The noise along the line between both must stay below half their distance.
    distance = (candidates[0] - candidates[1]).norm().item()
    half = math.sqrt(alpha_bar / (1 - alpha_bar)) * distance / 2
    expected = 0.5 * (1 + math.erf(half / math.sqrt(2)))
    assert 0.55 < expected < 0.95
    assert success == pytest.approx(expected, abs=4 * math.sqrt(0.25 / count))


def test_matched_filter_finds_every_clean_image() -> None:
    candidates = normal(30, 3, 4, 4, seed=1).float()
    matches = matched_filter(candidates, candidates, 1.0)
    assert torch.equal(matches, torch.arange(30))


@pytest.mark.parametrize("alpha_bar", [0.0, 1.5, math.nan])
def test_matched_filter_needs_a_signal(alpha_bar: float) -> None:
    with pytest.raises(ValueError, match="`alpha_bar`"):
        matched_filter(torch.zeros(1, 4), torch.zeros(2, 4), alpha_bar)


def test_bits_from_few_images_are_too_low_and_from_as_many_as_are_required_nearly_right() -> None:
    """Gaussian images of 16 values with a known covariance, in which most directions are as wide as the noise."""
    generator = torch.Generator().manual_seed(0)
    eigenvalues = torch.linspace(0.5, 2, 16, dtype=torch.float64)
    right = gaussian_bits(1.0, eigenvalues)

    def measured(count: int) -> float:
        images = torch.randn((count, 1, 4, 4), generator=generator, dtype=torch.float64)
        return gaussian_bits(1.0, covariance_eigenvalues(images * eigenvalues.sqrt().view(1, 4, 4)))

    few, enough = 8, IMAGES_PER_VALUE * 16
    assert underestimates_bits(few, 16)
    assert measured(few) < 0.8 * right
    assert not underestimates_bits(enough, 16)
    assert measured(enough) > 0.95 * right
