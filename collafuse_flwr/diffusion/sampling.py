"""Generation on one global chain by any number of networks, one after the other."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from collafuse_flwr.diffusion.parametrization import Denoise, Prediction, to_image
from collafuse_flwr.diffusion.schedule import Schedule

if TYPE_CHECKING:
    from diffusers import DPMSolverMultistepScheduler

Sampler = Literal["ddpm", "ddim", "dpm++"]

#: Draws the standard normal noise of the step from t, of the shape given.
StepNoise = Callable[[int, torch.Size], Tensor]

# All three are one family in half-log-SNR: SDE-DPM-Solver++ of order 1 has the posterior mean and variance of DDPM's
# ancestral step, and DPM-Solver++ of order 1 is DDIM with eta = 0 (Lu et al., arXiv 2211.01095, sections 3 and 5).
_SOLVERS: dict[str, dict[str, Any]] = {
    "ddpm": {"algorithm_type": "sde-dpmsolver++", "solver_order": 1},
    "ddim": {"algorithm_type": "dpmsolver++", "solver_order": 1},
    "dpm++": {"algorithm_type": "dpmsolver++", "solver_order": 2},
}


def sampling_timesteps(start: int, stop: int, steps: int = 0) -> list[int]:
    """Steps from `start` down to `stop`, both included, evenly spread: `steps` + 1 of them, or all when `steps` is 0.

    Example: time_grid(100, 20, 4) is [100, 80, 60, 40, 20]. More steps than there are is the same as all.
    """
    if not 0 <= stop <= start or steps < 0:
        raise ValueError(f"a grid needs 0 <= `stop` <= `start` and `steps` >= 0, not {start}, {stop}, {steps}")
    count = min(steps, start - stop) if steps else start - stop
    return [start - round(i * (start - stop) / count) for i in range(count + 1)] if count else [start]


@torch.no_grad()
def sample(
    schedule: Schedule,
    prediction: Prediction,
    denoise: Denoise,
    x: Tensor,
    grid: list[int],
    *,
    sampler: Sampler = "ddpm",
    labels: Tensor | None = None,
    noise: StepNoise | None = None,
    clamp: bool = True,
) -> Tensor:
    """Carry x from step grid[0] down to step grid[-1] with one network.

    The server calls it with a grid from T to k, the client with a grid from k to 0, on the result: the same solver on
    the same global chain. A multistep solver's history starts anew in every call, because the network changes.
    The estimate of the image is clamped to [-1, 1], the state never is: at a cut it is a noisy image.

    Args:
        schedule: the global schedule.
        prediction: what the network predicts.
        denoise: the network.
        x: the state at step grid[0], shape (batch, channels, height, width), float32.
        grid: falling steps, as from `sampling_timesteps`; a grid of one step returns x as it is.
        sampler: ddpm (ancestral), ddim (deterministic), dpm++ (DPM-Solver++ 2M).
        labels: classes, attributes or None, as in `Denoise`.
        noise: draws the noise of a ddpm step; the other samplers use none.
        clamp: whether the image estimate is clamped to [-1, 1].

    Returns:
        The state at step grid[-1], of the shape of x, float32.
    """
    if len(grid) < 2:
        return x
    solver = _solver(schedule, grid, sampler)
    for t in grid[:-1]:
        steps = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
        image = to_image(schedule, prediction, denoise(x, steps, labels), x, steps)
        if clamp:
            image = image.clamp(-1, 1)
        step_noise = noise(t, x.shape) if noise is not None and sampler == "ddpm" else None
        x = solver.step(image, t - 1, x, variance_noise=step_noise, return_dict=False)[0]
    return x


def _solver(schedule: Schedule, grid: list[int], sampler: Sampler) -> DPMSolverMultistepScheduler:
    """A diffusers solver on our grid; diffusers counts its steps from 0, where we count from 1."""
    from diffusers import DPMSolverMultistepScheduler  # noqa: PLC0415 - slow, as in unet.py

    solver = DPMSolverMultistepScheduler(
        num_train_timesteps=schedule.timesteps,
        trained_betas=schedule.betas.numpy(),
        prediction_type="sample",
        final_sigmas_type="zero",
        lower_order_final=False,
        **_SOLVERS[sampler],
    )
    # The solver ends by itself at sigma = 0, the image. Above it, the cut is the last entry, and is never stepped from.
    last = len(grid) - 1 if grid[-1] == 0 else len(grid)
    with warnings.catch_warnings():
        # diffusers hands tensors to numpy.array in the way that NumPy 2 announces to end.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        solver.set_timesteps(timesteps=[t - 1 for t in grid[:last]])
    return solver
