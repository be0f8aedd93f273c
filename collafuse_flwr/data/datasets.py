"""Data sets by name, or by package.module:factory.

Nothing is ever downloaded: for a missing file the error says what to put where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.concat import concat_datasets
from collafuse_flwr.data.external import load_external
from collafuse_flwr.data.image_cache import cached_images
from collafuse_flwr.data.images import ImageSet, LazyImageDataset
from collafuse_flwr.data.loaders.awa2 import load_awa2
from collafuse_flwr.data.loaders.brats import load_brats2020
from collafuse_flwr.data.loaders.celeba import load_celeba
from collafuse_flwr.data.loaders.cifar import load_cifar
from collafuse_flwr.data.loaders.dicom import load_dicom
from collafuse_flwr.data.loaders.hf import load_hf
from collafuse_flwr.data.loaders.imagefolder import load_folder
from collafuse_flwr.data.loaders.medmnist import load_medmnist
from collafuse_flwr.data.loaders.mnist import load_idx, load_notmnist
from collafuse_flwr.data.loaders.nifti import load_nifti
from collafuse_flwr.data.loaders.npz import load_archive
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import data_error

#: Where scikit-learn's digits are in its package, a row of 64 pixels and the class for each, and the brightest value.
DIGITS_FILE, DIGITS_MAX = "datasets/data/digits.csv.gz", 16


def load_digits(_: DataConfig) -> LazyImageDataset:
    """Load the 1,797 handwritten digits that come with scikit-learn, 8 x 8 x 1, scaled from 0..16 to 0..255."""
    # From its file: every process of a run reads them, and to import scikit-learn takes seconds.
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    rows = np.loadtxt(Path(package.origin).parent / DIGITS_FILE, delimiter=",")
    images = torch.from_numpy(rows[:, :-1]).mul(255 / DIGITS_MAX).round().to(torch.uint8).view(-1, 1, 8, 8)
    labels = torch.from_numpy(rows[:, -1]).to(torch.int64)
    return LazyImageDataset(labels, tuple("0123456789"), lambda keep: images[keep])


LOADERS: dict[str, Callable[[DataConfig], LazyImageDataset]] = {
    "digits": load_digits,
    "imagefolder": load_folder,
    "npz": load_archive,
    "hf": load_hf,
    "mnist": load_idx,
    "fashion_mnist": load_idx,
    "kmnist": load_idx,
    "notmnist": load_notmnist,
    "cifar10": load_cifar,
    "cifar100": load_cifar,
    "celeba": load_celeba,
    "awa2": load_awa2,
    "brats2020": load_brats2020,
    "medmnist": load_medmnist,
    "nifti": load_nifti,
    "dicom": load_dicom,
}


def load_images(config: DataConfig, seed: int) -> ImageSet:
    """Load `dataset`: at most `data.max_images` of them, drawn by `seed`, square, `image_size` pixels a side.

    Raises:
        DataError: the data are missing, damaged, empty or do not fit the settings.
    """
    source = open_images(config)
    return read_images(config, source, _draw(len(source.labels), config.max_images, seed)).images


@dataclass(frozen=True, eq=False)
class ReadImages:
    """Images that were read, and at which ascending indices of their set they are, shape (n,), int64."""

    images: ImageSet
    indices: Tensor


def read_images(config: DataConfig, source: LazyImageDataset, keep: Tensor) -> ReadImages:
    """The images of a set at ascending indices, shape (n,), int64: square, `image_size` pixels a side.

    Those that cannot be read are missing, where `data.on_bad_file` = skip allows that.

    Raises:
        DataError: the data are damaged, empty or do not fit the settings.
    """
    decoded = cached_images(config, source, keep)
    pixels, sides = decoded.pixels, decoded.native_sides
    if not pixels.numel():
        raise data_error(config, f"there are no images in it (their shape is {tuple(pixels.shape)})")
    if not bool(sides.all()):
        # A copy: only what is whole can stay where it is mapped from.
        keep, pixels, sides = keep[sides > 0], pixels[sides > 0], sides[sides > 0]
        if not len(keep):
            raise data_error(config, "none of its images can be read")
    labels, metadata, report = source.labels[keep], source.metadata.subset(keep), source.report + decoded.report
    return ReadImages(ImageSet(pixels, labels, source.class_names, config.name, metadata, sides, report), keep)


def open_images(config: DataConfig) -> LazyImageDataset:
    """The one data set that `dataset` names, or all of them as one; no image is decoded yet.

    Raises:
        DataError: the data are missing or damaged.
    """
    names, paths = config.dataset, config.dataset_path or ("",)
    if len(paths) not in {1, len(names)}:
        allowed = f"one for all of `dataset` = {config.name!r}, or one each"
        raise data_error(config, f"{len(paths)} paths; expected {allowed}")
    paths = paths * len(names) if len(paths) == 1 else paths
    sources = [
        LOADERS.get(name, load_external)(replace(config, dataset=(name,), dataset_path=(path,) if path else ()))
        for name, path in zip(names, paths, strict=True)
    ]
    return sources[0] if len(names) == 1 else concat_datasets(sources, config.image_size, config.merge_classes_by)


def _draw(count: int, at_most: int, seed: int) -> Tensor:
    """Draw the indices of the images that are used, ascending; `at_most` = 0 means all."""
    if not 0 < at_most < count:
        return torch.arange(count)
    return torch.randperm(count, generator=named_generator(seed, "max_images"))[:at_most].sort().values
