"""Labels that are dropped, and predictions that are extrapolated from those without labels."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.diffusion.guidance import cfg_denoiser, drop_labels
from collafuse_flwr.diffusion.parametrization import DROPPED, Denoise, Prediction, to_noise
from collafuse_flwr.diffusion.schedule import Schedule, cosine
from collafuse_flwr.diffusion.train import bernoulli_mask

SCHEDULE = cosine(50)


@dataclass(frozen=True)
class Mixture:
    """One pixel, N(mean, std^2) in class 1 and N(-mean, std^2) in class 0, equally likely."""

    mean: float = 0.7
    std: float = 0.4

    def log_density(self, x_t: Tensor, alpha_bar: Tensor, labels: Tensor | None) -> Tensor:
        """log p(x_t | y), or log p(x_t) without labels, up to a constant."""
        variance = alpha_bar * self.std**2 + 1 - alpha_bar
        means = alpha_bar.sqrt() * self.mean
        densities = torch.stack([-((x_t + sign * means) ** 2) / (2 * variance) for sign in (1, -1)])
        if labels is None:
            return densities.logsumexp(0)
        return torch.where(labels.view(-1, 1, 1, 1) == 1, densities[1], densities[0])

    def denoise(self, schedule: Schedule, prediction: Prediction) -> Denoise:
        """The network that an infinitely long training with dropped labels would reach."""

        def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            alpha_bar = schedule.at(t)
            centre = alpha_bar.sqrt() * self.mean
            variance = alpha_bar * self.std**2 + 1 - alpha_bar
            sign = torch.tanh(centre * x_t / variance) if labels is None else 2.0 * labels.view(-1, 1, 1, 1) - 1
            noise = (1 - alpha_bar).sqrt() * (x_t - sign * centre) / variance
            return noise if prediction == "epsilon" else (noise - (1 - alpha_bar).sqrt() * x_t) / alpha_bar.sqrt()

        return denoise


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 3.0])
def test_guided_is_the_score_of_the_densities_raised_to_powers(prediction: Prediction, weight: float) -> None:
    """Noise = -sqrt(1 - alpha_bar) d/dx (w log p(x | y) + (1 - w) log p(x)), here by automatic differentiation."""
    mixture, t = Mixture(), torch.arange(1, 50)
    x_t = torch.randn((49, 1, 1, 1), generator=named_generator("x"), dtype=torch.float64).requires_grad_()
    labels, alpha_bar = t % 2, SCHEDULE.at(t).double()
    log_p = weight * mixture.log_density(x_t, alpha_bar, labels)
    log_p = log_p + (1 - weight) * mixture.log_density(x_t, alpha_bar, None)
    (score,) = torch.autograd.grad(log_p.sum(), x_t)
    output = cfg_denoiser(mixture.denoise(SCHEDULE, prediction), weight)(x_t.detach(), t, labels)
    noise = to_noise(SCHEDULE, prediction, output, x_t.detach(), t)
    torch.testing.assert_close(noise, -(1 - alpha_bar).sqrt() * score, rtol=1e-4, atol=1e-4)


def test_at_weight_1_it_is_the_network_itself_and_at_0_the_one_without_labels() -> None:
    denoise = Mixture().denoise(SCHEDULE, "v_prediction")
    assert cfg_denoiser(denoise, 1.0) is denoise
    x_t, t, labels = torch.randn(8, 1, 1, 1, generator=named_generator("x")), torch.arange(1, 9), torch.arange(8) % 2
    assert torch.equal(cfg_denoiser(denoise, 0.0)(x_t, t, labels), denoise(x_t, t, None))


@pytest.mark.parametrize(
    "labels", [torch.arange(4000) % 7, torch.ones(4000, 3, dtype=torch.uint8)], ids=["(n,)", "(n, A)"]
)
def test_rows_are_dropped_whole_and_at_the_given_rate(labels: Tensor) -> None:
    """Of 4,000 rows a quarter has a standard deviation of 0.007."""
    after = drop_labels(labels, bernoulli_mask(len(labels), 0.25, named_generator("drop")))
    assert after.shape == labels.shape
    assert after.dtype == torch.int64
    dropped = (after == DROPPED).reshape(4000, -1)
    assert torch.equal(dropped.all(dim=1), dropped.any(dim=1))
    assert dropped.all(dim=1).float().mean().item() == pytest.approx(0.25, abs=0.035)
    kept = ~dropped.all(dim=1)
    assert torch.equal(after[kept], labels[kept].long())


@pytest.mark.parametrize(("share", "dropped"), [(0.0, 0), (1.0, 100)])
def test_none_or_all_are_dropped(share: float, dropped: int) -> None:
    assert (
        int((drop_labels(torch.arange(100), bernoulli_mask(100, share, named_generator("drop"))) == DROPPED).sum())
        == dropped
    )
