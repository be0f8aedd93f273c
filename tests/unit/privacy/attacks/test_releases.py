"""Attacks on releases against what theory says of Gaussian data."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import choose_runtime
from collafuse_flwr.data.images import ImageSource
from collafuse_flwr.diffusion.forward import add_noise
from collafuse_flwr.diffusion.loss import Objective
from collafuse_flwr.diffusion.schedule import Schedule, cosine, linear
from collafuse_flwr.diffusion.train import TrainState
from collafuse_flwr.diffusion.unet import ImageShape, as_denoise, build_network
from collafuse_flwr.evaluation.image_similarity import image_similarity
from collafuse_flwr.privacy.attacks.attribute_inference import probe
from collafuse_flwr.privacy.attacks.denoiser_reconstruction import (
    continue_sampling,
    equivalent_release,
    predict_x0,
    train_shadow,
)
from collafuse_flwr.privacy.attacks.wiener import Wiener
from collafuse_flwr.privacy.leakage_bounds import covariance_eigenvalues, wiener_psnr
from collafuse_flwr.privacy.reidentification import reidentify
from tests.unit.diffusion.oracle import Gaussian


def normal(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=named_generator("attacks", name))


def released(x_0: Tensor, alpha_bar: float, releases: int = 1) -> Tensor:
    """The mean of some releases of each image."""
    noise = normal(releases, *x_0.shape, name="noise").mean(dim=0)
    return math.sqrt(alpha_bar) * x_0 + math.sqrt(1 - alpha_bar) * noise


@pytest.mark.parametrize("releases", [1, 4])
def test_of_two_images_one_is_named_as_often_as_theory_says(releases: int) -> None:
    """Phi(distance sqrt(n snr) / 2)."""
    count, alpha_bar, pair = 20_000, 0.03, normal(2, 1, 3, 3)
    truth = torch.arange(count) % 2
    result = reidentify(released(pair[truth], alpha_bar, releases), pair, truth, alpha_bar)
    half = (pair[0] - pair[1]).norm().item() * math.sqrt(releases * alpha_bar / (1 - alpha_bar)) / 2
    expected = 0.5 * (1 + math.erf(half / math.sqrt(2)))
    assert 0.6 < expected < 0.99
    assert result.rate == pytest.approx(expected, abs=4 * math.sqrt(0.25 / count))
    assert result.chance == 0.5


def test_nothing_received_cannot_be_named() -> None:
    with pytest.raises(ValueError, match="nothing to attack"):
        reidentify(normal(0, 4), normal(2, 4), torch.zeros(0, dtype=torch.int64), 0.5)


@pytest.mark.parametrize("releases", [1, 5])
def test_the_wiener_filter_is_as_good_as_its_closed_form(releases: int) -> None:
    scale = 0.3 * torch.linspace(0.1, 1, 16).view(1, 4, 4)
    shadows, x_0 = (0.2 + scale * normal(8000, 1, 4, 4, name=name) for name in ("shadows", "clients"))
    alpha_bar = 0.6
    rebuilt = Wiener.of(shadows).rebuild(released(x_0, alpha_bar, releases), alpha_bar, releases)
    expected = wiener_psnr(alpha_bar / (1 - alpha_bar), covariance_eigenvalues(x_0, 8000), releases=releases)
    assert image_similarity(x_0, rebuilt).psnr == pytest.approx(expected, abs=0.05)
    clean = Wiener.of(shadows).rebuild(x_0, 1.0)
    torch.testing.assert_close(clean, x_0, atol=1e-4, rtol=0)


def test_fidelity_of_a_constant_error() -> None:
    x_0 = normal(5, 1, 8, 8).clamp(-1, 1)
    similarity = image_similarity(x_0, x_0 + 0.2)
    assert similarity.psnr == pytest.approx(20)
    torch.testing.assert_close(similarity.per_image, torch.full((5,), 20.0, dtype=torch.float64), atol=1e-5, rtol=0)
    same = image_similarity(x_0, x_0)
    assert same.psnr == math.inf
    assert same.ssim == pytest.approx(1)
    assert image_similarity(x_0, normal(5, 1, 8, 8, name="other")).ssim < 0.3


def test_the_mean_of_releases_is_a_release_at_an_earlier_step() -> None:
    schedule, cut, releases = linear(1000), 700, 20
    x_0 = normal(4000, 1, 2, 2)
    x, step = equivalent_release(schedule, released(x_0, float(schedule.alpha_bar[cut]), releases), cut, releases)
    assert float(schedule.snr()[step]) == pytest.approx(releases * float(schedule.snr()[cut]), rel=0.02)
    noise = x - schedule.alpha_bar[step].sqrt() * x_0
    assert noise.var().item() == pytest.approx(1 - float(schedule.alpha_bar[step]), rel=0.05)
    same, step = equivalent_release(schedule, x_0, cut, 1)
    assert (step, torch.equal(same, x_0)) == (cut, True)


def test_the_right_denoiser_reaches_the_least_error() -> None:
    """On Gaussian data E[x_0 | x_k] is linear, so the estimate is the Wiener filter's; a sample has twice its error."""
    schedule, data, cut = cosine(50), Gaussian(mean=0.1, std=0.2), 25
    x_0, alpha_bar = data.draw(4000, seed=0), float(schedule.alpha_bar[cut])
    x, denoise = released(x_0, alpha_bar), data.denoise(schedule, "v_prediction")
    expected = wiener_psnr(alpha_bar / (1 - alpha_bar), torch.full((4,), data.std**2))
    assert image_similarity(x_0, predict_x0(schedule, "v_prediction", denoise, x, cut)).psnr == pytest.approx(
        expected, abs=0.1
    )
    sampled = continue_sampling(schedule, "v_prediction", denoise, x, cut)
    assert expected - 3.1 < image_similarity(x_0, sampled).psnr < expected
    assert sampled.std().item() == pytest.approx(data.std, rel=0.05)


