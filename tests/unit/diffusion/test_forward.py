from __future__ import annotations

import pytest
import torch

from collafuse_flwr.diffusion.forward import add_noise, add_noise_official, cut_step
from collafuse_flwr.diffusion.schedule import cosine
from tests.unit.diffusion.oracle import Gaussian

COUNT = 40_000


@pytest.mark.parametrize(("ratio", "timesteps", "step"), [(0, 100, 0), (1, 100, 100), (0.2, 100, 20), (0.5, 11, 6)])
def test_the_cut_is_the_clients_share_of_the_steps(ratio: float, timesteps: int, step: int) -> None:
    assert cut_step(ratio, timesteps) == step


@pytest.mark.parametrize("ratio", [-0.01, 1.01])
def test_a_cut_outside_the_chain_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="`cut_ratio`"):
        cut_step(ratio, 100)


def test_no_step_changes_nothing() -> None:
    schedule, x = cosine(100), torch.randn(3, 1, 2, 2)
    t = torch.tensor([0, 20, 100])
    torch.testing.assert_close(add_noise(schedule, x, t, t, torch.randn_like(x)), x, rtol=0, atol=0)


def test_going_on_from_the_cut_has_the_law_of_going_at_once() -> None:
    schedule, data = cosine(100), Gaussian()
    generator = torch.Generator().manual_seed(1)
    x_0 = data.draw(COUNT, seed=0)
    zero, k, t = (torch.full((COUNT,), step) for step in (0, 30, 70))
    noise = [torch.randn(x_0.shape, generator=generator) for _ in range(3)]
    once = add_noise(schedule, x_0, zero, t, noise[0])
    twice = add_noise(schedule, add_noise(schedule, x_0, zero, k, noise[1]), k, t, noise[2])
    assert twice.mean().item() == pytest.approx(once.mean().item(), abs=0.01)
    assert twice.std().item() == pytest.approx(once.std().item(), abs=0.01)
    signal = torch.stack([(x_0 * x).mean() for x in (once, twice)])
    assert signal[1].item() == pytest.approx(signal[0].item(), abs=0.01)


def test_the_authors_code_leaves_too_little_signal() -> None:
    """Its signal is alpha_bar[t] alpha_bar[k], where the chain has alpha_bar[t]."""
    schedule, k, t = cosine(100), 30, 70
    one = torch.ones(1, 1, 1, 1)
    zero = torch.zeros_like(one)
    x_k = add_noise(schedule, one, torch.tensor([0]), torch.tensor([k]), zero)
    signal = add_noise_official(schedule, x_k, torch.tensor([t]), zero).item() ** 2
    assert signal == pytest.approx((schedule.alpha_bar[t] * schedule.alpha_bar[k]).item(), rel=1e-5)
    right = add_noise(schedule, x_k, torch.tensor([k]), torch.tensor([t]), zero).item() ** 2
    assert right == pytest.approx(schedule.alpha_bar[t].item(), rel=1e-5)
