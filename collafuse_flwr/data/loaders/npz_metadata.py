"""What an .npz archive may tell of its images besides their classes: who is on them, and attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from collafuse_flwr.data.images import ImageMetadata

if TYPE_CHECKING:
    from collafuse_flwr.data.loaders.npz import Archive

#: Arrays that say which person or patient an image is of; those of one patient are never separated.
GROUPS, INSEPARABLE = ("identity", "patient"), "patient"


def described(archive: Archive, count: int) -> ImageMetadata:
    """Read `identity` and `patient`, numbers or text of shape (N,), and `attributes`, 0 or 1 of shape (N, A).

    Raises:
        DataError: an array has another type, shape or values, or attributes have no `attribute_names`.
    """
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
