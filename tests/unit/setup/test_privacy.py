"""The chosen cut is the smallest that keeps to its target, whatever the target."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import DataError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.diffusion.schedule import make_schedule
from collafuse_flwr.privacy.accounting import epsilon, release_mu
from collafuse_flwr.privacy.leakage_bounds import covariance_eigenvalues, gaussian_bits, snr_db
from collafuse_flwr.privacy.reidentification import reidentification_rate
from collafuse_flwr.setup.privacy import choose_cut, total_releases
from tests.small_runs import dotted

STEPS = 50


def images() -> torch.Tensor:
    return torch.rand((60, 1, 4, 4), generator=torch.Generator().manual_seed(0)) * 2 - 1


def config_of(**given: Any) -> Config:
    policy = {"cut.policy": "by_disclosure"} if "cut__criterion" in given else {}
    return Config.from_flat({"diffusion.timesteps": STEPS, "diffusion.schedule": "linear"} | policy | dotted(given))


def disclosed(name: str, cut: int, releases: int = 1) -> float:
    """What uploads at a cut disclose, by the definition of each target."""
    alpha_bar = float(make_schedule("linear", STEPS).alpha_bar[cut])
    snr = alpha_bar / (1 - alpha_bar)
    if name == "snr_db":
        return snr_db(alpha_bar)
    if name == "bits":
        return gaussian_bits(snr, covariance_eigenvalues(images()), releases=releases)
    if name == "epsilon":
        return epsilon(release_mu(snr, 4.0, releases=releases), 1e-5)
    generator = named_generator(0, "cut_reid", 3)
    return reidentification_rate(images(), torch.arange(60), alpha_bar, releases=releases, generator=generator)


@pytest.mark.parametrize(("name", "most"), [("snr_db", -10.0), ("bits", 3.0), ("epsilon", 8.0), ("reid", 0.3)])
def test_it_is_the_smallest_cut_that_keeps_to_the_target(name: str, most: float) -> None:
    cut = choose_cut(
        config_of(cut__criterion=name, cut__target=most),
        make_schedule("linear", STEPS),
        images(),
        3,
    )
    assert 1 < cut < STEPS - 1
    assert disclosed(name, cut) <= most < disclosed(name, cut - 1)


@pytest.mark.parametrize("name", ["bits", "epsilon", "reid"])
def test_more_releases_need_more_noise(name: str) -> None:
    most = {"bits": 3.0, "epsilon": 8.0, "reid": 0.3}[name]
    config = config_of(cut__criterion=name, cut__target=most, upload__noise="resampled", num_rounds=3)
    assert total_releases(config) == 3
    cut = choose_cut(config, make_schedule("linear", STEPS), images(), 3)
    assert disclosed(name, cut, 3) <= most < disclosed(name, cut - 1, 3)


def test_clipping_allows_a_smaller_cut() -> None:
    schedule = make_schedule("linear", STEPS)
    free, clipped = (
        choose_cut(
            config_of(cut__criterion="epsilon", cut__target=8, upload__clip_norm=norm),
            schedule,
            images(),
            0,
        )
        for norm in (0.0, 1.0)
    )
    assert clipped < free


def test_a_target_that_no_cut_meets_is_refused_in_one_line() -> None:
    # Cosine schedules end in noise, linear ones of few steps do not.
    with pytest.raises(
        DataError, match=r"^`cut.target` = 1e-06 \(bits\) cannot be met by client 2: even .* 49 of 50, it is "
    ):
        choose_cut(
            config_of(cut__criterion="bits", cut__target=1e-6),
            make_schedule("linear", STEPS),
            images(),
            2,
        )
