"""Noised images drawn back to images: expectation maximisation of a Gaussian, whose every step has a closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from collafuse_flwr.diffusion.deconvolution import draw_images
from collafuse_flwr.diffusion.parametrization import Denoise
from collafuse_flwr.diffusion.schedule import Schedule, cosine
from collafuse_flwr.diffusion.setup import named_noise

#: Four pixels of which two rise together, and one hardly moves.
TRUE = torch.tensor([[1.0, 0.6, 0.0, 0.0], [0.6, 1.0, 0.0, 0.0], [0.0, 0.0, 0.5, -0.2], [0.0, 0.0, -0.2, 0.3]])
T, CUT, COUNT = 200, 80, 20_000


def ideal(schedule: Schedule, covariance: Tensor) -> Denoise:
    """The network of N(0, covariance), which predicts the noise: sqrt(1 - ab) (ab S + (1 - ab) 1)^-1 x_t."""

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        (step,) = t.unique().tolist()
        alpha_bar = schedule.alpha_bar[step].item()
        of_x_t = alpha_bar * covariance + (1 - alpha_bar) * torch.eye(4)
        noise: Tensor = (1 - alpha_bar) ** 0.5 * torch.linalg.solve(of_x_t, x_t.flatten(1).T).T.view_as(x_t)
        return noise

    return denoise


def noised(schedule: Schedule, covariance: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images and what is uploaded of them, (COUNT, 1, 2, 2), both with exactly the moments that they should have."""
    drawn = torch.randn(COUNT, 8, generator=torch.Generator().manual_seed(seed)).double()
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(drawn.T.cov()), (drawn - drawn.mean(0)).T, upper=False)
    images, noise = torch.linalg.cholesky(covariance.double()) @ white[:4], white[4:]
    alpha_bar = schedule.alpha_bar[CUT]
    x_k = alpha_bar.sqrt() * images + (1 - alpha_bar).sqrt() * noise
    return images.T.float().view(-1, 1, 2, 2), x_k.T.float().reshape(-1, 1, 2, 2)


def iterate(schedule: Schedule, x_k: Tensor, covariance: Tensor, name: int = 0, steps: int = 0) -> Tensor:
    """Images by the network of a covariance, (COUNT, 4)."""
    noise, denoise = named_noise((name,)), ideal(schedule, covariance)
    return draw_images(schedule, "epsilon", denoise, x_k, CUT, noise, steps=steps, clamp=False).flatten(1)


def step_of_em(schedule: Schedule, covariance: Tensor, true: Tensor) -> Tensor:
    """S' = S - G S + G (true + noise) G^T with G = S (S + noise)^-1, the mean of x_0 given the noised image."""
    noise = (1 / schedule.alpha_bar[CUT].item() - 1) * torch.eye(4)
    gain = covariance @ torch.linalg.inv(covariance + noise)
    after: Tensor = covariance - gain @ covariance + gain @ (true + noise) @ gain.T
    return after


def test_the_law_of_the_images_is_a_fixed_point() -> None:
    """Together with the uploads, not alone: an image must be one that its upload may be of."""
    schedule = cosine(T)
    images, x_k = noised(schedule, TRUE)
    drawn = iterate(schedule, x_k, TRUE)
    together, wanted = (torch.cat([x.flatten(1), x_k.flatten(1)], 1).T.cov() for x in (drawn, images))
    torch.testing.assert_close(together, wanted, rtol=0, atol=0.025)
    # They are others than the images, of which the uploads say too little.
    assert (drawn - images.flatten(1)).std() > 0.3


def test_from_a_wrong_law_every_iteration_is_a_step_of_expectation_maximisation_to_the_true_one() -> None:
    schedule = cosine(T)
    _, x_k = noised(schedule, TRUE)
    covariance = 0.3 * torch.eye(4)
    distances = []
    for name in range(15):
        wanted = step_of_em(schedule, covariance, TRUE)
        covariance = iterate(schedule, x_k, covariance, name).T.cov()
        # Of the finite chain; it has a little too much variance, or too little.
        torch.testing.assert_close(covariance, wanted, rtol=0, atol=0.05)
        distances.append((covariance - TRUE).norm().item())
    assert distances[0] > 1
    assert distances[4] < 0.3 * distances[0]
    assert distances[-1] < 0.2


def test_means_in_place_of_draws_shrink_to_nothing() -> None:
    """Why images are drawn: at the true law already, the means of x_0 have less than its variance."""
    schedule = cosine(T)
    _, x_k = noised(schedule, TRUE)
    means = iterate(schedule, x_k, TRUE, steps=1)
    assert means.var(0).sum() < 0.7 * TRUE.trace()


def test_at_step_0_images_are_as_they_came() -> None:
    x_0 = torch.rand(3, 1, 2, 2)
    assert draw_images(cosine(T), "epsilon", ideal(cosine(T), TRUE), x_0, 0, named_noise(("any",))) is x_0


@pytest.mark.parametrize("steps", [0, 7])
def test_the_same_name_draws_the_same_bits(steps: int) -> None:
    schedule = cosine(T)
    _, x_k = noised(schedule, TRUE)
    first, again, other = (iterate(schedule, x_k[:8], TRUE, name, steps) for name in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
