from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.privacy import reidentification
from collafuse_flwr.privacy.reidentification import reidentification_rate


def images(count: int) -> Tensor:
    return torch.randn(count, 1, 4, 4, generator=named_generator("images"))


def rate(candidates: Tensor, targets: Tensor, alpha_bar: float, releases: int = 1, seed: int = 0) -> float:
    generator = named_generator(seed, "reid", 0)
    return reidentification_rate(candidates, targets, alpha_bar, releases=releases, generator=generator)


@pytest.mark.parametrize(("alpha_bar", "releases"), [(0.02, 1), (0.02, 4), (0.1, 1), (0.1, 3)])
def test_between_two_images_it_succeeds_as_often_as_theory_says(
    alpha_bar: float, releases: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Phi(|x_1 - x_2| sqrt(n snr) / 2): the noise along the line between both must stay below half their distance."""
    count = 40_000
    monkeypatch.setattr(reidentification, "MAX_TARGETS", count)
    pair = images(2)
    distance = (pair[0] - pair[1]).norm().item()
    half = distance * math.sqrt(releases * alpha_bar / (1 - alpha_bar)) / 2
    expected = 0.5 * (1 + math.erf(half / math.sqrt(2)))
    assert 0.6 < expected < 0.999
    targets = torch.arange(count) % 2
    assert rate(pair, targets, alpha_bar, releases) == pytest.approx(expected, abs=4 * math.sqrt(0.25 / count))


def test_clean_images_are_all_identified() -> None:
    assert rate(images(20), torch.arange(20), 1.0) == 1


def test_noise_leaves_little_more_than_chance() -> None:
    assert rate(images(500), torch.arange(500), 1e-9) < 0.02


def test_the_twin_of_an_image_is_as_good() -> None:
    duplicates = images(4).repeat(2, 1, 1, 1)
    assert rate(duplicates, torch.arange(4, 8), 0.99) == 1


def test_a_name_decides_every_draw() -> None:
    first, again, other = (rate(images(200), torch.arange(200), 0.2, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_of_many_images_some_from_everywhere_are_attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def watch(y: Tensor, candidates: Tensor, alpha_bar: float) -> Tensor:
        seen.append(y)
        return torch.zeros(len(y), dtype=torch.int64)

    monkeypatch.setattr("collafuse_flwr.privacy.reidentification.matched_filter", watch)
    assert rate(images(2000), torch.arange(2000), 0.5) == 1 / 1000
    assert len(seen[0]) == 1000


@pytest.mark.parametrize(("targets", "releases"), [([], 1), ([0], 0)])
def test_nothing_to_attack_is_refused(targets: list[int], releases: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        rate(images(2), torch.tensor(targets, dtype=torch.int64), 0.5, releases)
