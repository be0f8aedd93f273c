from pathlib import Path

import numpy as np

from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.loaders.mnist import DAMAGED
from tests.unit.data.sets import at, pixels, refused, write_pair, write_png


def test_letters_are_read_without_the_two_damaged_files(tmp_path: Path) -> None:
    written = pixels(10, 28, 28)
    for letter, image in zip("ABCDEFGHIJ", written, strict=True):
        write_png(tmp_path / "notMNIST_small" / letter / "MDEtMDEtMDAudHRm.png", image)
    for name in DAMAGED:
        (tmp_path / "notMNIST_small" / name).write_bytes(b"")
    images = load_images(at("notmnist", tmp_path), seed=0)
    assert np.array_equal(images.images[:, 0].numpy(), written)
    assert "".join(images.class_names[i] for i in images.labels) == "ABCDEFGHIJ"
    moved = tmp_path / "notMNIST_small" / "B" / Path(DAMAGED[0]).name
    moved.write_bytes(b"")
    refused(at("notmnist", tmp_path), str(moved), "cannot be read as an image")


def test_missing_letters_are_refused(tmp_path: Path) -> None:
    for letter in "ABCDEFGHI":
        write_png(tmp_path / "notMNIST_small" / letter / "a.png", pixels(28, 28))
    refused(at("notmnist", tmp_path), "has folders A, B, C, D, E, F, G, H, I; expected", "A to J")


def test_damaged_idx_files_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "t10k", folder="notMNIST")
    path = tmp_path / "notMNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0a")
    refused(at("notmnist", tmp_path), "0 to 10; expected 0..9")
