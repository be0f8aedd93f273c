"""Our schedules and samplers as schedulers of diffusers, which counts steps from 0 where we count from 1."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import torch

from collafuse_flwr.diffusion.parametrization import Prediction
from collafuse_flwr.diffusion.schedule import Schedule

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

Sampler = Literal["ddpm", "ddim", "dpm++"]

# All three are one family in half-log-SNR: SDE-DPM-Solver++ of order 1 has the posterior mean and variance of DDPM's
# ancestral step, and DPM-Solver++ of order 1 is DDIM with eta = 0 (Lu et al., arXiv 2211.01095, sections 3 and 5).
_SOLVERS: dict[str, dict[str, Any]] = {
    "ddpm": {"algorithm_type": "sde-dpmsolver++", "solver_order": 1},
    "ddim": {"algorithm_type": "dpmsolver++", "solver_order": 1},
    "dpm++": {"algorithm_type": "dpmsolver++", "solver_order": 2},
}
#: What every saved scheduler has. Thresholds of at most 1 clamp the image's estimate to [-1, 1], which not
#: all schedulers do by `clip_sample`; `trailing` begins at T however few the steps are.
_SAVED = {"thresholding": True, "sample_max_value": 1.0, "timestep_spacing": "trailing"}


def solver(schedule: Schedule, sampler: Sampler, **settings: Any) -> DPMSolverMultistepScheduler:
    """The solver that is a sampler of ours, on the steps that `set_grid` gives it."""
    from diffusers import DPMSolverMultistepScheduler  # noqa: PLC0415 - slow, as in unet.py

    return DPMSolverMultistepScheduler(
        num_train_timesteps=schedule.timesteps,
        final_sigmas_type="zero",
        lower_order_final=False,
        **_SOLVERS[sampler],
        **settings,
    )


def saved_solver(schedule: Schedule, sampler: Sampler, prediction: Prediction) -> DPMSolverMultistepScheduler:
    """The solver as others use it: on the output of networks, with the image's estimate clamped to [-1, 1]."""
    # Its default, minus infinity, is no JSON; no half-log-SNR comes near this one.
    lowest = {"lambda_min_clipped": -1000.0}
    return solver(schedule, sampler, prediction_type=prediction, **lowest, **stock_betas(schedule), **_SAVED)


def saved_ddpm(schedule: Schedule, prediction: Prediction) -> DDPMScheduler:
    """The ancestral sampler on the output of networks, from whose settings other schedulers of diffusers are made."""
    from diffusers import DDPMScheduler  # noqa: PLC0415 - slow, as in unet.py

    return DDPMScheduler(
        num_train_timesteps=schedule.timesteps, prediction_type=prediction, **stock_betas(schedule), **_SAVED
    )


def stock_betas(schedule: Schedule) -> dict[str, Any]:
    """beta_1..beta_T as settings of a scheduler: by name where diffusers has them to 5 digits, else as they are."""
    from diffusers import DDPMScheduler  # noqa: PLC0415 - slow, as in unet.py

    betas = schedule.betas
    for named in (
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "linear", "beta_start": betas[0].item(), "beta_end": betas[-1].item()},
    ):
        stock = DDPMScheduler(num_train_timesteps=schedule.timesteps, **named).betas
        if torch.allclose(stock.double(), betas, rtol=1e-5, atol=0):
            return named
    return {"trained_betas": betas.tolist()}


def set_grid(scheduler: Any, grid: list[int]) -> None:
    """Begin anew on falling steps, as from `sampling_timesteps`; a multistep scheduler forgets what was before.

    Args:
        scheduler: one whose `set_timesteps` takes `timesteps`.
        grid: at least two steps; the last is where the state ends, and is never stepped from.
    """
    # A scheduler ends by itself at the image. Above it, the cut is the last entry.
    last = len(grid) - 1 if grid[-1] == 0 else len(grid)
    with warnings.catch_warnings():
        # diffusers hands tensors to numpy.array in the way that NumPy 2 announces to end.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        scheduler.set_timesteps(timesteps=[t - 1 for t in grid[:last]])
