"""What networks are conditioned on, as `data.conditioning` says."""

from __future__ import annotations

from torch import Tensor

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.images import ImageSet


def conditioning_labels(conditioning: str, images: ImageSet) -> Tensor | None:
    """Classes, int64 (N,); attributes, uint8 (N, A); or None.

    Raises:
        SettingError: `data.conditioning` is attributes, and the images have none.
    """
    if conditioning == "classes":
        return images.labels
    return images.metadata.attributes if num_attributes(conditioning, images) else None


def num_attributes(conditioning: str, images: ImageSet) -> int:
    """Attributes that networks are conditioned on: A or, with another `data.conditioning`, 0.

    Raises:
        SettingError: `data.conditioning` is attributes, and the images have none.
    """
    if conditioning != "attributes":
        return 0
    if not images.metadata.attribute_names:
        allowed = f"classes or none: the images of `dataset` = {images.name} have no attributes"
        raise SettingError("data.conditioning", conditioning, allowed)
    return len(images.metadata.attribute_names)
