"""A client must not count for more, or for less, by where it cuts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from collafuse_flwr.diffusion.forward import add_noise
from collafuse_flwr.diffusion.loss import Objective, denoising_loss, stratified_steps
from collafuse_flwr.diffusion.parametrization import Prediction
from collafuse_flwr.diffusion.sampling import sample, sampling_timesteps
from collafuse_flwr.diffusion.schedule import make_schedule

#: Two clients with different data, the images 0.8 and -0.8, and different cuts.
GREY, CUTS = 0.8, (20, 57)
STEPS, BATCH, RATE = 1500, 512, 2e-3


class Small(nn.Module):
    """Enough to learn two points with."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(9, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 1))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        x, time = x.view(-1, 1), t.float().view(-1, 1) / 100
        waves = [function(math.pi * i * time) for i in (1, 2, 3) for function in (torch.sin, torch.cos)]
        result: Tensor = self.layers(torch.cat([x, time, *waves, x * time], 1)).view(-1, 1, 1, 1)
        return result


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_the_share_of_each_client_in_the_hand_over_is_its_share_of_the_images(
    prediction: Prediction, share: float
) -> None:
    """Divided by r instead of alpha_bar[t], the second client has 6 % of what is handed over, not its half."""
    torch.manual_seed(0)
    schedule, generator = make_schedule("linear", 100), torch.Generator().manual_seed(0)
    network = Small()
    optimiser = torch.optim.Adam(network.parameters(), RATE)
    zeros = torch.zeros(BATCH, dtype=torch.int64)
    second = torch.arange(BATCH) < share * BATCH
    x_0 = torch.where(second, -GREY, GREY).view(-1, 1, 1, 1)
    start = torch.where(second, CUTS[1], CUTS[0])
    for done in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - done / STEPS)
        # Many draws of x_k, so that none is learnt by heart.
        x_k = add_noise(schedule, x_0, zeros, start, torch.randn(x_0.shape, generator=generator))
        t = stratified_steps(start + 1, 100, generator)
        noise = torch.randn(x_0.shape, generator=generator)
        loss = denoising_loss(schedule, Objective(prediction), network, x_k, start, t, noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x_t = torch.randn((20_000, 1, 1, 1), generator=generator)
    grid = sampling_timesteps(100, CUTS[1], 0)
    handed = sample(schedule, prediction, network, x_t, grid, sampler="ddim")
    mean = float(handed.mean()) / float(schedule.alpha_bar[CUTS[1]]) ** 0.5
    assert (1 - mean / GREY) / 2 == pytest.approx(share, abs=0.08)
