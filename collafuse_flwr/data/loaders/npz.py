"""Images in one NumPy archive (.npz), with what else it says of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from collafuse_flwr.data.images import GROUPS, INSEPARABLE, UNLABELLED, ImageMetadata, LazyImageDataset
from collafuse_flwr.data.loaders.npz_archive import Archive
from collafuse_flwr.data.loaders.npz_pixels import Pixels
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import checked_labels, data_error, require_split

EXPECTED = (
    "an .npz file with `images` (or `train_images`, `x_train`) of shape (N, H, W), (N, H, W, C), (N, C, H, W) or, of "
    "volumes, (N, D, H, W), and optionally `labels` (or `train_labels`, `y_train`), whole numbers of shape (N,), "
    "`classes`, their names, `identity` or `patient`, numbers or text of shape (N,), `attributes`, 0 or 1 of shape "
    "(N, A), and `attribute_names`"
)


def load_archive(config: DataConfig) -> LazyImageDataset:
    """Read an .npz file; without labels all are of one class, without names classes are called 0, 1, ...

    Raises:
        DataError: it is no .npz file or damaged, or an array is missing or has the wrong type, shape or range.
        SettingError: there are images, but none of `data.split`.
    """
    archive = Archive(config, EXPECTED)
    image_key, label_key = _keys(archive)
    pixels = Pixels(archive, image_key)
    return labelled(archive, pixels, label_key, _metadata(archive, pixels.rows))


def _keys(archive: Archive) -> tuple[str, str]:
    """What images and labels are called."""
    split = archive.config.split
    named = [(f"{split}_images", f"{split}_labels"), (f"x_{split}", f"y_{split}")]
    if split == "train":
        named.insert(0, ("images", "labels"))
    for pair in named:
        if pair[0] in archive.keys:
            return pair
    others = [key for key in archive.keys if key.endswith("images") or key.startswith("x_")]
    require_split(archive.config, not others, others)
    raise archive.data_error(f"there are no images, only {', '.join(archive.keys) or 'nothing'}")


def labelled(archive: Archive, pixels: Pixels, label_key: str, metadata: ImageMetadata) -> LazyImageDataset:
    """Images with one class each.

    Raises:
        DataError: as `load_archive`.
    """
    names = _class_names(archive)
    if label_key not in archive.keys:
        if names:
            raise archive.data_error(f"there are `classes` but no `{label_key}`")
        return pixels.dataset(torch.zeros(pixels.rows, dtype=torch.int64), (UNLABELLED,), metadata)
    # Without names, more classes than images are taken for a mistake (such as identifiers instead of classes).
    labels = checked_labels(archive.config, archive.array(label_key), pixels.rows, len(names) or pixels.rows)
    names = names or tuple(str(label) for label in range(int(labels.max()) + 1 if len(labels) else 0))
    return pixels.dataset(labels, names, metadata)


def _class_names(archive: Archive) -> tuple[str, ...]:
    names = archive.array("classes") if "classes" in archive.keys else np.empty(0, dtype=str)
    if names.ndim != 1 or names.dtype.kind != "U":
        problem = f"`classes` is {names.dtype} of shape {names.shape}; expected text of shape (classes,)"
        raise data_error(archive.config, problem)
    return tuple(names.tolist())


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
