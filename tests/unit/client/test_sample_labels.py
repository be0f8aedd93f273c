"""Labels of samples that came without any: what can be seen of the sample, and the client's frequencies otherwise."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from collafuse_flwr.client.sample_labels import UNKNOWN, condition_samples, draw_labels, sample_posterior_rows
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.images import ImageMetadata, ImageSet, normalize
from collafuse_flwr.diffusion.forward import add_noise
from collafuse_flwr.diffusion.schedule import Schedule, make_schedule
from collafuse_flwr.wire.collafuse import SampleHandoff

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
    x_0 = normalize(images.images)
    zeros = torch.zeros(len(x_0), dtype=torch.int64)
    return add_noise(schedule, x_0, zeros, zeros + cut, torch.randn(x_0.shape, generator=named_generator("noise")))


@pytest.mark.parametrize("cut", [0, 10, 50, 99, 100])
def test_every_sample_has_a_class_that_the_client_has(cut: int) -> None:
    images = some_images(40, 60)
    labels = draw_labels(SCHEDULE, cut, images, noised(some_images(30, 20), cut), named_generator(0))
    assert labels.shape == (50,)
    assert labels.dtype == torch.int64
    assert set(labels.tolist()) <= {0, 2}, "the names of the classes, not their places among those that occur"


@pytest.mark.parametrize("cut", [0, 10, 40])
def test_the_class_is_the_one_that_can_still_be_seen(cut: int) -> None:
    images, samples = some_images(60, 60), some_images(50, 30)
    labels = draw_labels(SCHEDULE, cut, images, noised(samples, cut), named_generator(0))
    assert (labels == samples.labels).float().mean() > 0.9


def test_where_nothing_can_be_seen_the_clients_frequencies_decide() -> None:
    """Of a client with 80 % bright images, 80 % of the samples from pure noise are called bright, even dark ones."""
    images = some_images(40, 160)
    for dark in (torch.full((20_000, 1, 4, 4), -1.0), torch.randn(20_000, 1, 4, 4, generator=named_generator("x"))):
        bright = (draw_labels(SCHEDULE, 100, images, dark, named_generator(0)) == 2).float().mean().item()
        assert bright == pytest.approx(0.8, abs=5 * (0.8 * 0.2 / 20_000) ** 0.5)


def test_at_t_labels_do_not_depend_on_the_samples() -> None:
    images = some_images(40, 60)
    first, second = (
        draw_labels(SCHEDULE, 100, images, x_k, named_generator(0))
        for x_k in (torch.ones(50, 1, 4, 4), torch.zeros(50, 1, 4, 4))
    )
    assert torch.equal(first, second)


def test_labels_are_drawn_and_not_the_likeliest_taken() -> None:
    """p(y | x_k) on a sample that could be of either class: both occur, as often as the odds say."""
    images = some_images(100, 100)
    between = torch.zeros(4000, 1, 4, 4)
    labels = draw_labels(SCHEDULE, 70, images, between, named_generator(0))
    assert 0.2 < (labels == 2).float().mean().item() < 0.8


@pytest.mark.parametrize("cut", [0, 30, 100])
def test_a_client_of_one_class_knows_the_answer(cut: int) -> None:
    labels = draw_labels(SCHEDULE, cut, some_images(0, 20), torch.randn(30, 1, 4, 4), named_generator(0))
    assert labels.tolist() == [2] * 30


@pytest.mark.parametrize("cut", [30, 100])
def test_the_same_generator_draws_the_same_labels(cut: int) -> None:
    images, x_k = some_images(40, 60), torch.randn(200, 1, 4, 4, generator=named_generator("x"))
    first = draw_labels(SCHEDULE, cut, images, x_k, named_generator(0, "labels"))
    torch.randn(3)
    assert torch.equal(draw_labels(SCHEDULE, cut, images, x_k, named_generator(0, "labels")), first)
    assert not torch.equal(draw_labels(SCHEDULE, cut, images, x_k, named_generator(1, "labels")), first)


# Attributes: those of a training image.

CONFIG = Config.from_flat({"data.conditioning": "attributes"})
#: Of the images 0 and 1, dark ones of class 0, and 2 and 3, bright ones of class 2.
HELD = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 0]], dtype=torch.uint8)


def with_attributes() -> ImageSet:
    return replace(some_images(2, 2), metadata=ImageMetadata(HELD, ("bright", "odd")))


@pytest.mark.parametrize("cut", [0, 1, 20])
def test_an_image_that_can_still_be_seen_is_matched(cut: int) -> None:
    x_0 = torch.rand(30, 1, 8, 8, generator=named_generator("x_0")) * 2 - 1
    zeros = torch.zeros(30, dtype=torch.int64)
    x_k = add_noise(SCHEDULE, x_0, zeros, zeros + cut, torch.randn(x_0.shape, generator=named_generator("noise")))
    order = torch.randperm(30, generator=named_generator("order"))
    assert torch.equal(sample_posterior_rows(SCHEDULE, cut, x_0, x_k[order], named_generator(0)), order)


def test_rows_are_drawn_by_bayes_rule() -> None:
    """Of two images that differ in one pixel the odds are those of the two densities of what is seen there."""
    cut, x_0 = 70, torch.zeros(2, 1, 2, 2)
    x_0[1, 0, 0, 0] = 1
    x_k = torch.full((20_000, 1, 2, 2), 0.1)
    alpha_bar = float(SCHEDULE.alpha_bar[cut])
    densities = [math.exp(-((0.1 - alpha_bar**0.5 * x) ** 2) / (2 * (1 - alpha_bar))) for x in (0, 1)]
    p = densities[1] / sum(densities)
    drawn = sample_posterior_rows(SCHEDULE, cut, x_0, x_k, named_generator(0)).float().mean().item()
    assert drawn == pytest.approx(p, abs=5 * (p * (1 - p) / 20_000) ** 0.5)
    # And not as often as one would take the nearer.
    assert 0.2 < p < 0.49


def test_attributes_and_class_are_those_of_one_image() -> None:
    images = with_attributes()
    noise = noised(images, 50).repeat(50, 1, 1, 1)
    samples = condition_samples(CONFIG, SCHEDULE, 50, images, SampleHandoff(round=1, x_k=noise), named_generator(0))
    assert samples.labels is samples.attributes
    assert samples.attributes is not None
    assert samples.attributes.dtype == torch.uint8
    pairs = {(*row, label) for row, label in zip(samples.attributes.tolist(), samples.classes.tolist(), strict=True)}
    assert pairs <= {(0, 0, 0), (0, 1, 0), (1, 0, 2)}
    assert len(pairs) > 1


def test_attributes_of_the_server_have_the_class_of_an_image_that_has_them() -> None:
    attributes = torch.tensor([[0, 1], [1, 0], [1, 1], [0, 0]], dtype=torch.uint8)
    samples = condition_samples(
        CONFIG,
        SCHEDULE,
        50,
        with_attributes(),
        SampleHandoff(round=1, x_k=torch.zeros(4, 1, 4, 4), labels=attributes),
        named_generator(0),
    )
    assert samples.labels is attributes
    assert samples.classes.tolist() == [0, 2, UNKNOWN, 0]


@pytest.mark.parametrize("condition", ["classes", "none"])
def test_classes_are_a_condition_only_where_the_settings_say_so(condition: str) -> None:
    config, images = Config.from_flat({"data.conditioning": condition}), some_images(20, 20)
    samples = condition_samples(
        config, SCHEDULE, 100, images, SampleHandoff(round=1, x_k=noised(images, 100)), named_generator(0)
    )
    assert torch.equal(samples.classes, draw_labels(SCHEDULE, 100, images, noised(images, 100), named_generator(0)))
    assert samples.attributes is None
    assert (samples.labels is samples.classes) == (condition == "classes")
    assert condition == "classes" or samples.labels is None
