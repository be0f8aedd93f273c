"""Labels of samples that came without any: what can be seen of the sample, and the client's frequencies otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from collafuse_flwr.client.labels import draw_labels
from collafuse_flwr.data import ImageSet, to_model_space
from collafuse_flwr.diffusion import Schedule, diffuse, make_schedule
from collafuse_flwr.rng import stream

SCHEDULE = make_schedule("cosine", 100)
CLASSES = ("dark", "unused", "bright", "unused too")


def some_images(dark: int, bright: int, size: int = 4) -> ImageSet:
    """Dark images of class 0 and bright ones of class 2."""
    generator = torch.Generator().manual_seed(0)
    grey = torch.cat([torch.full((dark,), 60), torch.full((bright,), 190)]).view(-1, 1, 1, 1)
    pixels = grey + torch.randint(-20, 21, (dark + bright, 1, size, size), generator=generator)
    labels = torch.cat([torch.zeros(dark), torch.full((bright,), 2)]).long()
    return ImageSet(pixels.to(torch.uint8), labels, CLASSES, "grey")


def noised(images: ImageSet, cut: int, schedule: Schedule = SCHEDULE) -> Tensor:
    x_0 = to_model_space(images.images)
    zeros = torch.zeros(len(x_0), dtype=torch.int64)
    return diffuse(schedule, x_0, zeros, zeros + cut, torch.randn(x_0.shape, generator=stream("noise")))


@pytest.mark.parametrize("cut", [0, 10, 50, 99, 100])
def test_every_sample_has_a_class_that_the_client_has(cut: int) -> None:
    images = some_images(40, 60)
    labels = draw_labels(SCHEDULE, cut, images, noised(some_images(30, 20), cut), stream(0))
    assert labels.shape == (50,)
    assert labels.dtype == torch.int64
    assert set(labels.tolist()) <= {0, 2}, "the names of the classes, not their places among those that occur"


@pytest.mark.parametrize("cut", [0, 10, 40])
def test_the_class_is_the_one_that_can_still_be_seen(cut: int) -> None:
    images, samples = some_images(60, 60), some_images(50, 30)
    labels = draw_labels(SCHEDULE, cut, images, noised(samples, cut), stream(0))
    assert (labels == samples.labels).float().mean() > 0.9


def test_where_nothing_can_be_seen_the_clients_frequencies_decide() -> None:
    """Of a client with 80 % bright images, 80 % of the samples from pure noise are called bright, even dark ones."""
    images = some_images(40, 160)
    for dark in (torch.full((20_000, 1, 4, 4), -1.0), torch.randn(20_000, 1, 4, 4, generator=stream("x"))):
        bright = (draw_labels(SCHEDULE, 100, images, dark, stream(0)) == 2).float().mean().item()
        assert bright == pytest.approx(0.8, abs=5 * (0.8 * 0.2 / 20_000) ** 0.5)


def test_at_t_labels_do_not_depend_on_the_samples() -> None:
    images = some_images(40, 60)
    first, second = (
        draw_labels(SCHEDULE, 100, images, x_k, stream(0))
        for x_k in (torch.ones(50, 1, 4, 4), torch.zeros(50, 1, 4, 4))
    )
    assert torch.equal(first, second)


def test_labels_are_drawn_and_not_the_likeliest_taken() -> None:
    """p(y | x_k) on a sample that could be of either class: both occur, as often as the odds say."""
    images = some_images(100, 100)
    between = torch.zeros(4000, 1, 4, 4)
    labels = draw_labels(SCHEDULE, 70, images, between, stream(0))
    assert 0.2 < (labels == 2).float().mean().item() < 0.8


@pytest.mark.parametrize("cut", [0, 30, 100])
def test_a_client_of_one_class_knows_the_answer(cut: int) -> None:
    labels = draw_labels(SCHEDULE, cut, some_images(0, 20), torch.randn(30, 1, 4, 4), stream(0))
    assert labels.tolist() == [2] * 30


@pytest.mark.parametrize("cut", [30, 100])
def test_the_same_generator_draws_the_same_labels(cut: int) -> None:
    images, x_k = some_images(40, 60), torch.randn(200, 1, 4, 4, generator=stream("x"))
    first = draw_labels(SCHEDULE, cut, images, x_k, stream(0, "labels"))
    torch.randn(3)
    assert torch.equal(draw_labels(SCHEDULE, cut, images, x_k, stream(0, "labels")), first)
    assert not torch.equal(draw_labels(SCHEDULE, cut, images, x_k, stream(1, "labels")), first)
