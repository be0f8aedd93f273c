"""Bits by I-MMSE: exact where the best denoiser is known, and never above the Gaussian bound."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.diffusion.parametrization import Denoise
from collafuse_flwr.diffusion.schedule import Schedule, linear
from collafuse_flwr.privacy.leakage_bounds import gaussian_bits
from collafuse_flwr.privacy.mutual_information import denoised_bits, denoising_errors
from tests.unit.diffusion.oracle import Gaussian

SCHEDULE = linear(1000)
CUT = 300
STEPS = torch.linspace(CUT, 1000, 60).round().long()
SNR = SCHEDULE.snr()
EIGENVALUES = torch.tensor([4.0, 1.0, 0.3, 0.01, 0.0], dtype=torch.float64)


def optimal(eigenvalues: Tensor, at: Tensor) -> Tensor:
    """The least error on Gaussian data, in closed form."""
    return torch.stack([(eigenvalues / (1 + g * eigenvalues)).sum() for g in at])


def test_the_area_under_the_least_error_is_the_information_of_gaussian_data() -> None:
    """Also where the linear bound is that of data which vary twice as much, and so says too much."""
    at, snr = SNR[STEPS], float(SNR[CUT])
    exact = gaussian_bits(snr, EIGENVALUES)
    errors = optimal(EIGENVALUES, at)
    assert denoised_bits(snr, EIGENVALUES, at, errors) == pytest.approx(exact, rel=1e-3)
    too_much = gaussian_bits(snr, 2 * EIGENVALUES)
    bits = denoised_bits(snr, 2 * EIGENVALUES, at.flip(0), errors.flip(0))
    # Below the noisiest step nothing was measured, and the bound of the wider data stays.
    rest = gaussian_bits(float(SNR[-1]), 2 * EIGENVALUES) - gaussian_bits(float(SNR[-1]), EIGENVALUES)
    assert bits == pytest.approx(exact + rest, rel=5e-3)
    assert bits < 0.9 * too_much


def test_of_the_right_network_for_gaussian_data_it_is_the_gaussian_bound() -> None:
    data = Gaussian(mean=0.1, std=0.2)
    images = data.draw(2000, seed=0)
    errors = denoising_errors(
        SCHEDULE, "v_prediction", data.denoise(SCHEDULE, "v_prediction"), images, STEPS, named_generator("information")
    )
    eigenvalues = torch.full((4,), data.std**2, dtype=torch.float64)
    torch.testing.assert_close(errors, optimal(eigenvalues, SNR[STEPS]), rtol=0.1, atol=0)
    bits = denoised_bits(float(SNR[CUT]), eigenvalues, SNR[STEPS], errors)
    assert bits == pytest.approx(gaussian_bits(float(SNR[CUT]), eigenvalues), rel=0.02)


def coin(schedule: Schedule, image: Tensor) -> Denoise:
    """The best network for two images that are equally likely, one the negative of the other."""

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        alpha_bar = schedule.at(t)
        sign = torch.tanh(alpha_bar.sqrt() / (1 - alpha_bar) * (x_t * image).sum(dim=(1, 2, 3), keepdim=True))
        return (x_t - alpha_bar.sqrt() * sign * image) / (1 - alpha_bar).sqrt()

    return denoise


def test_of_two_images_there_is_one_bit_to_tell() -> None:
    """The Gaussian bound knows the covariance alone, and grows with the signal for ever."""
    image = 0.8 * torch.ones(1, 3, 4, 4)
    images = torch.cat([image, -image]).repeat(300, 1, 1, 1)
    eigenvalues = torch.cat([image.square().sum().double().view(1), torch.zeros(47)])
    steps = torch.linspace(1, 1000, 200).round().long()
    errors = denoising_errors(SCHEDULE, "epsilon", coin(SCHEDULE, image), images, steps, named_generator("coin"))
    snr = float(SNR[100])
    assert gaussian_bits(snr, eigenvalues) > 4
    assert denoised_bits(snr, eigenvalues, SNR[steps], errors) == pytest.approx(1, abs=0.02)


def test_a_bad_network_leaves_the_gaussian_bound_as_it_is() -> None:
    at, snr = SNR[STEPS], float(SNR[CUT])
    bad = 1.01 * optimal(EIGENVALUES, at)
    assert denoised_bits(snr, EIGENVALUES, at, bad) == gaussian_bits(snr, EIGENVALUES)


def test_several_releases_are_bounded_by_the_last_error_that_was_measured() -> None:
    """What is known at the cut holds for more signal as well, until the linear error is below it."""
    at, snr = SNR[STEPS], float(SNR[CUT])
    errors = 0.5 * optimal(EIGENVALUES, at)
    one, twice, many = (denoised_bits(n * snr, EIGENVALUES, at, errors) for n in (1, 1.2, 50))
    assert twice - one == pytest.approx(0.2 * snr * float(errors[0]) / (2 * math.log(2)), rel=1e-3)
    # Twenty times as much signal makes the linear error the smaller one: from there both bounds grow alike.
    assert many - denoised_bits(20 * snr, EIGENVALUES, at, errors) == pytest.approx(
        gaussian_bits(50 * snr, EIGENVALUES) - gaussian_bits(20 * snr, EIGENVALUES), rel=1e-2
    )


def test_where_nothing_was_measured_the_bound_is_gaussian() -> None:
    at = torch.tensor([0.5, 1.0])
    assert denoised_bits(0.4, EIGENVALUES, at, torch.zeros(2)) == gaussian_bits(0.4, EIGENVALUES)


@pytest.mark.parametrize(("snr", "measured"), [(-1.0, 2), (math.inf, 2), (math.nan, 2), (1.0, 0), (1.0, 1)])
def test_what_cannot_be_integrated_is_refused(snr: float, measured: int) -> None:
    with pytest.raises(ValueError, match="is not a finite number"):
        denoised_bits(snr, EIGENVALUES, torch.ones(2 if measured else 0), torch.ones(measured))
