import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.loaders.npz import load_archive
from tests.unit.data.sets import at, in_chunks, pixels, refused


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


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_archive_is_read_in_chunks(save: Callable[..., None], order: Any, tmp_path: Path) -> None:
    written, path = pixels(50, 8, 8, 3), tmp_path / "set.npz"
    save(path, images=np.asarray(written, order=order))
    source = load_archive(at("npz", path))
    assert list(source.files(torch.arange(50))) == [path]
    channels_first = written.transpose(0, 3, 1, 2)
    for size in (1, 7, 50):
        assert np.array_equal(in_chunks(at("npz", path), size).numpy(), channels_first)
    some = torch.tensor([0, 3, 4, 5, 31, 48])
    for _ in range(2):  # the second time it starts again
        assert np.array_equal(source.read(some).numpy(), channels_first[some])


def test_archive_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    path, megabytes = tmp_path / "set.npz", 24
    np.savez_compressed(path, images=np.zeros((megabytes * 1024, 32, 32), np.uint8))
    tracemalloc.start()
    source = load_archive(at("npz", path))
    for chunk in torch.arange(len(source.labels)).split(256):
        assert source.read(chunk).shape == (256, 1, 32, 32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 * megabytes / 8


def test_the_check_sum_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, images=pixels(4, 8, 8))
    whole = path.read_bytes()
    path.write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
    refused(at("npz", path), "it cannot be read (Bad CRC-32", ".npz file")


def test_archive_that_claims_more_images_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(640))
    refused(at("npz", path), "`images` is cut short", ".npz file")


GOOD: dict[str, Any] = {"images": np.zeros((4, 8, 8), np.uint8), "labels": np.zeros(4, np.uint8)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": GOOD["images"]}, "only pictures"),
        ({}, "only nothing"),
        (
            GOOD | {"images": np.full((4, 8, 8), 1.5)},
            "`images` is float64 from 1.5 to 1.5; expected 0 to 1",
        ),
        (GOOD | {"images": np.full((4, 8, 8), -255.0)}, "or `data.window` = [low,high]"),
        (GOOD | {"images": np.full((4, 8, 8), np.nan, np.float32)}, "`images` is float32 without any finite number"),
        (GOOD | {"images": np.zeros((4, 8, 8), bool)}, "`images` is bool"),
        (GOOD | {"images": np.zeros((4, 2, 8, 8), np.uint8)}, "shape (4, 2, 8, 8)"),
        (GOOD | {"images": np.zeros((4, 8, 8, 4), np.uint8)}, "shape (4, 8, 8, 4)"),
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
def test_wrong_archives_are_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    refused(at("npz", tmp_path / "set.npz"), message)


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
