"""Attacks on networks and samples: nothing is found where nothing was learnt, and all where it was learnt by heart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.diffusion.parametrization import Denoise
from collafuse_flwr.diffusion.schedule import cosine
from collafuse_flwr.privacy.attacks.gradient_inversion import gradients, invert_gradient
from collafuse_flwr.privacy.attacks.membership_inference import denoising_losses, membership, predicted_noise_norms
from collafuse_flwr.privacy.attacks.memorization import Memorization, memorization
from tests.unit.diffusion.oracle import Gaussian

SCHEDULE = cosine(50)
STEPS = range(5, 31)


def images(count: int, name: str) -> Tensor:
    return 0.5 * torch.randn((count, 1, 4, 4), generator=named_generator("images", name))


def by_heart(members: Tensor) -> Denoise:
    """The best denoiser for data that are these images and no other: the posterior mean over them."""

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        alpha_bar, flat = SCHEDULE.at(t), members.flatten(1)
        away = torch.cdist(x_t.flatten(1), alpha_bar.flatten()[0].sqrt() * flat).square()
        weights = torch.softmax(-away / (2 * (1 - alpha_bar.view(-1, 1))), dim=1)
        image = (weights @ flat).view_as(x_t)
        return (x_t - alpha_bar.sqrt() * image) / (1 - alpha_bar).sqrt()

    return denoise


def attacked(denoise: Denoise, members: Tensor, others: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    both = members, others
    loss = [denoising_losses(SCHEDULE, "epsilon", denoise, x, STEPS, seed=0) for x in both]
    norm = [predicted_noise_norms(SCHEDULE, "epsilon", denoise, x, STEPS[0]) for x in both]
    return {"loss": (loss[0], loss[1]), "sima": (norm[0], norm[1])}


@pytest.mark.parametrize("attack", ["loss", "sima"])
def test_a_network_that_has_seen_neither_tells_nobody_apart(attack: str) -> None:
    members, others = images(600, "members"), images(600, "others")
    result = membership(*attacked(Gaussian(0, 0.5).denoise(SCHEDULE, "epsilon"), members, others)[attack])
    assert result.error == pytest.approx(math.sqrt(1201 / (12 * 600 * 600)))
    assert result.auc == pytest.approx(0.5, abs=4 * result.error)
    assert result.tpr < 0.05


@pytest.mark.parametrize("attack", ["loss", "sima"])
def test_a_network_that_knows_its_images_by_heart_names_them(attack: str) -> None:
    members, others = images(200, "members"), images(200, "others")
    result = membership(*attacked(by_heart(members), members, others)[attack])
    assert result.auc > 0.9
    assert result.tpr > 0.3


def test_the_loss_is_that_of_the_best_denoiser() -> None:
    """E |eps - E[eps | x_t]|^2 = s^2 alpha_bar / (s^2 alpha_bar + 1 - alpha_bar) on Gaussian data, at each step."""
    data, step = Gaussian(0, 0.5), 12
    alpha_bar = float(SCHEDULE.alpha_bar[step])
    x_0 = torch.cat([images(3000, "members")])
    many = denoising_losses(SCHEDULE, "epsilon", data.denoise(SCHEDULE, "epsilon"), x_0, range(step, step + 1), seed=0)
    assert many.shape == (3000,)
    noise = torch.randn((1, 4, 4), generator=named_generator(0, "membership", step))
    signal, left = alpha_bar * 0.25, 1 - alpha_bar
    # With one noise for all images the mean is over images alone: the error is linear in both.
    expected = (signal**2 * noise.square().mean().item() + signal * left) / (signal + left) ** 2
    assert many.mean().item() == pytest.approx(expected, rel=0.05)


def test_tied_scores_are_a_guess() -> None:
    result = membership(torch.zeros(10), torch.zeros(30))
    assert (result.auc, result.tpr) == (0.5, 0)


def repeated(samples: Tensor, training: int = 300, held_out: int = 300) -> Memorization:
    return memorization(samples, images(training, "training"), images(held_out, "held out"), named_generator("memory"))


@pytest.mark.parametrize(("training", "held_out"), [(300, 300), (400, 100)])
def test_new_samples_are_as_near_to_either(training: int, held_out: int) -> None:
    result = repeated(images(1000, "new"), training, held_out)
    assert result.chance == training / (training + held_out)
    # Samples share the images that they are near to, so they are not independent.
    assert result.share == pytest.approx(result.chance, abs=0.08)
    assert result.ratio == pytest.approx(1, abs=0.03)


def test_copies_are_nearer_to_what_was_trained_on() -> None:
    assert (copied := repeated(images(300, "training"))).share == 1
    assert copied.ratio < 1e-2
    assert repeated(images(300, "held out")).share == 0


def test_the_gradient_of_one_image_gives_it_away() -> None:
    """Of L(x) = |w x - x|^2 / 2 in w the gradient is (w x - x) x^T, whose direction is that of x, up to its sign."""
    x = 0.8 * torch.tensor([[1.0, -1.0, 0.5, 0.2]])
    network = torch.nn.Linear(4, 4, bias=False)
    torch.nn.init.zeros_(network.weight)

    def loss(guess: Tensor) -> Tensor:
        away: Tensor = network(guess) - guess
        return away.square().sum() / 2

    (sent,) = gradients(loss(x), network)
    torch.testing.assert_close(sent, -x.T @ x)
    rebuilt = invert_gradient(loss, network, [sent], torch.full_like(x, 0.1), 200)
    assert abs(torch.cosine_similarity(rebuilt, x).item()) > 0.999
