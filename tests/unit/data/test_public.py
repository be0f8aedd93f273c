"""Public images: of the clients' kind, and none of them their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from collafuse_flwr.core.errors import DataError, SettingError
from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.images import ImageSet
from collafuse_flwr.data.public import load_public_images
from collafuse_flwr.data.settings import DataConfig, PublicConfig

DATA = DataConfig()
SHAPE = (1, 8, 10, 0)


def bytes_of(images: ImageSet) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.images}


def test_there_are_none_unless_a_set_is_given() -> None:
    assert load_public_images(PublicConfig(), DATA, SHAPE, None, 0) is None


def test_no_image_of_a_client_is_public() -> None:
    private = load_images(replace(DATA, max_images=1700), 0)
    public = load_public_images(PublicConfig(dataset="digits"), DATA, SHAPE, private, 0)
    every = load_images(DATA, 0)
    assert public is not None
    assert bytes_of(public) == bytes_of(every) - bytes_of(private)


def test_as_many_are_drawn_as_are_wanted_always_the_same_by_seed() -> None:
    config = PublicConfig(dataset="digits", max_images=30)
    first, again, other = (load_public_images(config, DATA, SHAPE, None, seed) for seed in (0, 0, 1))
    assert first is not None
    assert again is not None
    assert other is not None
    assert len(first) == len(other) == 30
    assert torch.equal(first.images, again.images)
    assert bytes_of(first) != bytes_of(other)
    assert len(set(first.labels.tolist())) > 5


def test_they_are_as_large_as_the_clients_images() -> None:
    public = load_public_images(PublicConfig(dataset="digits"), DATA, (1, 16, 10, 0), None, 0)
    assert public is not None
    assert public.images.shape[1:] == (1, 16, 16)


@pytest.mark.parametrize("shape", [(3, 8, 10, 0), (1, 8, 9, 0), (1, 8, 10, 4)])
def test_images_of_another_kind_are_refused(shape: tuple[int, int, int, int]) -> None:
    with pytest.raises(SettingError, match=r"^`public.dataset` = 'digits' is not allowed: images with "):
        load_public_images(PublicConfig(dataset="digits"), DATA, shape, None, 0)


def test_classes_are_the_same_by_name_where_they_are_conditions() -> None:
    private = load_images(DATA, 0)
    renamed = replace(private, class_names=tuple("abcdefghij"))
    with pytest.raises(SettingError, match=r"the clients' classes, a, b, c, .*; not 0, 1, 2"):
        load_public_images(PublicConfig(dataset="digits"), DATA, SHAPE, renamed, 0)
    unconditional = replace(DATA, conditioning="none")
    fewer = replace(renamed, images=private.images[:100], labels=private.labels[:100])
    assert load_public_images(PublicConfig(dataset="digits"), unconditional, SHAPE, fewer, 0) is not None


def test_where_all_are_clients_images_none_are_left() -> None:
    with pytest.raises(SettingError, match="a set with images that are not the clients' own"):
        load_public_images(PublicConfig(dataset="digits"), DATA, SHAPE, load_images(DATA, 0), 0)


def test_a_missing_file_is_said_of_the_public_set(tmp_path: Path) -> None:
    config = PublicConfig(dataset="npz", dataset_path=str(tmp_path / "none.npz"))
    with pytest.raises(DataError, match=r"none\.npz"):
        load_public_images(config, DATA, SHAPE, None, 0)


def test_they_come_from_a_folder_or_file_of_their_own(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "public.npz", images=images, labels=np.arange(20) % 10)
    config = PublicConfig(dataset="npz", dataset_path=str(tmp_path / "public.npz"))
    public = load_public_images(config, DATA, SHAPE, None, 0)
    assert public is not None
    assert np.array_equal(public.images[:, 0].numpy(), images)
