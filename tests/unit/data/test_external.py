"""Somebody else's data set: what it may be, and that every mistake is one line which names the setting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.images import ImageMetadata, LazyImageDataset
from collafuse_flwr.data.settings import DataConfig

COUNT = 6


def good(_: DataConfig, **changed: Any) -> LazyImageDataset:
    parts: dict[str, Any] = {
        "labels": torch.arange(COUNT) % 2,
        "class_names": ("a", "b"),
        "read": lambda rows: rows.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8),
    }
    return LazyImageDataset(**parts | changed)


def given_path(config: DataConfig) -> LazyImageDataset:
    return good(config, class_names=(config.path, config.name))


def nothing(_: DataConfig) -> None:
    pass


def with_read(read: Callable[[torch.Tensor], Any]) -> Callable[[DataConfig], LazyImageDataset]:
    return lambda config: good(config, read=read)


def with_metadata(**facts: Any) -> Callable[[DataConfig], LazyImageDataset]:
    return lambda config: good(config, metadata=ImageMetadata(**facts))


class Wrong:
    """Data sets with one mistake each."""

    floats = staticmethod(lambda config: good(config, labels=torch.zeros(COUNT)))
    no_names = staticmethod(lambda config: good(config, class_names=()))
    twice = staticmethod(lambda config: good(config, class_names=("a", "a")))
    too_few = staticmethod(lambda config: good(config, class_names=("a",)))
    flat = staticmethod(with_read(lambda rows: torch.zeros(len(rows), 8, 8, dtype=torch.uint8)))
    float_images = staticmethod(with_read(lambda rows: torch.zeros(len(rows), 1, 8, 8)))
    four = staticmethod(with_read(lambda rows: torch.zeros(len(rows), 4, 8, 8, dtype=torch.uint8)))
    attributes = staticmethod(with_metadata(attributes=torch.zeros(COUNT, 1, dtype=torch.uint8)))
    group = staticmethod(with_metadata(groups={"patient": torch.zeros(2, dtype=torch.int64)}))
    key = staticmethod(with_metadata(group_key="patient"))


def config_of(name: str, *paths: str) -> DataConfig:
    return DataConfig(dataset=(f"tests.unit.data.test_external:{name}",), dataset_path=paths)


def test_it_is_loaded_like_any_other() -> None:
    images = load_images(config_of("good"), seed=0)
    assert images.images[:, 0, 0, 0].tolist() == list(range(COUNT))
    assert images.name == "tests.unit.data.test_external:good"
    assert len(load_images(DataConfig(dataset=(images.name,), max_images=4), seed=0)) == 4


def test_in_a_list_each_set_has_its_own_path_and_name() -> None:
    name = "tests.unit.data.test_external:given_path"
    images = load_images(DataConfig(dataset=(name, "digits"), dataset_path=("here", "there"), max_images=50), seed=0)
    assert images.class_names[:2] == ("here", name)


def test_images_in_files_are_kept_under_a_name_without_a_colon(tmp_path: Path) -> None:
    (tmp_path / "images.bin").write_bytes(b"1")
    config = DataConfig(
        dataset=("tests.unit.data.test_external:in_a_file",), dataset_path=(str(tmp_path / "images.bin"),)
    )
    load_images(DataConfig(**vars(config) | {"cache_path": str(tmp_path / "cache")}), seed=0)
    (kept,) = (tmp_path / "cache").glob("*.npy")
    assert kept.name.startswith("tests.unit.data.test_external-in_a_file-")


def in_a_file(config: DataConfig) -> LazyImageDataset:
    return good(config, files=lambda _: [Path(config.path)])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "package.module:name of something that can be imported (module"),
        ("COUNT", "the factory must be callable, not int"),
        ("nothing", "the factory must return a LazyImageDataset, not NoneType"),
        ("Wrong.floats", "its data set must have labels of shape (N,), int64, not (6,), torch.float32"),
        ("Wrong.no_names", "its data set must have different class names, one for each class, not ()"),
        ("Wrong.twice", "its data set must have different class names, one for each class, not ('a', 'a')"),
        ("Wrong.too_few", "its data set must have labels in 0..0, one for each class name, not 0..1"),
        ("Wrong.flat", "its data set must have a `read` of one image that gives (1, channels, height, width), uint8"),
        ("Wrong.float_images", "uint8, not (1, 1, 8, 8), torch.float32"),
        ("Wrong.four", "its data set must have images of 1 or 3 channels, not 4"),
        ("Wrong.attributes", "its data set must have attributes of shape (6, 0), uint8, not (6, 1), torch.uint8"),
        ("Wrong.group", "its data set must have the group 'patient' of each image, (6,), int64, not (2,)"),
        ("Wrong.key", "its data set must have the group that must not be separated, 'patient', among its groups"),
    ],
)
def test_a_mistake_is_one_line(name: str, message: str) -> None:
    config = config_of(name)
    with pytest.raises(SettingError) as caught:
        load_images(config, seed=0)
    assert (caught.value.name, caught.value.value) == ("dataset", config.name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
