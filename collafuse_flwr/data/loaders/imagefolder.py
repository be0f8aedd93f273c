"""A folder with one subfolder of image files per class, as torchvision's ImageFolder lays it out."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import torch

from collafuse_flwr.data.image_io import ImageFiles
from collafuse_flwr.data.images import LazyImageDataset
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import data_error, existing_path


def load_folder(config: DataConfig) -> LazyImageDataset:
    """List the images below `dataset_path` as torchvision's ImageFolder does: by class, in order of their names.

    Hidden files and folders are skipped. A class may have an empty subfolder, so that clients with folders of their
    own can agree on the classes. All images become greyscale (one channel) if all that are read are greyscale, RGB
    otherwise.

    Raises:
        DataError: there are no classes or no images, or (when they are read) an image is damaged, has more than
            8 bits, or differs in size from the others while `image_size` is 0.
    """
    from torchvision.datasets import folder  # noqa: PLC0415 - slow, and other data sets do not need it

    expected = f"a folder with one subfolder of images per class ({', '.join(folder.IMG_EXTENSIONS)})"
    return list_classes(config, existing_path(config, expected), expected)


def list_classes(config: DataConfig, root: Path, expected: str, skipped: Collection[str] = ()) -> LazyImageDataset:
    """List the images in the subfolders of `root`, without those that are `skipped` (as class/name).

    Raises:
        DataError: as `load_folder`.
    """
    from torchvision.datasets import folder  # noqa: PLC0415 - as above

    if not os.path.isdir(root):
        raise data_error(config, f"this is not a folder; expected {expected}")

    def wanted(path: str) -> bool:
        # What is hidden is left behind by tools (.ipynb_checkpoints, ._001.png) and belongs to no class.
        inner = path.removeprefix(str(root))
        return f"{os.sep}." not in inner and inner.strip(os.sep) not in skipped

    try:
        classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        labels_of = {name: label for label, name in enumerate(classes)}
        files = folder.make_dataset(str(root), labels_of, is_valid_file=wanted, allow_empty=True) if classes else []
    except OSError as error:
        raise data_error(config, f"it cannot be listed ({error.strerror}: {error.filename})") from None
    images = [(path, label) for path, label in files if folder.is_image_file(path)]
    without = {label for _, label in files} - {label for _, label in images}
    if without:
        raise data_error(config, f"no file in {classes[min(without)]} is an image; expected {expected}")
    if not images:
        raise data_error(config, f"there are no images in subfolders of it; expected {expected}")
    pixels = ImageFiles(config, [path for path, _ in images])
    labels = torch.tensor([label for _, label in images])
    return LazyImageDataset(labels, tuple(classes), pixels.read, pixels.files, native_sides=pixels.native_sides)
