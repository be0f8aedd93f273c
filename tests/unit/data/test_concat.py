from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import DataError, SettingError
from collafuse_flwr.data.concat import concat_datasets
from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.images import ImageMetadata, LazyImageDataset
from collafuse_flwr.data.settings import DataConfig


def write(path: Path, *shape: int, classes: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    images = np.random.default_rng(len(shape)).integers(0, 256, shape, dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(len(images)) % len(classes), classes=classes)
    return images


def both(tmp_path: Path, *classes: str) -> DataConfig:
    write(tmp_path / "grey.npz", 12, 8, 8, classes=["cat", "dog"])
    write(tmp_path / "rgb.npz", 18, 16, 16, 3, classes=list(classes) or ["dog", "cow"])
    paths = str(tmp_path / "grey.npz"), str(tmp_path / "rgb.npz")
    return DataConfig(("npz", "npz"), paths, image_size=8, cache_path=str(tmp_path / "cache"), partition="by_domain")


def test_sets_become_one(tmp_path: Path) -> None:
    images = load_images(both(tmp_path), 0)
    assert images.images.shape == (30, 3, 8, 8)
    assert images.class_names == ("cat", "dog", "cow")
    assert images.labels.tolist() == [0, 1] * 6 + [1, 2] * 9
    assert images.metadata.groups["domain"].tolist() == [0] * 12 + [1] * 18
    for begin, end, name in ((0, 12, "grey"), (12, 30, "rgb")):
        own = load_images(
            DataConfig(("npz",), (str(tmp_path / f"{name}.npz"),), image_size=8, cache_path=str(tmp_path / "cache")), 0
        )
        assert torch.equal(images.images[begin:end], own.images.expand(-1, 3, -1, -1))


def test_classes_may_be_the_same_by_number(tmp_path: Path) -> None:
    images = load_images(replace(both(tmp_path), merge_classes_by="number"), 0)
    assert images.class_names == ("0", "1")
    assert images.labels.tolist() == [0, 1] * 15
    images = load_images(replace(both(tmp_path, "dog", "cow", "owl"), merge_classes_by="number"), 0)
    assert images.class_names == ("0", "1", "2")
    assert images.labels.tolist() == [0, 1] * 6 + [0, 1, 2] * 6


def test_every_client_has_a_domain(tmp_path: Path) -> None:
    data = federation_data(both(tmp_path), 4, 0)
    assert [len(data.client(i).train) + len(data.client(i).held_out) for i in range(4)] == [6, 9, 6, 9]


def test_one_path_serves_all_sets_and_other_numbers_are_refused(tmp_path: Path) -> None:
    config = DataConfig(("digits", "digits"), max_images=20)
    assert len(load_images(config, 0)) == 20
    with pytest.raises(
        DataError,
        match=r"^`dataset_path` = \['a', 'b', 'c'\]: 3 paths; expected one for all of `dataset` =",
    ):
        load_images(DataConfig(("digits", "digits"), ("a", "b", "c")), 0)
    assert Config.from_flat({"dataset": ["digits", "mnist"]}).data.dataset == ("digits", "mnist")
    with pytest.raises(SettingError, match=r"^`dataset` = \['digits', 'faces'\] .*one or a list of digits, "):
        Config.from_flat({"dataset": ["digits", "faces"]})


def test_what_all_sets_know_is_kept_and_patients_stay_together() -> None:
    def source(count: int, metadata: ImageMetadata) -> LazyImageDataset:
        return LazyImageDataset(torch.zeros(count, dtype=torch.int64), ("one",), lambda keep: keep, metadata=metadata)

    bits = torch.tensor([[1], [0]], dtype=torch.uint8)
    first = ImageMetadata(bits, ("Hat",), {"patient": torch.tensor([0, 0]), "city": torch.tensor([0, 1])}, "patient")
    other = ImageMetadata(1 - bits, ("Hat",), {"city": torch.tensor([0, 0])})
    metadata = concat_datasets([source(2, first), source(2, other)], 0).metadata
    assert metadata.attributes is not None
    assert metadata.attributes.flatten().tolist() == [1, 0, 0, 1]
    assert metadata.group_key == "patient"
    assert {name: group.tolist() for name, group in metadata.groups.items()} == {
        "domain": [0, 0, 1, 1],
        "patient": [0, 0, 1, 2],
        "city": [0, 1, 2, 2],
    }
    unlike = concat_datasets([source(2, first), source(2, ImageMetadata())], 0).metadata
    assert unlike.attributes is None
    assert set(unlike.groups) == {"domain", "patient"}