def test_a_shadow_denoiser_learns_to_rebuild() -> None:
    schedule, step = cosine(20), 10
    shape = ImageShape(1, 4, 0)
    state = TrainState(build_network("nano", shape, 0, "shadow"), 0.9)
    denoise = as_denoise(state.network, choose_runtime("cpu"))
    shadows, x_0 = (0.2 * normal(256, 1, 1, 1, name=name).expand(-1, 1, 4, 4) for name in ("shadows", "clients"))
    t = torch.full((256,), step)
    x_t = add_noise(schedule, x_0, torch.zeros_like(t), t, normal(256, 1, 4, 4, name="noise"))

    def psnr() -> float:
        return image_similarity(x_0, predict_x0(schedule, "v_prediction", denoise, x_t, step)).psnr

    before = psnr()
    objective, generator = Objective("v_prediction"), named_generator("shadow")
    source = ImageSource(shadows.contiguous(), None)
    effort = {"step": step, "num_steps": 40, "learning_rate": 5e-3}
    train_shadow(state, denoise, source, schedule, objective, generator=generator, **effort)  # type: ignore[arg-type]
    assert psnr() > before + 5
    assert not state.network.training


def test_a_probe_reads_clean_classes_and_nothing_from_noise() -> None:
    labels = torch.arange(600) % 3
    clean = torch.nn.functional.one_hot(labels, 3).float() + 0.05 * normal(600, 3)
    read = probe(clean, labels, named_generator("probe"))
    assert read is not None
    assert read.auc == pytest.approx(1)
    assert read.accuracy == pytest.approx(1)
    assert read.majority == pytest.approx(1 / 3, abs=0.08)
    guessed = probe(normal(600, 16, name="noise"), labels, named_generator("probe"))
    assert guessed is not None
    # The error of one class's AUC is sqrt((n + m + 1) / (12 n m)) with 100 of it among 300.
    assert guessed.auc == pytest.approx(0.5, abs=4 * math.sqrt(301 / (12 * 100 * 200)))


@pytest.mark.parametrize("labels", [[0] * 20, [0] * 18 + [1, 2]])
def test_a_probe_needs_two_classes(labels: list[int]) -> None:
    assert probe(normal(20, 4), torch.tensor(labels), named_generator("probe")) is None


def test_the_first_papers_triple_is_the_image() -> None:
    """(x_t, noise, t) gives x_0 by algebra, at every step that leaves a signal: why no message may carry the noise."""
    schedule: Schedule = cosine(100)
    x_0, noise = normal(8, 1, 8, 8).clamp(-1, 1), normal(8, 1, 8, 8, name="noise")
    for step in (1, 20, 50, 80):
        t = torch.full((8,), step)
        x_t, alpha_bar = add_noise(schedule, x_0, torch.zeros_like(t), t, noise), schedule.at(t)
        rebuilt = (x_t - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()
        assert (rebuilt - x_0).abs().max() < 1e-5
