"""Images in one NumPy archive (.npz)."""

from __future__ import annotations

import zipfile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collafuse_flwr.config import DataConfig
from collafuse_flwr.data.checks import checked_labels, existing_path, refusal
from collafuse_flwr.data.images import Source

#: Pairs of keys under which images and labels are looked for, in this order.
KEYS = (("images", "labels"), ("train_images", "train_labels"))
EXPECTED = (
    "an .npz file with `images` (or `train_images`), uint8 of shape (N, H, W) or (N, H, W, 3), and optionally "
    "`labels` (or `train_labels`), whole numbers of shape (N,), and `classes`, their names"
)
#: The name of the one class of images without labels.
UNLABELLED = "unlabelled"


def load_archive(config: DataConfig) -> Source:
    """Read an .npz file; without labels all are of one class, without names classes are called 0, 1, ...

    Raises:
        DataError: it is no .npz file or damaged, or an array is missing or has the wrong type, shape or range.
    """
    arrays = _read_arrays(config)
    image_key, label_key = next((pair for pair in KEYS if pair[0] in arrays), (None, ""))
    if image_key is None:
        raise refusal(config, f"there are no images, only {', '.join(arrays) or 'nothing'}; expected {EXPECTED}")
    images = _image_tensor(config, image_key, arrays[image_key])
    names = _class_names(config, arrays)
    if label_key not in arrays:
        if names:
            raise refusal(config, f"there are `classes` but no `{label_key}`; expected {EXPECTED}")
        return Source(torch.zeros(len(images), dtype=torch.int64), (UNLABELLED,), lambda keep: images[keep])
    # Without names, more classes than images are taken for a mistake (such as identifiers instead of classes).
    labels = checked_labels(config, arrays[label_key], len(images), len(names) or len(images))
    names = names or tuple(str(label) for label in range(int(labels.max()) + 1 if len(labels) else 0))
    return Source(labels, names, lambda keep: images[keep])


def _read_arrays(config: DataConfig) -> dict[str, NDArray[Any]]:
    """Read the arrays that are used; the others (test images) stay on disk."""
    path = existing_path(config, EXPECTED)
    # False for folders, for other files and for an archive whose end is missing.
    if not zipfile.is_zipfile(path):
        raise refusal(config, f"this is no .npz file, or it is cut short; expected {EXPECTED}")
    used = {"classes", *(key for pair in KEYS for key in pair)}
    try:
        # Of other arrays only the names are of use: to say what there is when there are no images.
        with np.load(path) as archive:
            return {key: archive[key] if key in used else np.empty(0) for key in archive.files}
    except Exception as error:  # a damaged archive raises what zipfile, zlib or numpy stumble over first
        raise refusal(config, f"it cannot be read ({error}); expected {EXPECTED}") from None


def _image_tensor(config: DataConfig, key: str, images: NDArray[Any]) -> Tensor:
    """NHW or NHWC pixels as (N, C, H, W), uint8."""
    if images.dtype != np.uint8:
        raise refusal(config, f"`{key}` is {images.dtype}; expected uint8, 0..255")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in {1, 3}:
        raise refusal(config, f"`{key}` has shape {images.shape}; expected (N, H, W), (N, H, W, 1) or (N, H, W, 3)")
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _class_names(config: DataConfig, arrays: dict[str, NDArray[Any]]) -> tuple[str, ...]:
    names = arrays.get("classes", np.empty(0, dtype=str))
    if names.ndim != 1 or names.dtype.kind != "U":
        raise refusal(config, f"`classes` is {names.dtype} of shape {names.shape}; expected text of shape (classes,)")
    return tuple(names.tolist())
