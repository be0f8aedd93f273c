"""Images in one NumPy archive (.npz)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collafuse_flwr.config.sections import DataConfig
from collafuse_flwr.core.errors import DataError
from collafuse_flwr.data.images import UNLABELLED, LazyImageDataset
from collafuse_flwr.data.loaders.npz_metadata import described
from collafuse_flwr.data.loaders.npz_reader import Rows
from collafuse_flwr.data.validation import checked_labels, data_error, existing_path

#: Pairs of keys under which images and labels are looked for, in this order.
KEYS = (("images", "labels"), ("train_images", "train_labels"))
EXPECTED = (
    "an .npz file with `images` (or `train_images`), uint8 of shape (N, H, W) or (N, H, W, 3), and optionally "
    "`labels` (or `train_labels`), whole numbers of shape (N,), `classes`, their names, `identity` or `patient`, "
    "numbers or text of shape (N,), `attributes`, 0 or 1 of shape (N, A), and `attribute_names`"
)


def load_archive(config: DataConfig) -> LazyImageDataset:
    """Read an .npz file; without labels all are of one class, without names classes are called 0, 1, ...

    Raises:
        DataError: it is no .npz file or damaged, or an array is missing or has the wrong type, shape or range.
    """
    archive = Archive(config, EXPECTED)
    image_key, label_key = next((pair for pair in KEYS if pair[0] in archive.keys), (None, ""))
    if image_key is None:
        raise archive.data_error(f"there are no images, only {', '.join(archive.keys) or 'nothing'}")
    source = labelled(archive, image_key, label_key)
    return replace(source, metadata=described(archive, len(source.labels)))


def labelled(archive: Archive, image_key: str, label_key: str) -> LazyImageDataset:
    """Images with one class each.

    Raises:
        DataError: as `load_archive`.
    """
    pixels, names = Pixels(archive, image_key), _class_names(archive)
    if label_key not in archive.keys:
        if names:
            raise archive.data_error(f"there are `classes` but no `{label_key}`")
        return LazyImageDataset(torch.zeros(pixels.count, dtype=torch.int64), (UNLABELLED,), pixels.read, pixels.files)
    # Without names, more classes than images are taken for a mistake (such as identifiers instead of classes).
    labels = checked_labels(archive.config, archive.array(label_key), pixels.count, len(names) or pixels.count)
    names = names or tuple(str(label) for label in range(int(labels.max()) + 1 if len(labels) else 0))
    return LazyImageDataset(labels, names, pixels.read, pixels.files)


class Archive:
    """The .npz file at `dataset_path`, and what was `expected` there."""

    def __init__(self, config: DataConfig, expected: str) -> None:
        self.config, self._expected = config, expected
        self.path = existing_path(config, expected)
        # False for folders, for other files and for an archive whose end is missing.
        if not zipfile.is_zipfile(self.path):
            raise self.data_error("this is no .npz file, or it is cut short")
        with self.reading(), zipfile.ZipFile(self.path) as archive:
            self.keys = tuple(name.removesuffix(".npy") for name in archive.namelist())

    def data_error(self, problem: str) -> DataError:
        """Tell in one line what is wrong, and what was expected."""
        return data_error(self.config, f"{problem}; expected {self._expected}")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Refuse the file if what is done meanwhile fails."""
        try:
            yield
        except Exception as error:  # a damaged archive raises what zipfile, zlib or numpy stumble over first
            raise self.data_error(f"it cannot be read ({error})") from None

    def array(self, key: str) -> NDArray[Any]:
        """The array called `key`; the others stay on disk."""
        with self.reading(), np.load(self.path) as archive:
            array: NDArray[Any] = archive[key]
        return array


class Pixels:
    """NHW or NHWC pixels in an archive, for a `LazyImageDataset`: `count` images; only those that are read are kept."""

    def __init__(self, archive: Archive, key: str) -> None:
        self._archive = archive
        with archive.reading():
            self._rows = Rows(archive.path, key)
        shape, dtype = self._rows.shape, self._rows.dtype
        if dtype != np.uint8:
            raise data_error(archive.config, f"`{key}` is {dtype}; expected uint8, 0..255")
        if len(shape) != 3 and (len(shape) != 4 or shape[3] not in {1, 3}):
            problem = f"`{key}` has shape {shape}; expected (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
            raise data_error(archive.config, problem)
        self.count: int = shape[0]

    def read(self, indices: Tensor) -> Tensor:
        """The images at ascending `indices`, shape (n,), as (n, C, H, W), uint8."""
        with self._archive.reading():
            pixels = self._rows.read(indices.numpy())
        channels_last = pixels if pixels.ndim == 4 else pixels[..., None]
        return torch.from_numpy(np.ascontiguousarray(channels_last.transpose(0, 3, 1, 2)))

    def files(self, _: Tensor) -> tuple[Path]:
        """The archive."""
        return (self._archive.path,)


def _class_names(archive: Archive) -> tuple[str, ...]:
    names = archive.array("classes") if "classes" in archive.keys else np.empty(0, dtype=str)
    if names.ndim != 1 or names.dtype.kind != "U":
        problem = f"`classes` is {names.dtype} of shape {names.shape}; expected text of shape (classes,)"
        raise data_error(archive.config, problem)
    return tuple(names.tolist())
