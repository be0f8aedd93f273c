"""CelebA: faces with 40 attributes and the identity of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.image_io import ImageFiles
from collafuse_flwr.data.images import UNLABELLED, ImageMetadata, LazyImageDataset
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import data_error, read_lines, unpacked

IMAGES, ATTRIBUTES, IDENTITIES = "img_align_celeba", "list_attr_celeba.txt", "identity_CelebA.txt"
#: Which image is of which split; only the training images are used where it is there.
SPLITS, TRAIN = "list_eval_partition.txt", 0
EXPECTED = (
    f"the folder that holds {IMAGES}/*.jpg, {ATTRIBUTES}, {IDENTITIES} and (for the training images only) {SPLITS}, or "
    "holds these in celeba/, as torchvision leaves them"
)


def load_celeba(config: DataConfig) -> LazyImageDataset:
    """List the images of CelebA; `data.class_attribute` gives two classes, which are named after it.

    Raises:
        DataError: a file is missing or does not have the official form, or (when it is read) an image is damaged.
        SettingError: `data.class_attribute` is none of the attributes.
    """
    root = unpacked(config, "celeba", EXPECTED)
    names, attribute_names, attributes = _attributes(config, root / ATTRIBUTES)
    identities = _numbers(config, root / IDENTITIES, names)
    if os.path.exists(root / SPLITS):
        train = np.flatnonzero(_numbers(config, root / SPLITS, names) == TRAIN)
        if not len(train):
            raise data_error(
                config, f"{SPLITS} gives no image to split {TRAIN}, the training images; expected {EXPECTED}"
            )
        names, attributes, identities = [names[i] for i in train], attributes[train], identities[train]
    classes, labels = _classes(config.class_attribute, attribute_names, attributes)
    images = ImageFiles(config, _paths(config, root / IMAGES, names), rgb=True)
    identity = torch.from_numpy(np.unique(identities, return_inverse=True)[1])
    metadata = ImageMetadata(torch.from_numpy(attributes), attribute_names, {"identity": identity})
    return LazyImageDataset(torch.from_numpy(labels), classes, images.read, images.files, metadata, images.native_sides)


def _attributes(config: DataConfig, path: Path) -> tuple[list[str], tuple[str, ...], NDArray[np.uint8]]:
    """The names of images (N) and of attributes (A), and the attributes (N, A), 0 or 1."""
    lines = read_lines(config, path, EXPECTED)
    count, columns, rows = " ".join(lines[:1]), tuple(" ".join(lines[1:2]).split()), lines[2:]
    if not rows or count.strip() != str(len(rows)):
        problem = f"{path.name} has {len(rows)} rows, but {count!r} in its first line"
        raise data_error(config, f"{problem}; expected {EXPECTED}")
    parts = [row.partition(" ") for row in rows]
    try:
        signs = np.loadtxt([values for _, _, values in parts], dtype=np.int8, comments=None, ndmin=2)
    except ValueError as error:
        raise data_error(config, f"{path.name} cannot be read ({error}); expected {EXPECTED}") from None
    if signs.shape != (len(rows), len(columns)) or not (np.abs(signs) == 1).all():
        problem = f"{path.name} must give {len(columns)} values, 1 or -1, to each of {len(rows)} images"
        raise data_error(config, f"{problem}; expected {EXPECTED}")
    return [name for name, _, _ in parts], columns, (signs > 0).astype(np.uint8)


def _numbers(config: DataConfig, path: Path, names: Sequence[str]) -> NDArray[np.int64]:
    """The number that a file of rows `name number` gives to each of `names`, shape (N,)."""
    try:
        numbers = dict(line.split() for line in read_lines(config, path, EXPECTED))
        return np.array([int(numbers[name]) for name in names])
    except KeyError as error:
        raise data_error(config, f"{path.name} does not list the image {error}; expected {EXPECTED}") from None
    except ValueError as error:
        raise data_error(
            config, f"{path.name} has a row other than `name number` ({error}); expected {EXPECTED}"
        ) from None


def _paths(config: DataConfig, folder: Path, names: Sequence[str]) -> list[str]:
    """The paths of the images, all of which must be there: one listing, not a question for each of 200,000 files."""
    there = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    missing = next((name for name in names if name not in there), None)
    if missing is not None:
        raise data_error(config, f"there is no file {folder.absolute() / missing}; expected {EXPECTED}")
    return [f"{folder}{os.sep}{name}" for name in names]


def _classes(
    wanted: str, names: tuple[str, ...], attributes: NDArray[np.uint8]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The names of the classes, and the class of each image: whether it has the attribute that is `wanted`."""
    if not wanted:
        return (UNLABELLED,), np.zeros(len(attributes), np.int64)
    if wanted not in names:
        raise SettingError("data.class_attribute", wanted, f"empty, or one of {', '.join(names)}")
    return (f"not {wanted}", wanted), attributes[:, names.index(wanted)].astype(np.int64)
