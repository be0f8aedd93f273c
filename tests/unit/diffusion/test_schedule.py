from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collafuse_flwr.diffusion.schedule import SCHEDULES, Schedule, cosine, linear, make_schedule

NAMES = sorted(SCHEDULES)


@given(st.sampled_from(NAMES), st.integers(2, 2000))
def test_every_schedule_falls_from_one_and_stays_positive(name: str, timesteps: int) -> None:
    schedule = make_schedule(name, timesteps)
    assert schedule.timesteps == timesteps
    assert schedule.alpha_bar[0] == 1
    assert (schedule.alpha_bar[1:] < schedule.alpha_bar[:-1]).all()
    assert schedule.alpha_bar[-1] > 0


def test_cosine_is_nichol_and_dhariwals_curve() -> None:
    schedule, s = cosine(1000), 0.008

    def curve(t: float) -> float:
        return math.cos((t + s) / (1 + s) * math.pi / 2) ** 2

    for t in (1, 10, 500, 900):
        assert schedule.alpha_bar[t].item() == pytest.approx(curve(t / 1000) / curve(0), rel=1e-9)


def test_linear_with_a_thousand_steps_is_ddpms() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    torch.testing.assert_close(linear(1000).alpha_bar[1:], torch.cumprod(1 - betas, 0))


@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_steps_end_in_noise_as_a_thousand_do(name: str) -> None:
    assert make_schedule(name, 100).alpha_bar[-1] < 1e-4
    assert make_schedule(name, 1000).alpha_bar[-1] < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_snr_inverse_finds_each_step_again(name: str) -> None:
    schedule = make_schedule(name, 50)
    for t in range(1, 51):
        assert schedule.snr_inverse(schedule.snr()[t].item()) == t


def test_snr_inverse_refuses_more_noise_than_there_is() -> None:
    with pytest.raises(ValueError, match="`snr`"):
        cosine(10).snr_inverse(1e-12)


@pytest.mark.parametrize("alpha_bar", [[0.9, 0.5], [1.0, 0.5, 0.5], [1.0, 0.0], [1.0]])
def test_a_curve_that_is_no_schedule_is_refused(alpha_bar: list[float]) -> None:
    with pytest.raises(ValueError, match="`alpha_bar`"):
        Schedule(torch.tensor(alpha_bar, dtype=torch.float64))
