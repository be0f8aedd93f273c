from dataclasses import fields
from pathlib import Path

import pytest
import torch

from collafuse_flwr.data.datasets import LOADERS, load_images
from collafuse_flwr.data.settings import DataConfig
from tests.unit.data.sets import at, refused


def test_every_data_set_of_the_settings_has_a_loader() -> None:
    (field,) = (field for field in fields(DataConfig) if field.name == "dataset")
    assert set(LOADERS) == set(field.metadata["choices"])


def test_digits() -> None:
    images = load_images(DataConfig(), seed=0)
    assert images.images.shape == (1797, 1, 8, 8)
    assert torch.unique(images.images).tolist() == [round(255 / 16 * level) for level in range(17)]
    assert images.class_names == tuple("0123456789")
    assert images.name == "digits"
    assert images.labels.bincount().min() > 170


def test_max_images_are_drawn_by_seed() -> None:
    config = DataConfig(max_images=100)
    first, again, other = (load_images(config, seed) for seed in (0, 0, 1))
    assert len(first) == 100
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)
    assert len(load_images(DataConfig(max_images=10_000), seed=0)) == 1797


def test_image_size_resizes() -> None:
    assert load_images(DataConfig(image_size=12, max_images=10), seed=0).images.shape == (10, 1, 12, 12)


@pytest.mark.parametrize("dataset", [name for name in LOADERS if name != "digits"])
def test_missing_paths_are_refused(dataset: str, tmp_path: Path) -> None:
    refused(DataConfig(dataset=(dataset,)), "`dataset_path` is empty", f"'{dataset}' needs")
    refused(at(dataset, tmp_path / "no\nwhere"), "there is no", "expected")
    refused(at(dataset, tmp_path), "expected")
