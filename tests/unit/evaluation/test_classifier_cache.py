"""The classifier of the real images: trained once, the same bits from the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from collafuse_flwr.core.runtime import threads
from collafuse_flwr.evaluation import classifier_cache
from collafuse_flwr.evaluation.classifier import ImageClassifier, train_classifier
from collafuse_flwr.evaluation.classifier_cache import KEPT, cached_classifier

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trainings of two steps, counted."""
    trained: list[int] = []

    def train(*given: Any, **more: Any) -> ImageClassifier:
        trained.append(1)
        return train_classifier(*given, **more, steps=2)

    monkeypatch.setattr(classifier_cache, "train_classifier", train)
    return trained


@pytest.fixture
def given() -> dict[str, Any]:
    images = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, rows = torch.arange(20) % 3, torch.arange(0, 20, 2)
    return {"images": images, "labels": labels, "num_classes": 3, "seed": 0, "rows": rows, "device": CPU}


def weights(classifier: ImageClassifier) -> Tensor:
    return torch.cat([value.flatten() for value in classifier.state_dict().values()])


def test_it_is_trained_once_and_has_the_bits_of_the_training(
    tmp_path: Path, given: dict[str, Any], short: list[int]
) -> None:
    first, second = (cached_classifier(tmp_path, **given) for _ in range(2))
    assert len(short) == 1
    plain = train_classifier(**given, steps=2)
    assert torch.equal(weights(first), weights(plain))
    assert torch.equal(weights(second), weights(plain))
    assert not second.training
    assert not any(value.requires_grad for value in second.parameters())


@pytest.mark.parametrize(
    "other",
    [
        {"images": torch.zeros(20, 1, 8, 8, dtype=torch.uint8)},
        {"labels": torch.zeros(20, dtype=torch.int64)},
        {"num_classes": 4},
        {"seed": 1},
        {"rows": torch.arange(9)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_whatever_changes_its_bits_trains_another(
    tmp_path: Path, given: dict[str, Any], short: list[int], other: dict[str, Any]
) -> None:
    cached_classifier(tmp_path, **given)
    classifier = cached_classifier(tmp_path, **given | other)
    assert len(short) == 2
    assert torch.equal(weights(classifier), weights(train_classifier(**given | other, steps=2)))


def test_images_that_are_not_learnt_from_do_not_count(tmp_path: Path, given: dict[str, Any], short: list[int]) -> None:
    cached_classifier(tmp_path, **given)
    given["images"][1] = 0
    cached_classifier(tmp_path, **given)
    assert len(short) == 1


def test_another_number_of_threads_is_another_training(tmp_path: Path, given: dict[str, Any], short: list[int]) -> None:
    for count in (1, 2):
        with threads(count):
            cached_classifier(tmp_path, **given)
    assert len(short) == 2


def test_a_damaged_file_is_trained_again_and_mended(tmp_path: Path, given: dict[str, Any], short: list[int]) -> None:
    cached_classifier(tmp_path, **given)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-8])
    for trained in (2, 2):
        classifier = cached_classifier(tmp_path, **given)
        assert len(short) == trained
        assert torch.equal(weights(classifier), weights(train_classifier(**given, steps=2)))


def test_a_cache_that_cannot_be_written_costs_only_the_training(
    tmp_path: Path, given: dict[str, Any], short: list[int]
) -> None:
    (tmp_path / "file").touch()
    for trained in (1, 2):
        cached_classifier(tmp_path / "file", **given)
        assert len(short) == trained


def test_those_used_last_are_kept(tmp_path: Path, given: dict[str, Any], short: list[int]) -> None:
    for seed in range(KEPT + 2):
        cached_classifier(tmp_path, **given | {"seed": seed})
    assert len(list(tmp_path.iterdir())) == KEPT
    cached_classifier(tmp_path, **given | {"seed": KEPT + 1})
    assert len(short) == KEPT + 2


def test_nobody_else_may_enter_the_cache(tmp_path: Path, given: dict[str, Any]) -> None:
    cached_classifier(tmp_path / "user" / "collafuse_flwr" / "classifiers", **given)
    for folder in (tmp_path / "user", tmp_path / "user" / "collafuse_flwr"):
        assert folder.stat().st_mode & 0o777 == 0o700
