"""MedMNIST's archives of 2D images."""

from __future__ import annotations

import numpy as np
import torch

from collafuse_flwr.data.images import UNLABELLED, ImageMetadata, LazyImageDataset
from collafuse_flwr.data.loaders.npz import Archive, Pixels, labelled
from collafuse_flwr.data.settings import DataConfig

IMAGES, LABELS = "train_images", "train_labels"
EXPECTED = (
    f"one of MedMNIST's .npz files of 2D images, with `{IMAGES}`, uint8 of shape (N, H, W) or (N, H, W, 3), and "
    f"`{LABELS}`, whole numbers of shape (N, 1), or 0 and 1 of shape (N, K)"
)


def load_medmnist(config: DataConfig) -> LazyImageDataset:
    """Read the training images; K findings for each of them (as in chestmnist) are attributes 0..K - 1, of one class.

    Raises:
        DataError: as `load_archive`.
    """
    archive = Archive(config, EXPECTED)
    for key in (IMAGES, LABELS):
        if key not in archive.keys:
            raise archive.data_error(f"there is no `{key}`, only {', '.join(archive.keys) or 'nothing'}")
    findings = archive.array(LABELS)
    if findings.ndim != 2 or findings.shape[1] == 1:
        return labelled(archive, IMAGES, LABELS)
    pixels = Pixels(archive, IMAGES)
    if findings.dtype.kind not in "iu" or not np.isin(findings, (0, 1)).all():
        raise archive.data_error(f"`{LABELS}` of shape {findings.shape} has other values than 0 and 1")
    if len(findings) != pixels.count:
        raise archive.data_error(f"`{LABELS}` has shape {findings.shape} for {pixels.count} images")
    metadata = ImageMetadata(torch.from_numpy(findings.astype(np.uint8)), tuple(map(str, range(findings.shape[1]))))
    return LazyImageDataset(
        torch.zeros(pixels.count, dtype=torch.int64), (UNLABELLED,), pixels.read, pixels.files, metadata
    )
