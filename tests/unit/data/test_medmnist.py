from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.federated import federation_data
from tests.unit.data.sets import at, in_chunks, pixels, refused


def write(path: Path, images: Any, labels: Any) -> None:
    """An archive of MedMNIST's, with its six arrays."""
    arrays: dict[str, Any] = {
        f"{split}_{kind}": np.zeros((1, 1)) for split in ("val", "test") for kind in ("images", "labels")
    }
    np.savez_compressed(path, **arrays, train_images=images, train_labels=labels)


@pytest.mark.parametrize("shape", [(6, 28, 28), (6, 28, 28, 3)])
def test_training_images_are_read(shape: tuple[int, ...], tmp_path: Path) -> None:
    written, path = pixels(*shape), tmp_path / "pathmnist.npz"
    write(path, written, np.array([[2], [0], [1], [0], [0], [0]], np.uint8))
    images = load_images(at("medmnist", path), seed=0)
    assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), written.reshape(6, 28, 28, -1))
    assert images.labels.tolist() == [2, 0, 1, 0, 0, 0]
    assert images.class_names == ("0", "1", "2")
    assert torch.equal(in_chunks(at("medmnist", path), 4), images.images)


def test_of_volumes_each_slice_is_an_image_and_each_volume_a_patient(tmp_path: Path) -> None:
    """As organmnist3d.npz, nodulemnist3d.npz, ... are."""
    written, path = pixels(7, 28, 28, 28), tmp_path / "organmnist3d.npz"
    write(path, written, np.array([[2], [0], [1], [0], [3], [1], [0]], np.uint8))
    images = load_images(at("medmnist", path), seed=0)
    assert np.array_equal(images.images[:, 0].numpy(), written.reshape(-1, 28, 28))
    patients = torch.arange(7).repeat_interleave(28)
    assert torch.equal(images.metadata.groups["patient"], patients)
    assert images.metadata.group_key == "patient"
    assert torch.equal(images.labels, torch.tensor([2, 0, 1, 0, 3, 1, 0])[patients])
    assert images.report.lines[0] == (
        "`train_images` has shape (7, 28, 28, 28): each row is a volume, whose slices are images of one patient"
    )
    assert torch.equal(in_chunks(at("medmnist", path), 11), images.images)
    assert torch.equal(load_images(at("npz", path), seed=0).images, images.images)
    split = federation_data(replace(at("medmnist", path), partition="by_patient"), 2, 0).partitions
    for client in split:
        assert not set(patients[client.train].tolist()) & set(patients[client.held_out].tolist())


def test_the_split_is_a_setting(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    arrays: dict[str, Any] = {}
    for i, split in enumerate(("train", "val", "test")):
        arrays |= {f"{split}_images": np.full((2, 28, 28), i, np.uint8), f"{split}_labels": LABELS}
    np.savez(path, **arrays)
    for dataset in ("medmnist", "npz"):
        for i, split in enumerate(("train", "val", "test")):
            assert int(load_images(replace(at(dataset, path), split=split), seed=0).images.max()) == i


def test_several_findings_are_attributes(tmp_path: Path) -> None:
    findings, path = np.random.default_rng(0).integers(0, 2, (6, 14), dtype=np.uint8), tmp_path / "chestmnist.npz"
    write(path, pixels(6, 28, 28), findings)
    images = load_images(at("medmnist", path), seed=0)
    assert images.num_classes == 1
    assert images.metadata.attributes is not None
    assert np.array_equal(images.metadata.attributes.numpy(), findings)
    assert images.metadata.attribute_names == tuple(map(str, range(14)))


IMAGES, LABELS = np.zeros((2, 28, 28), np.uint8), np.zeros((2, 1), np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 28, 28, 2), np.uint8), LABELS, "`train_images` has shape (2, 28, 28, 2); expected (N, H, W)"),
        (IMAGES.astype(float) + 2, LABELS, "`train_images` is float64"),
        (IMAGES, LABELS[:1], "shape (1, 1); expected (2,)"),
        (IMAGES, LABELS - 0.5, "labels are float64"),
        (IMAGES, np.array([[0], [9]]), "0 to 9"),
        (IMAGES, np.zeros((3, 14), np.uint8), "`train_labels` has shape (3, 14) for 2 images"),
        (IMAGES, np.full((2, 14), 2, np.uint8), "other values than 0 and 1"),
        (IMAGES, np.full((2, 14), 0.0), "other values than 0 and 1"),
    ],
)
def test_wrong_archives_are_refused(images: Any, labels: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path / "set.npz", images, labels)
    refused(at("medmnist", tmp_path / "set.npz"), message)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    write(path, pixels(2, 28, 28), LABELS)
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1]):
        path.write_bytes(damaged)
        refused(at("medmnist", path), "no .npz file, or it is cut short; expected one of MedMNIST's")
    np.savez(path, images=IMAGES, labels=LABELS)
    refused(at("medmnist", path), "there is no `train_images`, only images, labels")
    np.savez(path, train_images=IMAGES)
    refused(at("medmnist", path), "there is no `train_labels`, only train_images")
