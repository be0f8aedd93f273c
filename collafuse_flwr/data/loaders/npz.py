"""Images in one NumPy archive (.npz), of which only the rows that are needed come into memory."""

from __future__ import annotations

import functools
import math
import weakref
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

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.data.images import UNLABELLED, ImageMetadata, LazyImageDataset
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import checked_labels, data_error, existing_path

#: Pairs of keys under which images and labels are looked for, in this order.
KEYS = (("images", "labels"), ("train_images", "train_labels"))
EXPECTED = (
    "an .npz file with `images` (or `train_images`), uint8 of shape (N, H, W) or (N, H, W, 3), and optionally "
    "`labels` (or `train_labels`), whole numbers of shape (N,), `classes`, their names, `identity` or `patient`, "
    "numbers or text of shape (N,), `attributes`, 0 or 1 of shape (N, A), and `attribute_names`"
)
#: Arrays that say which person or patient an image is of; those of one patient are never separated.
GROUPS, INSEPARABLE = ("identity", "patient"), "patient"
#: Readers of the header of an .npy file by its version; there is a third, for arrays whose fields have names.
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


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
    return replace(source, metadata=_metadata(archive, len(source.labels)))


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
        """The error in one line: what is wrong, and what was expected."""
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


class Rows:
    """An array of shape (N, ...) in a .npz file, of which only the rows that are asked for come into memory.

    The file stays open where the last row was read, because a compressed one can be read forward only: rows in
    ascending order are read in one pass, and an earlier one starts it again. The check sum is compared at the end of
    the array.

    Raises:
        Exception: the file is damaged (whatever zipfile, zlib or numpy stumble over first), or holds Python objects.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(f"{key}.npy").file_size
            # The member holds the file open for itself when the archive is closed.
            self._stream = archive.open(f"{key}.npy")
        weakref.finalize(self, self._stream.close)
        self.shape, self._by_column, self.dtype = HEADERS[np.lib.format.read_magic(self._stream)](self._stream)
        self._start = self._stream.tell()
        self._row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        if self.dtype.hasobject:
            raise ValueError(f"`{key}` holds Python objects")
        if not self.shape or size < self._start + self.shape[0] * self._row_bytes:
            raise ValueError(f"`{key}` is cut short")

    def read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """The rows at ascending `indices`, shape (n,), as (n, ...).

        Raises:
            Exception: the file is damaged, as above.
        """
        if self._by_column:
            return self._whole[indices]
        rows = np.empty((len(indices), *self.shape[1:]), self.dtype)
        breaks = np.flatnonzero(np.diff(indices) != 1) + 1
        for start, stop in zip([0, *breaks], [*breaks, len(indices)], strict=True):
            run = rows[start:stop]  # neighbours, read at once
            if run.nbytes:
                self._stream.seek(self._start + int(indices[start]) * self._row_bytes)
                run[...] = np.frombuffer(self._stream.read(run.nbytes), self.dtype).reshape(run.shape)
        if len(indices) and indices[-1] == self.shape[0] - 1:
            self._stream.read(1)  # there is no more, but at its end zipfile compares the check sum
        return rows

    @functools.cached_property
    def _whole(self) -> NDArray[Any]:
        """The array itself where it is kept by column (Fortran's order), with each row all over the file."""
        with np.load(self._path) as archive:
            array: NDArray[Any] = archive[self._key]
        return array


def _metadata(archive: Archive, count: int) -> ImageMetadata:
    """`identity` and `patient`, and `attributes` with their names, as far as the archive has them."""
    groups = {name: _group(archive, name, count) for name in GROUPS if name in archive.keys}
    group_key = INSEPARABLE if INSEPARABLE in groups else ""
    if "attributes" not in archive.keys:
        return ImageMetadata(groups=groups, group_key=group_key)
    attributes, names = archive.array("attributes"), np.empty(0, dtype=str)
    if "attribute_names" in archive.keys:
        names = archive.array("attribute_names")
    if attributes.ndim != 2 or len(attributes) != count or not np.isin(attributes, (0, 1)).all():
        raise archive.data_error(f"`attributes` has shape {attributes.shape} or values other than 0 and 1")
    if names.dtype.kind != "U" or names.shape != attributes.shape[1:] or len(np.unique(names)) < len(names):
        raise archive.data_error(f"`attribute_names` are not {attributes.shape[1]} different names")
    return ImageMetadata(torch.from_numpy(attributes.astype(np.uint8)), tuple(names.tolist()), groups, group_key)


def _group(archive: Archive, name: str, count: int) -> Tensor:
    values = archive.array(name)
    if values.shape != (count,) or values.dtype.kind not in "iuU":
        raise archive.data_error(
            f"`{name}` is {values.dtype} of shape {values.shape}, not numbers or text of ({count},)"
        )
    return torch.from_numpy(np.unique(values, return_inverse=True)[1].astype(np.int64))
