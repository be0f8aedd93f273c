from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from collafuse_flwr.diffusion.forward import add_noise
from collafuse_flwr.diffusion.loss import Objective, denoising_loss, loss_scale, official_loss, stratified_steps
from collafuse_flwr.diffusion.parametrization import Prediction
from collafuse_flwr.diffusion.schedule import cosine, make_schedule
from tests.unit.diffusion.oracle import Gaussian

T = 100
COUNT = 60_000


def _uploads(data: Gaussian, cuts: list[int], schedule_name: str) -> tuple[Tensor, Tensor]:
    """x_k of images with different cuts, and their cut steps."""
    schedule = make_schedule(schedule_name, T)
    x_0 = data.draw(COUNT, seed=0)
    start = torch.tensor(cuts).repeat(COUNT // len(cuts))
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
    return add_noise(schedule, x_0, torch.zeros_like(start), start, noise), start


@pytest.mark.parametrize("schedule_name", ["cosine", "linear", "sigmoid"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("cuts", [[0], [30], [10, 30, 60]])
def test_the_backbones_loss_is_least_at_the_analytic_denoiser(
    schedule_name: str, prediction: Prediction, cuts: list[int]
) -> None:
    """Fed with x_k alone, at any cut and at mixed ones, scaling or shifting the analytic denoiser makes it worse.

    The loss is quadratic in a scale a and a shift b of the output; its minimum, by the slope at (1, 0) and the
    curvature, must lie at (1, 0).
    """
    schedule, data = make_schedule(schedule_name, T), Gaussian()
    x_k, start = _uploads(data, cuts, schedule_name)
    generator = torch.Generator().manual_seed(2)
    t = stratified_steps(start + 1, T, generator)
    noise = torch.randn(x_k.shape, generator=generator)
    best = data.denoise(schedule, prediction)
    theta = torch.tensor([1.0, 0.0], requires_grad=True)

    def loss(theta: Tensor) -> Tensor:
        def denoise(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            return theta[0] * best(x, t, y) + theta[1]

        return denoising_loss(schedule, Objective(prediction), denoise, x_k, start, t, noise)

    slope = torch.autograd.grad(loss(theta), theta)[0]
    curvature = torch.autograd.functional.hessian(loss, theta.detach())
    distance = torch.linalg.solve(curvature, slope)
    assert distance.abs().max() < 0.03, distance


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_at_cut_zero_it_is_the_loss_of_ddpm(prediction: Prediction) -> None:
    schedule = cosine(T)
    x_0, noise = torch.randn(16, 1, 4, 4), torch.randn(16, 1, 4, 4)
    t, zero = torch.randint(1, T + 1, (16,)), torch.zeros(16, dtype=torch.int64)
    alpha_bar = schedule.alpha_bar[t].float().view(-1, 1, 1, 1)
    x_t = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise
    target = noise if prediction == "epsilon" else alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x_0
    output = torch.randn(16, 1, 4, 4)
    seen = []

    def denoise(x: Tensor, steps: Tensor, labels: Tensor | None) -> Tensor:
        seen.append(x)
        return output

    loss = denoising_loss(schedule, Objective(prediction), denoise, x_0, zero, t, noise)
    torch.testing.assert_close(seen[0], x_t)
    torch.testing.assert_close(loss, (output - target).square().mean(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("prediction", "power"), [("epsilon", 0), ("v_prediction", 1)])
def test_min_snr_weighs_each_step_as_the_paper_says(prediction: Prediction, power: int) -> None:
    schedule, gamma = cosine(T), 5.0
    zero = torch.zeros(1, dtype=torch.int64)
    x, noise = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 4, 4)
    for step in (1, 20, 50, 90):
        t = torch.tensor([step])

        def denoise(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            return torch.zeros_like(x)

        plain = denoising_loss(schedule, Objective(prediction), denoise, x, zero, t, noise)
        weighted = denoising_loss(schedule, Objective(prediction, "min_snr", gamma), denoise, x, zero, t, noise)
        snr = schedule.snr()[step].item()
        expected = min(snr, gamma) / (snr + power)
        assert (weighted / plain).item() == pytest.approx(expected, rel=1e-3)


def test_the_loss_stays_finite_over_the_whole_chain() -> None:
    for timesteps in (10, 1000):
        schedule = cosine(timesteps)
        t = torch.arange(1, timesteps + 1)
        x, noise = torch.randn(timesteps, 1, 2, 2), torch.randn(timesteps, 1, 2, 2)
        for prediction in ("epsilon", "v_prediction"):
            for start in (torch.zeros_like(t), t - 1):
                loss = denoising_loss(
                    schedule, Objective(prediction), lambda x, t, y: torch.zeros_like(x), x, start, t, noise
                )
                assert torch.isfinite(loss)
                # What cannot be predicted of an upload's own noise counts 1 / alpha_bar[t] times.
                most = (1 / schedule.at(t)).mean() if prediction == "v_prediction" and start.any() else 1
                assert loss < 10 * most


def test_the_authors_loss_differs_and_is_least_elsewhere() -> None:
    """With the cut at 0 both are the same; above it the double noising is another problem."""
    schedule, objective, best = cosine(T), Objective("epsilon"), Gaussian().denoise(cosine(T), "epsilon")
    x, noise = torch.randn(64, 1, 2, 2), torch.randn(64, 1, 2, 2)
    zero, t = torch.zeros(64, dtype=torch.int64), torch.randint(50, T + 1, (64,))
    ours = denoising_loss(schedule, objective, best, x, zero, t, noise)
    torch.testing.assert_close(official_loss(schedule, objective, best, x, t, noise), ours)
    cut = torch.full((64,), 40)
    ours = denoising_loss(schedule, objective, best, x, cut, t, noise)
    assert not torch.isclose(official_loss(schedule, objective, best, x, t, noise), ours, rtol=0.01)


@given(st.integers(1, 64), st.integers(0, 99), st.integers(0, 1000))
def test_steps_stay_in_range_and_are_spread_evenly(batch: int, start: int, seed: int) -> None:
    first = torch.full((batch,), start + 1)
    t = stratified_steps(first, T, torch.Generator().manual_seed(seed))
    assert int(t.min()) >= start + 1
    assert int(t.max()) <= T
    ranks = torch.sort((t - first).double() / (T - start)).values
    subsample_evenly = torch.arange(batch, dtype=torch.float64) / batch
    assert ((ranks - subsample_evenly).abs() <= 1 / batch + 1 / (T - start)).all()


def test_every_step_is_drawn_equally_often() -> None:
    t = stratified_steps(torch.full((100_000,), 21), 30, torch.Generator().manual_seed(0))
    counts = torch.bincount(t, minlength=31)
    assert counts[:21].sum() == 0
    assert counts[21:].tolist() == [10_000] * 10


@pytest.mark.parametrize("cut", [0, 20, 57])
def test_the_scaled_loss_of_one_cut_is_of_the_order_of_an_images(cut: int) -> None:
    """(alpha_bar[k] - alpha_bar[t]) / (1 - alpha_bar[t]) |v - v_hat|^2, k the cut: at most the error of images."""
    schedule, objective = make_schedule("linear", 100), Objective("v_prediction")
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn((2, 64, 1, 2, 2), generator=generator)
    start, t = torch.full((64,), cut), torch.arange(64) % (100 - cut) + cut + 1

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        return torch.zeros_like(x_t)

    scaled = loss_scale(schedule, objective, start) * denoising_loss(schedule, objective, denoise, x, start, t, noise)
    x_t = add_noise(schedule, x, start, t, noise)
    at, k = schedule.at(t), schedule.at(start)
    # What the network should say for the noise of the whole chain, of which the loss has the part since the cut.
    noise_hat = (1 - at).sqrt() * x_t
    error = ((1 - at / k) / (1 - at)).sqrt() * noise_hat - noise
    torch.testing.assert_close(scaled, (k / at * error.square()).mean(), rtol=1e-4, atol=0)


def test_rows_of_several_cuts_have_one_scale() -> None:
    schedule, cuts = make_schedule("linear", 100), torch.tensor([20, 57, 57])
    alone = [loss_scale(schedule, Objective("v_prediction"), cut.view(1)) for cut in cuts]
    together = loss_scale(schedule, Objective("v_prediction"), cuts)
    assert together == pytest.approx(3 / sum(1 / scale for scale in alone))
    assert loss_scale(schedule, Objective("epsilon"), cuts) == 1.0
