from __future__ import annotations

import pytest
import torch
from torch import Tensor

from collafuse_flwr.data.images import normalize
from collafuse_flwr.evaluation import classifier
from collafuse_flwr.evaluation.classifier import ImageClassifier, accuracy, train_classifier

Digits = tuple[Tensor, Tensor, Tensor, Tensor]


def weights(net: ImageClassifier) -> Tensor:
    return torch.cat([parameter.flatten() for parameter in net.parameters()])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 12, 28, 31, 32, 64, 128])
def test_any_size_gives_features_and_logits(channels: int, size: int) -> None:
    net = ImageClassifier(channels, 7, size)
    images = torch.zeros(2, channels, size, size)
    assert net(images).shape == (2, 7)
    features = net.features(images)
    assert features.shape == (2, ImageClassifier.num_features)
    assert features.min() >= 0


def test_learns_digits_in_its_default_steps(digits: Digits) -> None:
    train_images, train_labels, test_images, test_labels = digits
    assert accuracy(train_classifier(train_images, train_labels, 10, seed=1), test_images, test_labels) >= 0.98


def test_learns_larger_colour_images() -> None:
    labels = torch.arange(64) % 2
    images = torch.full((64, 3, 28, 28), -1.0)
    images[labels == 1, :, :14] = 1.0
    assert accuracy(train_classifier(images, labels, 2, seed=0, steps=20), images, labels) == 1.0


def test_same_seed_same_bits_whatever_the_global_state(digits: Digits) -> None:
    images, labels, _, _ = digits
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train_classifier(images, labels, 10, seed=5, steps=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = train_classifier(images, labels, 10, seed=5, steps=5)
    other = train_classifier(images, labels, 10, seed=6, steps=5)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))


def test_uint8_and_rows_give_the_same_bits_and_no_set_of_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, rows = torch.arange(60) % 3, torch.arange(0, 60, 2)
    expected = train_classifier(normalize(pixels[rows]), labels[rows], 3, seed=0, steps=6, batch_size=8)
    sizes: list[int] = []

    def watch(batch: Tensor) -> Tensor:
        sizes.append(len(batch))
        return normalize(batch)

    monkeypatch.setattr(classifier, "scaled", watch)
    learnt = train_classifier(pixels, labels, 3, seed=0, rows=rows, steps=6, batch_size=8)
    assert torch.equal(weights(learnt), weights(expected))
    assert sizes == [8] * 6
    assert accuracy(learnt, pixels, labels) == accuracy(learnt, normalize(pixels), labels)


def test_result_is_frozen_and_in_evaluation_mode(digits: Digits) -> None:
    images, labels, _, _ = digits
    net = train_classifier(images[:3], labels[:3], 10, seed=0, steps=1)
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_accuracy_counts_hits_in_every_batch() -> None:
    logits = torch.eye(5)
    labels = torch.tensor([0, 1, 2, 0, 0])
    assert accuracy(torch.nn.Identity(), logits, labels, batch_size=2) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("images", "labels", "named"),
    [
        (torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), "`images` has shape"),
        (torch.zeros(2, 1, 8, 9), torch.zeros(2, dtype=torch.int64), "`images` has shape"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), "`images` has shape"),
        (torch.full((2, 1, 8, 8), torch.nan), torch.zeros(2, dtype=torch.int64), "`images` has values"),
        (torch.zeros(2, 1, 8, 8), torch.zeros(3, dtype=torch.int64), "`labels` has shape"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([0, 2]), "`labels` has a value"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([-1, 0]), "`labels` has a value"),
    ],
)
def test_refuses_what_it_cannot_learn_from(images: Tensor, labels: Tensor, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        train_classifier(images, labels, 2, seed=0)
