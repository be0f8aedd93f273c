"""Generation on one global chain by any number of networks, one after the other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from collafuse_flwr.core.progress import counted
from collafuse_flwr.diffusion.parametrization import Denoise, Prediction, to_image
from collafuse_flwr.diffusion.schedule import Schedule
from collafuse_flwr.diffusion.schedulers import Sampler, set_grid, solver

#: Pixels that a network has at a time, on a processor and on an accelerator: what is larger is fetched from the system
#: for every layer anew, which took longer than the arithmetic at 1,000 images of 32 x 32, or does not fit.
PIXELS_AT_A_TIME = {"cpu": 2**16, "accelerator": 2**21}
#: Draws the standard normal noise of the step from t, of the shape given.
StepNoise = Callable[[int, torch.Size], Tensor]


def sampling_timesteps(start: int, stop: int, steps: int = 0) -> list[int]:
    """Steps from `start` down to `stop`, both included, evenly spread: `steps` + 1 of them, or all when `steps` is 0.

    Example: sampling_timesteps(100, 20, 4) is [100, 80, 60, 40, 20]. More steps than there are is the same as all.
    """
    if not 0 <= stop <= start or steps < 0:
        raise ValueError(f"a grid needs 0 <= `stop` <= `start` and `steps` >= 0, not {start}, {stop}, {steps}")
    count = min(steps, start - stop) if steps else start - stop
    return [start - round(i * (start - stop) / count) for i in range(count + 1)] if count else [start]


def split_steps(timesteps: int, cut: int, total: int) -> tuple[int, int]:
    """Of `total` sampling steps those above and below the cut, at least one where there is any; 0: every step."""
    below = max(1, round(total * cut / timesteps)) if total and cut else 0
    return total and max(1, total - below), below


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
    show: str = "",
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
        show: what its progress is called on standard error; empty: it is not shown.

    Returns:
        The state at step grid[-1], of the shape of x, float32.
    """
    if len(grid) < 2:
        return x
    steps_down = solver(schedule, sampler, trained_betas=schedule.betas.numpy(), prediction_type="sample")
    set_grid(steps_down, grid)
    for t in counted(grid[:-1], show, total=len(grid) - 1) if show else grid[:-1]:
        steps = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
        image = to_image(schedule, prediction, _in_parts(denoise, x, steps, labels), x, steps)
        if clamp:
            image = image.clamp(-1, 1)
        step_noise = noise(t, x.shape) if noise is not None and sampler == "ddpm" else None
        x = steps_down.step(image, t - 1, x, variance_noise=step_noise, return_dict=False)[0]
    return x


def _in_parts(denoise: Denoise, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    """What the network makes of x, of so many images at a time that memory is taken and given back in small pieces."""
    place = "cpu" if x.device.type == "cpu" else "accelerator"
    rows = max(1, PIXELS_AT_A_TIME[place] // math.prod(x.shape[2:]))
    if len(x) <= rows:
        return denoise(x, t, labels)
    conditions = itertools.repeat(None) if labels is None else labels.split(rows)
    return torch.cat([denoise(*part) for part in zip(x.split(rows), t.split(rows), conditions, strict=False)])
