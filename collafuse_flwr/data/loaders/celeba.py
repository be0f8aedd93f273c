"""CelebA: faces with 40 attributes and the identity of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.image_io import ImageFiles
from collafuse_flwr.data.images import UNLABELLED, ImageMetadata, LazyImageDataset
from collafuse_flwr.data.report import DataReport
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import data_error, read_lines, require_split, unpacked

IMAGES, ATTRIBUTES, IDENTITIES = "img_align_celeba", "list_attr_celeba", "identity_CelebA"
#: Which image is of which split, and their numbers; all images are used where it is not there.
PARTITION, SPLITS = "list_eval_partition", ("train", "val", "test")
#: The forms in which lists are distributed: as their authors did, and as tables with commas.
SUFFIXES = (".txt", ".csv")
EXPECTED = (
    f"the folder that holds {IMAGES}/*.jpg and {ATTRIBUTES}.txt, and for more {IDENTITIES}.txt and {PARTITION}.txt, or "
    "these lists as .csv, or holds all this in celeba/, as torchvision leaves it"
)


def load_celeba(config: DataConfig) -> LazyImageDataset:
    """List the images of CelebA; `data.class_attribute` gives two classes, which are named after it.

    Raises:
        DataError: a file is missing or is not as it is distributed, or (when it is read) an image is damaged.
        SettingError: `data.class_attribute` is none of the attributes, or there are no images of `data.split`.
    """
    root = unpacked(config, "celeba", EXPECTED)
    names, attribute_names, attributes = _attributes(config, _list(root, ATTRIBUTES))
    used = _of_split(config, _list(root, PARTITION), names)
    names, attributes = [names[i] for i in used], attributes[used]
    classes, labels = _classes(config.class_attribute, attribute_names, attributes)
    images = ImageFiles(config, _paths(config, root / IMAGES, names), rgb=True)
    groups: dict[str, Tensor] = {}
    report = DataReport()
    if os.path.exists(path := _list(root, IDENTITIES)):
        identities = _numbers(config, path, names)
        groups["identity"] = torch.from_numpy(np.unique(identities, return_inverse=True)[1])
    else:
        report = DataReport((f"there is no {IDENTITIES}.txt: which images are of one person is not known",))
    return LazyImageDataset(
        torch.from_numpy(labels),
        classes,
        images.read,
        images.files,
        ImageMetadata(torch.from_numpy(attributes), attribute_names, groups),
        images.native_sides,
        report,
    )


def _list(root: Path, name: str) -> Path:
    """A list in the form that is there; the first form where none is."""
    paths = [root / f"{name}{suffix}" for suffix in SUFFIXES]
    return next((path for path in paths if os.path.exists(path)), paths[0])


def _of_split(config: DataConfig, path: Path, names: Sequence[str]) -> NDArray[np.int64]:
    """Which images are of `data.split`, ascending: all where nothing says it."""
    if not os.path.exists(path):
        require_split(config, config.split == "train", [f"no {PARTITION}.txt"])
        return np.arange(len(names))
    of = _numbers(config, path, names)
    indices = np.flatnonzero(of == SPLITS.index(config.split))
    require_split(config, bool(len(indices)), (SPLITS[number] for number in np.unique(of) if 0 <= number < len(SPLITS)))
    return indices


def _attributes(config: DataConfig, path: Path) -> tuple[list[str], tuple[str, ...], NDArray[np.uint8]]:
    """The names of images (N) and of attributes (A), and the attributes (N, A), 0 or 1."""
    lines = read_lines(config, path, EXPECTED)
    if path.suffix == ".csv":
        columns, rows = tuple(name.strip() for name in ",".join(lines[:1]).split(",")[1:]), lines[1:]
    else:
        columns, rows = tuple(" ".join(lines[1:2]).split()), lines[2:]
        count = " ".join(lines[:1])
        if count.strip() != str(len(rows)):
            problem = f"{path.name} has {len(rows)} rows, but {count!r} in its first line"
            raise data_error(config, f"{problem}; expected {EXPECTED}")
    parts = [row.replace(",", " ").split(maxsplit=1) for row in rows]
    try:
        signs = np.loadtxt([" ".join(part[1:]) for part in parts], dtype=np.int8, comments=None, ndmin=2)
    except ValueError as error:
        raise data_error(config, f"{path.name} cannot be read ({error}); expected {EXPECTED}") from None
    binary = any(np.isin(signs, values).all() for values in ((-1, 1), (0, 1)))
    if not rows or signs.shape != (len(rows), len(columns)) or not binary:
        problem = f"{path.name} must give {len(columns)} values, 1 or -1, to each of {len(rows)} images"
        raise data_error(config, f"{problem}; expected {EXPECTED}")
    return [part[0] for part in parts], columns, (signs > 0).astype(np.uint8)


def _numbers(config: DataConfig, path: Path, names: Sequence[str]) -> NDArray[np.int64]:
    """The number that a file of rows `name number` gives to each of `names`, shape (N,)."""
    try:
        # The first row of a table names its columns: one more name that no image has.
        numbers = dict(line.replace(",", " ").split() for line in read_lines(config, path, EXPECTED))
        return np.array([int(numbers[name]) for name in names])
    except KeyError as error:
        raise data_error(config, f"{path.name} does not list the image {error}; expected {EXPECTED}") from None
    except ValueError as error:
        raise data_error(
            config, f"{path.name} has a row other than `name number` ({error}); expected {EXPECTED}"
        ) from None


def _paths(config: DataConfig, folder: Path, names: Sequence[str]) -> list[str]:
    """The paths of the images, all of which must be there: one listing, not a question for each of 200,000 files."""
    # Archives that others made have the folder in itself.
    folder = folder / IMAGES if os.path.isdir(folder / IMAGES) else folder
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
