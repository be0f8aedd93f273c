from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from collafuse_flwr.core import progress
from collafuse_flwr.diffusion import sampling
from collafuse_flwr.diffusion.sampling import sample, sampling_timesteps
from collafuse_flwr.diffusion.schedule import Schedule, make_schedule
from collafuse_flwr.diffusion.schedulers import Sampler
from collafuse_flwr.diffusion.setup import named_noise
from tests.unit.diffusion.oracle import Gaussian

T = 50
SAMPLERS: list[Sampler] = ["ddpm", "ddim", "dpm++"]
SCHEDULES = ["cosine", "linear", "sigmoid"]


def _run(schedule: Schedule, x: Tensor, grid: list[int], sampler: Sampler, data: Gaussian) -> Tensor:
    denoise = data.denoise(schedule, "v_prediction")
    return sample(
        schedule, "v_prediction", denoise, x, grid, sampler=sampler, noise=named_noise(("test",)), clamp=False
    )


@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("cut", [0, 1, 10, 25, 40, 49, 50])
def test_split_equals_unsplit_with_the_same_noise(schedule_name: str, sampler: Sampler, cut: int) -> None:
    schedule, data = make_schedule(schedule_name, T), Gaussian()
    x_t = torch.randn(64, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    whole = _run(schedule, x_t, sampling_timesteps(T, 0), sampler, data)
    x_k = _run(schedule, x_t, sampling_timesteps(T, cut), sampler, data)
    split = _run(schedule, x_k, sampling_timesteps(cut, 0), sampler, data)
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("cut", [0, 10, 25, 40, 50])
def test_split_generation_has_the_moments_of_the_data(schedule_name: str, sampler: Sampler, cut: int) -> None:
    schedule, data, count = make_schedule(schedule_name, 250), Gaussian(), 20_000
    x_t = torch.randn(count, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    k = cut * 5
    handed = _run(schedule, x_t, sampling_timesteps(250, k), sampler, data)
    alpha_bar = schedule.alpha_bar[k].item()
    spread = (alpha_bar * data.std**2 + 1 - alpha_bar) ** 0.5
    assert handed.mean().item() == pytest.approx(alpha_bar**0.5 * data.mean, abs=0.02)
    assert handed.std().item() == pytest.approx(spread, abs=0.02)
    images = _run(schedule, handed, sampling_timesteps(k, 0), sampler, data)
    assert images.mean().item() == pytest.approx(data.mean, abs=0.02)
    assert images.std().item() == pytest.approx(data.std, abs=0.02)


@pytest.mark.parametrize("schedule_name", SCHEDULES)
def test_ddpm_is_the_posterior_of_ho_et_al(schedule_name: str) -> None:
    """x_{t-1} ~ N(c_0 x_0_hat + c_t x_t, beta_tilde), arXiv 2006.11239 equation 7, written out."""
    schedule, data, noise = make_schedule(schedule_name, T), Gaussian(), named_noise(("test",))
    x = torch.randn(32, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    ours = _run(schedule, x, sampling_timesteps(T, 0), "ddpm", data)
    alpha_bar = schedule.alpha_bar
    for t in range(T, 0, -1):
        steps = torch.full((32,), t)
        image = (x - (1 - alpha_bar[t]).sqrt() * data.noise(schedule, x, steps)) / alpha_bar[t].sqrt()
        beta = 1 - alpha_bar[t] / alpha_bar[t - 1]
        mean = alpha_bar[t - 1].sqrt() * beta * image + (1 - beta).sqrt() * (1 - alpha_bar[t - 1]) * x
        variance = beta * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
        x = (mean / (1 - alpha_bar[t]) + variance.sqrt() * noise(t, x.shape)).float()
    torch.testing.assert_close(ours, x, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    "grid", [sampling_timesteps(T, 0), sampling_timesteps(T, 0, 7), sampling_timesteps(T, 20, 5), [30, 12, 3]]
)
def test_ddim_is_the_deterministic_step_of_song_et_al(grid: list[int]) -> None:
    """x_s = sqrt(ab_s) x_0_hat + sqrt(1 - ab_s) noise_hat, arXiv 2010.02502 equation 12 with sigma = 0."""
    schedule, data = make_schedule("cosine", T), Gaussian()
    x = torch.randn(32, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    ours = _run(schedule, x, grid, "ddim", data)
    for t, s in pairwise(grid):
        alpha_bar, noise = schedule.alpha_bar, data.noise(schedule, x, torch.full((32,), t))
        image = (x - (1 - alpha_bar[t]).sqrt() * noise) / alpha_bar[t].sqrt()
        x = (alpha_bar[s].sqrt() * image + (1 - alpha_bar[s]).sqrt() * noise).float()
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-3)


def test_second_order_needs_fewer_steps_than_first() -> None:
    """The exact flow of Gaussian data is x_0 = mean + std (x_T - m_T) / s_T; the error of 2M falls below DDIM's."""
    schedule, data = make_schedule("cosine", 1000), Gaussian()
    start = 950
    x = torch.randn(256, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    alpha_bar = schedule.alpha_bar[start].item()
    spread = (alpha_bar * data.std**2 + 1 - alpha_bar) ** 0.5
    exact = data.mean + data.std * (x - alpha_bar**0.5 * data.mean) / spread
    errors = {
        s: (_run(schedule, x, sampling_timesteps(start, 0, 20), s, data) - exact).abs().max() for s in SAMPLERS[1:]
    }
    assert errors["dpm++"] < 0.6 * errors["ddim"]


def test_only_the_estimate_of_the_image_is_clamped() -> None:
    schedule, wide = make_schedule("cosine", T), Gaussian(mean=0.9, std=2.0)
    x_t = torch.randn(4096, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    denoise = wide.denoise(schedule, "v_prediction")
    handed = sample(schedule, "v_prediction", denoise, x_t, sampling_timesteps(T, 25), noise=named_noise(("test",)))
    images = sample(schedule, "v_prediction", denoise, handed, sampling_timesteps(25, 0), noise=named_noise(("test",)))
    assert handed.abs().max() > 1.5
    assert images.abs().max() <= 1


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 80))
def test_a_grid_keeps_its_ends_and_falls(stop: int, length: int, steps: int) -> None:
    grid = sampling_timesteps(stop + length, stop, steps)
    assert grid[0] == stop + length
    assert grid[-1] == stop
    assert all(a > b for a, b in pairwise(grid))
    assert len(grid) - 1 == (min(steps, length) if steps else length)


@pytest.mark.parametrize(("start", "stop", "steps"), [(10, 20, 0), (10, -1, 0), (10, 0, -1)])
def test_an_impossible_grid_is_refused(start: int, stop: int, steps: int) -> None:
    with pytest.raises(ValueError, match="grid"):
        sampling_timesteps(start, stop, steps)


def test_steps_that_take_long_are_shown_where_that_is_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    schedule, x, grid = make_schedule("cosine", T), torch.zeros(2, 1, 2, 2), sampling_timesteps(T, 0, 4)
    denoise = Gaussian().denoise(schedule, "v_prediction")
    quiet = sample(schedule, "v_prediction", denoise, x, grid, sampler="ddim")
    assert capsys.readouterr().err == ""
    shown = sample(schedule, "v_prediction", denoise, x, grid, sampler="ddim", show="steps of client 3")
    assert torch.equal(shown, quiet)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"steps of client 3: {done} of 4" for done in (1, 2, 3, 4)]


@pytest.mark.parametrize("labelled", [False, True])
def test_a_network_has_so_many_pixels_at_a_time_and_makes_the_same(
    monkeypatch: pytest.MonkeyPatch, labelled: bool
) -> None:
    schedule, data, seen = make_schedule("cosine", T), Gaussian(), []
    x = torch.randn(7, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(7) if labelled else None

    def denoise(x_t: Tensor, t: Tensor, own: Tensor | None) -> Tensor:
        seen.append(len(x_t))
        shift = 0 if own is None else own[:, None, None, None] / 10
        return data.denoise(schedule, "v_prediction")(x_t, t, None) + shift

    def images() -> Tensor:
        return sample(schedule, "v_prediction", denoise, x, [T, 10], sampler="ddim", labels=labels)

    whole = images()
    monkeypatch.setitem(sampling.PIXELS_AT_A_TIME, "cpu", 3 * 4)
    assert torch.equal(images(), whole)
    # An image is never divided.
    monkeypatch.setitem(sampling.PIXELS_AT_A_TIME, "cpu", 1)
    assert torch.equal(images(), whole)
    assert seen == [7, 3, 3, 1, *[1] * 7]
