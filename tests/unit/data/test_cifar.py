import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.loaders.cifar import load_cifar
from tests.unit.data.sets import as_png, at, in_chunks, pixels, python2_pickle, refused, write_cifar10, write_png


def test_training_batches_are_read_in_order(tmp_path: Path) -> None:
    written = write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"not read")
    images = load_images(at("cifar10", tmp_path), seed=0)
    assert np.array_equal(images.images.numpy(), written)
    assert images.labels.tolist() == [0, 1, 2, 3] * 5
    assert images.class_names[::9] == ("airplane", "truck")
    for size in (1, 3, 7):
        assert torch.equal(in_chunks(at("cifar10", tmp_path), size), images.images)


def test_only_the_batches_of_the_requested_rows_are_read(tmp_path: Path) -> None:
    written = write_cifar10(tmp_path)
    source = load_cifar(at("cifar10", tmp_path))
    some = torch.tensor([3, 4, 18])
    assert [path.name for path in source.files(some)] == ["data_batch_1", "data_batch_2", "data_batch_5"]
    for number in (3, 4):
        (tmp_path / "cifar-10-batches-py" / f"data_batch_{number}").unlink()
    assert np.array_equal(source.read(some).numpy(), written[some])


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_batches_that_python_3_wrote_are_read(protocol: int, tmp_path: Path) -> None:
    written = write_cifar10(tmp_path)
    batch = {b"data": np.asfortranarray(written[:4].reshape(4, 3072)), b"labels": [9, 8, 7, 6]}
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(batch, protocol))
    images = load_images(at("cifar10", tmp_path), seed=0)
    assert np.array_equal(images.images.numpy(), written)
    assert images.labels[:5].tolist() == [9, 8, 7, 6, 0]


def test_test_batches_are_read_if_the_setting_says_so(tmp_path: Path) -> None:
    written = write_cifar10(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    (folder / "data_batch_2").rename(folder / "test_batch")
    images = load_images(replace(at("cifar10", tmp_path), split="test"), seed=0)
    assert np.array_equal(images.images.numpy(), written[4:8])
    with pytest.raises(SettingError, match=r"^`data.split` = 'val' .* in it is train, test$"):
        load_cifar(replace(at("cifar10", tmp_path), split="val"))


def test_cifar100_has_its_fine_classes(tmp_path: Path) -> None:
    written, folder = pixels(6, 3, 32, 32), tmp_path / "cifar-100-python"
    folder.mkdir()
    names = [f"kind{i}" for i in range(100)]
    (folder / "meta").write_bytes(python2_pickle({"fine_label_names": names, "coarse_label_names": ["a"] * 20}))
    batch = {"data": written.reshape(6, 3072), "fine_labels": [99, 0, 4, 8, 15, 16], "coarse_labels": [0] * 6}
    (folder / "train").write_bytes(python2_pickle(batch))
    images = load_images(at("cifar100", tmp_path), seed=0)
    assert np.array_equal(images.images.numpy(), written)
    assert images.labels.tolist() == [99, 0, 4, 8, 15, 16]
    assert images.class_names == tuple(names)


@pytest.mark.parametrize(("dataset", "column", "count"), [("cifar10", "label", 10), ("cifar100", "fine_label", 100)])
def test_parquet_files_are_read(dataset: str, column: str, count: int, tmp_path: Path) -> None:
    """As the hub has them: PNG in a struct of bytes and path, and of CIFAR-100 two columns of classes."""
    written, labels = pixels(count, 32, 32, 3), np.arange(count)[::-1].tolist()
    names = [f"kind{i}" for i in range(count)]
    features: dict[str, Any] = {"img": datasets.Image(), column: datasets.ClassLabel(names=names)}
    rows: dict[str, Any] = {"img": [as_png(image) for image in written], column: labels}
    if dataset == "cifar100":
        features["coarse_label"], rows["coarse_label"] = datasets.ClassLabel(names=["a", "b"]), [0] * count
    for split in ("train", "test"):
        path = tmp_path / "root" / dataset / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(path)
        rows = {name: values[::-1] for name, values in rows.items()}
    config = replace(at(dataset, tmp_path / "root"), cache_path=str(tmp_path / "cache"))
    images = load_images(config, seed=0)
    assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), written)
    assert images.labels.tolist() == labels
    assert images.class_names == tuple(names)
    test = load_images(replace(config, split="test"), seed=0)
    assert torch.equal(test.images, images.images.flip(0))


def test_folders_of_the_classes_are_read(tmp_path: Path) -> None:
    written = pixels(20, 32, 32, 3)
    for i, image in enumerate(written):
        write_png(tmp_path / ("train", "test")[i // 10] / f"kind{i % 10}" / "0001.png", image)
    images = load_images(at("cifar10", tmp_path), seed=0)
    assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), written[:10])
    assert images.class_names == tuple(f"kind{i}" for i in range(10))
    refused(at("cifar100", tmp_path), "there are 10 classes in it", "a folder for each of 100 classes")


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["batches.meta", "data_batch_3"])
def test_code_in_a_file_is_not_run(name: str, tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    path, made = tmp_path / "cifar-10-batches-py" / name, tmp_path / "made"
    path.write_bytes(pickle.dumps(Hostile(made), 2))
    refused(at("cifar10", tmp_path), name, "posix.mkdir, which is not allowed")
    assert not made.exists()
    pickle.loads(path.read_bytes())
    assert made.exists()


GOOD = {"labels": [0, 1], "data": np.zeros((2, 3072), np.uint8)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no batch of CIFAR"),
        ({"labels": [0, 1]}, "b'data'"),
        ({"data": GOOD["data"]}, "b'labels'"),
        (GOOD | {"data": [0]}, "no batch of CIFAR"),
        (GOOD | {"data": np.zeros((2, 3072))}, "its type is f8"),
        (GOOD | {"data": np.zeros((2, 1024), np.uint8)}, "shape (2, 1024); expected (N, 3072)"),
        (GOOD | {"data": np.zeros((0, 3072), np.uint8)}, "shape (0, 3072)"),
        (GOOD | {"labels": [0]}, "shape (1,); expected (2,)"),
        (GOOD | {"labels": [0, 10]}, "0 to 10; expected 0..9"),
        (GOOD | {"labels": ["cat", "dog"]}, "labels are |S3"),
        (GOOD | {"labels": [[0], [0, 1]]}, "no batch of CIFAR"),
    ],
)
def test_wrong_batches_are_refused(content: object, message: str, tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(python2_pickle(content))
    refused(at("cifar10", tmp_path), message)


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_4"
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[:-1], whole[:500], whole.replace(b"M\0\x0c\x86", b"M\0\x0d\x86")):
        path.write_bytes(damaged)
        refused(at("cifar10", tmp_path), "data_batch_4", "expected")
    path.unlink()
    refused(at("cifar10", tmp_path), "there is no file", "data_batch_4", "expected")
    (path.parent / "batches.meta").write_bytes(python2_pickle({"num_vis": 3072}))
    refused(at("cifar10", tmp_path), "no `label_names`", "expected")
