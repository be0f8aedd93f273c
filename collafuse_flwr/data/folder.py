"""A folder with one subfolder of image files per class, as torchvision's ImageFolder lays it out."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from collafuse_flwr.config import DataConfig
from collafuse_flwr.data.checks import existing_path, refusal
from collafuse_flwr.data.images import Source, fit
from collafuse_flwr.errors import DataError


def load_folder(config: DataConfig) -> Source:
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
    root = existing_path(config, expected)
    if not os.path.isdir(root):
        raise refusal(config, f"this is not a folder; expected {expected}")

    def visible(path: str) -> bool:
        # What is hidden is left behind by tools (.ipynb_checkpoints, ._001.png) and belongs to no class.
        return f"{os.sep}." not in path.removeprefix(str(root))

    try:
        classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        labels_of = {name: label for label, name in enumerate(classes)}
        files = folder.make_dataset(str(root), labels_of, is_valid_file=visible, allow_empty=True) if classes else []
    except OSError as error:
        raise refusal(config, f"it cannot be listed ({error.strerror}: {error.filename})") from None
    images = [(Path(path), label) for path, label in files if folder.is_image_file(path)]
    without = {label for _, label in files} - {label for _, label in images}
    if without:
        raise refusal(config, f"no file in {classes[min(without)]} is an image; expected {expected}")
    if not images:
        raise refusal(config, f"there are no images in subfolders of it; expected {expected}")
    labels = torch.tensor([label for _, label in images])
    return Source(labels, tuple(classes), lambda keep: _read(config, [images[i][0] for i in keep.tolist()]))


def _read(config: DataConfig, paths: list[Path]) -> Tensor:
    """Read `paths` as one tensor (N, C, H, W), resized one by one if `image_size` says so."""
    images = []
    for path in paths:
        image = _decode(config, path)
        images.append(fit(image, config.image_size) if config.image_size else image)
        if images[-1].shape[2:] != images[0].shape[2:]:
            (h0, w0), (h, w) = images[0].shape[2:], image.shape[2:]
            raise DataError(
                f"`image_size` = 0 needs images of one size, but {paths[0].name} is {h0} x {w0} pixels "
                f"and {path.name} is {h} x {w}; set it to the pixels a side to resize them to"
            )
    channels = max(image.shape[1] for image in images)
    return torch.cat([image.expand(-1, channels, -1, -1) for image in images])


def _decode(config: DataConfig, path: Path) -> Tensor:
    """Read one image as (1, C, H, W), uint8: C = 1 for greyscale and black-and-white files, 3 for all others."""
    try:
        with Image.open(path) as image:
            pixels = _pixels(image)
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        raise refusal(config, f"{path} cannot be read as an image ({error})") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"mode {image.mode} has more than 8 bits a value; expected 8-bit greyscale or RGB")
    if image.mode in {"1", "L"}:
        return np.array(image.convert("L"))[..., None]
    # By way of RGBA, because a palette with transparency warns on the direct way to RGB.
    opaque = image.convert("RGBA") if image.mode == "P" else image
    return np.array(opaque.convert("RGB"))
