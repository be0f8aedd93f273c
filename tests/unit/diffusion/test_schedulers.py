"""What others load of our schedules and samplers: names where diffusers has them, and the same numbers always."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

from collafuse_flwr.diffusion.parametrization import Prediction
from collafuse_flwr.diffusion.sampling import sample, sampling_timesteps
from collafuse_flwr.diffusion.schedule import Schedule, cosine, linear, sigmoid
from collafuse_flwr.diffusion.schedulers import Sampler, saved_ddpm, saved_solver, set_grid, stock_betas
from tests.unit.diffusion.oracle import Gaussian

T = 50
SCHEDULES = {
    "cosine": cosine(T),
    "cosine-0.1": cosine(T, 0.1),
    "linear": linear(T),
    "linear-20": linear(20),
    "sigmoid": sigmoid(T),
}
#: Its estimate of the image is clamped often.
WIDE = Gaussian(mean=0.6, std=1.0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_named_where_diffusers_has_it(name: str) -> None:
    """Another offset of the cosine, or a linear one that is cut off at 0.999, is not what the name says."""
    schedule, expected = SCHEDULES[name], {"cosine": "squaredcos_cap_v2", "linear": "linear"}.get(name)
    assert stock_betas(schedule).get("beta_schedule") == expected
    betas = saved_ddpm(schedule, "epsilon").betas
    torch.testing.assert_close(betas.double(), schedule.betas, rtol=1e-5, atol=0)


def _by(scheduler: Any, schedule: Schedule, prediction: Prediction, grid: list[int]) -> torch.Tensor:
    """The plain loop of diffusers' documentation, with the best denoiser of wide data."""
    network, generator = WIDE.denoise(schedule, prediction), torch.Generator().manual_seed(0)
    x = torch.randn(64, 1, 2, 2, generator=generator)
    set_grid(scheduler, grid)
    for t in grid[:-1]:
        output = network(x, torch.full((64,), t), None)
        x = scheduler.step(output, t - 1, x, generator=generator).prev_sample
    return x


def _ours(schedule: Schedule, prediction: Prediction, grid: list[int], sampler: Sampler) -> torch.Tensor:
    network, generator = WIDE.denoise(schedule, prediction), torch.Generator().manual_seed(0)
    x = torch.randn(64, 1, 2, 2, generator=generator)

    def noise(_: int, shape: torch.Size) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return sample(schedule, prediction, network, x, grid, sampler=sampler, noise=noise)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_stock_schedulers_carry_a_state_where_our_sampler_does(
    prediction: Prediction, name: str, sampler: Sampler
) -> None:
    """To 2e-4 of images in [-1, 1]: both halves, on 7 of the steps and on all; also what is made `from_config`."""
    schedule, ddpm = SCHEDULES[name], saved_ddpm(SCHEDULES[name], prediction)
    last, cut = schedule.timesteps, schedule.timesteps // 3
    plain: list[Any] = {
        "ddpm": [ddpm],
        "ddim": [],
        "dpm++": [DPMSolverMultistepScheduler.from_config(ddpm.config)],
    }[sampler]
    for grid in (sampling_timesteps(last, cut, 7), sampling_timesteps(cut, 0, 7), sampling_timesteps(last, 0)):
        ours = _ours(schedule, prediction, grid, sampler)
        for scheduler in (saved_solver(schedule, sampler, prediction), *plain):
            theirs = _by(scheduler, schedule, prediction, grid)
            torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-4, msg=type(scheduler).__name__)


def test_few_steps_begin_at_pure_noise() -> None:
    scheduler: DDPMScheduler = saved_ddpm(cosine(T), "epsilon")
    scheduler.set_timesteps(7)
    assert scheduler.timesteps[0] == T - 1
