import socket
import struct
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from collafuse_flwr.config import DataConfig
from collafuse_flwr.data import load_images
from collafuse_flwr.data.datasets import LOADERS
from collafuse_flwr.errors import DataError

REAL_DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("data sets are never downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def pixels(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def write_idx(path: Path, array: NDArray[Any], kind: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def write_pair(root: Path, split: str, count: int = 20, folder: str = "MNIST") -> NDArray[np.uint8]:
    images = pixels(count, 8, 8)
    write_idx(root / folder / "raw" / f"{split}-images-idx3-ubyte", images)
    write_idx(root / folder / "raw" / f"{split}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    return images


def write_png(path: Path, array: NDArray[Any], mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)


def write_folder(root: Path, per_class: int = 3) -> NDArray[np.uint8]:
    images = pixels(2 * per_class, 8, 8)
    for i, image in enumerate(images):
        write_png(root / ("cat", "dog")[i // per_class] / f"{i:03}.png", image)
    return images


def refused(config: DataConfig, *parts: str) -> None:
    """Check that loading fails with one line that begins with a setting and holds all `parts`."""
    with pytest.raises(DataError) as caught:
        load_images(config, seed=0)
    message = str(caught.value)
    assert message.startswith(("`dataset_path`", "`image_size`"))
    assert "\n" not in message
    for part in parts:
        assert part in message


def at(dataset: str, path: Path, image_size: int = 0, max_images: int = 0) -> DataConfig:
    return DataConfig(dataset, str(path), image_size, max_images)


# All data sets


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
    refused(DataConfig(dataset=dataset), "`dataset_path` is empty", f"'{dataset}' needs")
    refused(at(dataset, tmp_path / "no\nwhere"), "there is no", "expected")
    refused(at(dataset, tmp_path), "expected")


# The MNIST family


@pytest.mark.parametrize(("dataset", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_training_pair_is_read(dataset: str, folder: str, tmp_path: Path) -> None:
    train = write_pair(tmp_path, "train", 20, folder)
    write_pair(tmp_path, "t10k", 10, folder)
    images = load_images(at(dataset, tmp_path), seed=0)
    assert np.array_equal(images.images[:, 0].numpy(), train)
    assert images.labels.tolist() == list(range(10)) * 2
    assert images.num_classes == 10


def test_test_pair_is_read_where_there_is_no_training_pair(tmp_path: Path) -> None:
    test = write_pair(tmp_path, "t10k", 10, "KMNIST")
    assert np.array_equal(load_images(at("kmnist", tmp_path), seed=0).images[:, 0].numpy(), test)


def test_half_a_training_pair_is_no_reason_to_read_the_test_pair(tmp_path: Path) -> None:
    write_pair(tmp_path, "train")
    write_pair(tmp_path, "t10k")
    (tmp_path / "MNIST/raw/train-labels-idx1-ubyte").unlink()
    refused(at("mnist", tmp_path), "there is no file", "train-labels-idx1-ubyte")


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "damage", "told"),
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
def test_damaged_idx_files_are_refused(name: str, damage: Callable[[bytes], bytes], told: str, tmp_path: Path) -> None:
    write_pair(tmp_path, "train")
    path = tmp_path / "MNIST" / "raw" / name
    path.write_bytes(damage(path.read_bytes()))
    refused(at("mnist", tmp_path), told, "expected")


def test_idx_files_of_another_type_or_without_images_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "train")
    write_idx(tmp_path / "MNIST/raw" / IMAGES, pixels(20, 8, 8).astype(">f4"), kind=13)
    refused(at("mnist", tmp_path), IMAGES, "torch.uint8", "expected")
    write_pair(tmp_path, "train", count=0)
    refused(at("mnist", tmp_path), IMAGES, "empty", "expected")


# Folders


def test_folder_is_read_in_sorted_order(tmp_path: Path) -> None:
    written = write_folder(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.txt").write_text("not an image")
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    (tmp_path / "cat" / ".hidden.png").write_text("not an image")
    write_png(tmp_path / "dog" / ".ipynb_checkpoints" / "000-checkpoint.png", pixels(8, 8))
    images = load_images(at("imagefolder", tmp_path), seed=0)
    assert np.array_equal(images.images[:, 0].numpy(), written)
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.class_names == ("cat", "dog")


def test_classes_may_be_empty_and_folders_nested(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "bird").mkdir()
    write_png(tmp_path / "dog" / "large" / "000.png", pixels(8, 8))
    images = load_images(at("imagefolder", tmp_path), seed=0)
    assert images.class_names == ("bird", "cat", "dog")
    assert images.labels.bincount().tolist() == [0, 3, 4]


@pytest.mark.parametrize(
    ("modes", "channels"),
    [(["L", "1"], 1), (["L", "RGB"], 3), (["RGBA"], 3), (["P"], 3), (["LA"], 3), (["CMYK"], 3)],
)
def test_channels_follow_the_modes(modes: list[str], channels: int, tmp_path: Path) -> None:
    for mode in modes:
        suffix = "tiff" if mode == "CMYK" else "png"
        write_png(tmp_path / "one" / f"{mode}.{suffix}", np.full((8, 8, 3), 255, dtype=np.uint8), mode)
    images = load_images(at("imagefolder", tmp_path), seed=0).images
    assert images.shape == (len(modes), channels, 8, 8)
    assert images.min() == 255


def test_palette_with_transparency(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    image = Image.fromarray(np.zeros((8, 8), dtype=np.uint8), "L").convert("P")
    image.save(tmp_path / "one" / "p.png", transparency=bytes([0] * 256))
    assert load_images(at("imagefolder", tmp_path), seed=0).images.shape == (1, 3, 8, 8)


def test_images_of_several_sizes_need_image_size(tmp_path: Path) -> None:
    write_png(tmp_path / "one" / "a.png", pixels(8, 8))
    write_png(tmp_path / "one" / "b.png", pixels(10, 12))
    refused(at("imagefolder", tmp_path), "`image_size` = 0", "a.png is 8 x 8", "b.png is 10 x 12")
    assert load_images(at("imagefolder", tmp_path, image_size=8), seed=0).images.shape == (2, 1, 8, 8)


def test_images_that_are_not_square_need_image_size(tmp_path: Path) -> None:
    write_png(tmp_path / "one" / "a.png", pixels(8, 12))
    refused(at("imagefolder", tmp_path), "`image_size` = 0", "8 x 12")


def test_images_beyond_max_images_are_not_decoded(tmp_path: Path) -> None:
    write_folder(tmp_path)
    kept = load_images(at("imagefolder", tmp_path, max_images=5), seed=0).images
    everything = load_images(at("imagefolder", tmp_path), seed=0).images
    (dropped,) = (i for i, image in enumerate(everything) if not any(torch.equal(image, other) for other in kept))
    sorted(tmp_path.rglob("*.png"))[dropped].write_bytes(b"damaged")
    assert torch.equal(load_images(at("imagefolder", tmp_path, max_images=5), seed=0).images, kept)
    refused(at("imagefolder", tmp_path), "cannot be read as an image")


def test_damaged_images_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    path = tmp_path / "cat" / "001.png"
    whole = path.read_bytes()
    for damaged in (b"", b"GIF", whole[: len(whole) // 2], whole[:40] + b"\xff\0" + whole[42:]):
        path.write_bytes(damaged)
        refused(at("imagefolder", tmp_path), "cannot be read as an image", "001.png")


def test_images_of_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    write_png(tmp_path / "one" / "deep.png", np.full((8, 8), 40_000, dtype=np.uint16))
    refused(at("imagefolder", tmp_path), "deep.png", "more than 8 bits")
    (tmp_path / "one" / "deep.png").unlink()
    write_png(tmp_path / "one" / "float.tiff", np.full((8, 8), np.nan, dtype=np.float32))
    refused(at("imagefolder", tmp_path), "float.tiff", "more than 8 bits")


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(at("imagefolder", tmp_path), "no images in subfolders")
    write_png(tmp_path / "flat.png", pixels(8, 8))
    refused(at("imagefolder", tmp_path), "no images in subfolders")
    refused(at("imagefolder", tmp_path / "flat.png"), "not a folder")
    (tmp_path / "empty" / "scan.dcm").write_bytes(b"DICM")
    refused(at("imagefolder", tmp_path), "no file in empty is an image")


# Archives


@pytest.mark.parametrize("prefix", ["", "train_"])
@pytest.mark.parametrize(("shape", "channels"), [((6, 8, 8), 1), ((6, 8, 8, 1), 1), ((6, 8, 8, 3), 3)])
def test_archive_is_read(prefix: str, shape: tuple[int, ...], channels: int, tmp_path: Path) -> None:
    written, path = pixels(*shape), tmp_path / "set.npz"
    arrays: dict[str, Any] = {f"{prefix}images": written, f"{prefix}labels": np.arange(6, dtype=np.uint8) % 3}
    np.savez_compressed(path, **arrays, test_images=np.zeros(1))
    images = load_images(at("npz", path), seed=0)
    assert images.images.shape == (6, channels, 8, 8)
    assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), written.reshape(6, 8, 8, channels))
    assert images.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert images.class_names == ("0", "1", "2")


def test_archive_without_labels_is_one_class(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=pixels(6, 8, 8))
    images = load_images(at("npz", tmp_path / "set.npz"), seed=0)
    assert images.num_classes == 1
    assert images.labels.tolist() == [0] * 6


def test_archive_names_its_classes(tmp_path: Path) -> None:
    labels = np.array([[0], [2]])  # as MedMNIST keeps them
    np.savez(tmp_path / "set.npz", images=pixels(2, 8, 8), labels=labels, classes=["x", "y", "z"])
    images = load_images(at("npz", tmp_path / "set.npz"), seed=0)
    assert images.class_names == ("x", "y", "z")
    assert images.labels.tolist() == [0, 2]


GOOD: dict[str, Any] = {"images": np.zeros((4, 8, 8), np.uint8), "labels": np.zeros(4, np.uint8)}


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"pictures": GOOD["images"]}, "only pictures"),
        ({}, "only nothing"),
        (GOOD | {"images": np.zeros((4, 8, 8))}, "`images` is float64; expected uint8"),
        (GOOD | {"images": np.full((4, 8, 8), np.nan, np.float32)}, "`images` is float32"),
        (GOOD | {"images": np.zeros((4, 3, 8, 8), np.uint8)}, "shape (4, 3, 8, 8)"),
        (GOOD | {"images": np.zeros((4, 8), np.uint8)}, "shape (4, 8)"),
        (GOOD | {"images": np.zeros((0, 8, 8), np.uint8), "labels": np.zeros(0, int)}, "no images"),
        (GOOD | {"images": np.zeros((4, 0, 0), np.uint8)}, "no images"),
        (GOOD | {"images": np.array([{}] * 4)}, "cannot be read"),
        (GOOD | {"labels": np.zeros(3, np.uint8)}, "shape (3,); expected (4,)"),
        (GOOD | {"labels": np.zeros((4, 2), np.uint8)}, "shape (4, 2)"),
        (GOOD | {"labels": np.array([0, 0, 0, -1])}, "-1 to 0"),
        (GOOD | {"labels": np.array([0, 0, 0, 10**9])}, "0 to 1000000000"),
        (GOOD | {"labels": np.array([0, 0, 0, np.nan])}, "labels are float64"),
        (GOOD | {"labels": np.array(["a"] * 4)}, "labels are <U1"),
        (GOOD | {"labels": np.array([0, 1, 2, 3]), "classes": ["a", "b"]}, "0 to 3; expected 0..1"),
        (GOOD | {"classes": np.array([1, 2])}, "`classes` is int64"),
        ({"images": GOOD["images"], "classes": ["a"]}, "`classes` but no `labels`"),
        ({"images": np.zeros((4, 8, 12), np.uint8)}, "8 x 12 pixels"),
    ],
)
def test_wrong_archives_are_refused(arrays: dict[str, Any], told: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    refused(at("npz", tmp_path / "set.npz"), told)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez_compressed(path, **GOOD | {"images": pixels(4, 8, 8)})
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[:100], whole[:-1], whole[:90] + b"\xff\0\xff" + whole[93:]):
        path.write_bytes(damaged)
        refused(at("npz", path), ".npz file")
    np.save(tmp_path / "single.npy", pixels(4, 8, 8))
    refused(at("npz", tmp_path / "single.npy"), "no .npz file")
    refused(at("npz", tmp_path), "no .npz file")


# The real thing


@pytest.mark.parametrize(
    ("dataset", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_real_images(dataset: str, folder: str) -> None:
    if not (REAL_DATA / folder / "raw").is_dir():
        pytest.skip(f"THE REAL {folder} IMAGES ARE NOT TESTED: there is no {REAL_DATA / folder / 'raw'}")
    images = load_images(at(dataset, REAL_DATA), seed=0)
    assert images.images.shape[1:] == (1, 28, 28)
    assert len(images) >= 10_000
    assert images.labels.bincount(minlength=10).min() >= 1000
    # Bright strokes on black: images that are shifted in their file, or inverted, fail this.
    assert images.images[:, :, :2].float().mean() < images.images[:, :, 10:18, 10:18].float().mean()
