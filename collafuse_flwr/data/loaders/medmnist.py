"""MedMNIST's archives of images and volumes."""

from __future__ import annotations

import numpy as np
import torch

from collafuse_flwr.data.images import UNLABELLED, ImageMetadata, LazyImageDataset
from collafuse_flwr.data.loaders.npz import labelled
from collafuse_flwr.data.loaders.npz_archive import Archive
from collafuse_flwr.data.loaders.npz_pixels import Pixels
from collafuse_flwr.data.settings import DataConfig

EXPECTED = (
    "one of MedMNIST's .npz files, with `train_images`, uint8 of shape (N, H, W), (N, H, W, 3) or (N, D, H, W), and "
    "`train_labels`, whole numbers of shape (N, 1), or 0 and 1 of shape (N, K)"
)


def load_medmnist(config: DataConfig) -> LazyImageDataset:
    """Read the images of a split, of volumes their slices; K findings for each (as in chestmnist) are its attributes.

    Raises:
        DataError: as `load_archive`.
    """
    archive = Archive(config, EXPECTED)
    image_key, label_key = f"{config.split}_images", f"{config.split}_labels"
    for key in (image_key, label_key):
        if key not in archive.keys:
            raise archive.data_error(f"there is no `{key}`, only {', '.join(archive.keys) or 'nothing'}")
    pixels, findings = Pixels(archive, image_key), archive.array(label_key)
    if findings.ndim != 2 or findings.shape[1] == 1:
        return labelled(archive, pixels, label_key, ImageMetadata())
    if findings.dtype.kind not in "iu" or not np.isin(findings, (0, 1)).all():
        raise archive.data_error(f"`{label_key}` of shape {findings.shape} has other values than 0 and 1")
    if len(findings) != pixels.rows:
        raise archive.data_error(f"`{label_key}` has shape {findings.shape} for {pixels.rows} images")
    metadata = ImageMetadata(torch.from_numpy(findings.astype(np.uint8)), tuple(map(str, range(findings.shape[1]))))
    return pixels.dataset(torch.zeros(pixels.rows, dtype=torch.int64), (UNLABELLED,), metadata)
