import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.datasets import LOADERS, load_images
from tests.unit.data.sets import at, pixels, refused, write_idx, write_pair

REAL_DATA = Path(__file__).parents[3] / ".." / "shared" / "data"


@pytest.mark.parametrize(("dataset", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_training_pair_is_read(dataset: str, folder: str, tmp_path: Path) -> None:
    train = write_pair(tmp_path, "train", 20, folder)
    write_pair(tmp_path, "t10k", 10, folder)
    images = load_images(at(dataset, tmp_path), seed=0)
    assert np.array_equal(images.images[:, 0].numpy(), train)
    assert images.labels.tolist() == list(range(10)) * 2
    assert images.num_classes == 10


@pytest.mark.parametrize(("dataset", "folder", "last"), [("kmnist", "KMNIST", "wo"), ("notmnist", "notMNIST", "J")])
def test_test_pair_is_read_where_there_is_no_training_pair(
    dataset: str, folder: str, last: str, tmp_path: Path
) -> None:
    test = write_pair(tmp_path, "t10k", 10, folder)
    images = load_images(at(dataset, tmp_path), seed=0)
    assert np.array_equal(images.images[:, 0].numpy(), test)
    assert images.class_names[-1] == last
    (images_file, labels_file) = LOADERS[dataset](at(dataset, tmp_path)).files(torch.arange(3))
    assert (images_file.name, labels_file.name) == ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def test_the_split_is_a_setting(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", 20)
    write_pair(tmp_path, "t10k", 10)
    assert len(load_images(replace(at("mnist", tmp_path), split="test"), seed=0)) == 10
    with pytest.raises(SettingError, match=r"^`data.split` = 'val' .* in it is train, test"):
        load_images(replace(at("mnist", tmp_path), split="val"), seed=0)


def test_half_a_training_pair_is_no_reason_to_read_the_test_pair(tmp_path: Path) -> None:
    write_pair(tmp_path, "train")
    write_pair(tmp_path, "t10k")
    (tmp_path / "MNIST/raw/train-labels-idx1-ubyte").unlink()
    refused(at("mnist", tmp_path), "there is no file", "train-labels-idx1-ubyte")


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "damage", "error"),
    [
        (IMAGES, lambda raw: raw[:-1], "input of size 1279"),
        (IMAGES, lambda raw: raw + b"\0", "input of size 1281"),
        (IMAGES, lambda raw: raw[:7], f"{IMAGES} is empty, damaged or no idx file"),
        (IMAGES, lambda raw: raw[:16], "damaged"),
        (IMAGES, lambda raw: b"", "damaged"),
        (IMAGES, lambda raw: b"\x1f\x8b" + raw[2:], "damaged"),
        (IMAGES, lambda raw: raw[:2] + b"\x0a" + raw[3:], "damaged"),
        (IMAGES, lambda raw: raw[:4] + bytes(12) + raw[16:], "input of size 1280"),
        (IMAGES, lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], "damaged"),
        (LABELS, lambda raw: raw[:-1], "input of size 19"),
        (LABELS, lambda raw: raw[:4] + struct.pack(">I", 19) + raw[8:-1], "shape (19,); expected (20,)"),
        (LABELS, lambda raw: raw[:-1] + b"\x0a", "0 to 10; expected 0..9"),
    ],
)
def test_damaged_idx_files_are_refused(name: str, damage: Callable[[bytes], bytes], error: str, tmp_path: Path) -> None:
    write_pair(tmp_path, "train")
    path = tmp_path / "MNIST" / "raw" / name
    path.write_bytes(damage(path.read_bytes()))
    refused(at("mnist", tmp_path), error, "expected")


def test_idx_files_of_another_type_or_without_images_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "train")
    write_idx(tmp_path / "MNIST/raw" / IMAGES, pixels(20, 8, 8).astype(">f4"), kind=13)
    refused(at("mnist", tmp_path), IMAGES, "torch.uint8", "expected")
    write_pair(tmp_path, "train", count=0)
    refused(at("mnist", tmp_path), IMAGES, "empty", "expected")


@pytest.mark.parametrize(
    ("dataset", "folder"),
    [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST"), ("notmnist", "notMNIST")],
)
def test_real_images(dataset: str, folder: str) -> None:
    if not (REAL_DATA / folder / "raw").is_dir():
        pytest.skip(f"THE REAL {folder} IMAGES ARE NOT TESTED: there is no {REAL_DATA / folder / 'raw'}")
    images = load_images(at(dataset, REAL_DATA), seed=0)
    assert images.images.shape[1:] == (1, 28, 28)
    assert len(images) >= 10_000
    assert images.labels.bincount(minlength=10).min() >= 1000
    # Bright strokes on black: images that are shifted in their file, or inverted, fail this.
    assert images.images[..., [0, -1]].float().mean() < images.images[..., 10:18].float().mean()
