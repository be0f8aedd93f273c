"""What networks are conditioned on, as `condition` says."""

from __future__ import annotations

from torch import Tensor

from collafuse_flwr.config import Config
from collafuse_flwr.data.images import ImageSet
from collafuse_flwr.errors import SettingError


def labels_of(config: Config, images: ImageSet) -> Tensor | None:
    """Classes, int64 (N,); attributes, uint8 (N, A); or None.

    Raises:
        SettingError: `condition` is attributes, and the images have none.
    """
    if config.model.condition == "classes":
        return images.labels
    return images.facts.attributes if num_attributes(config, images) else None


def num_attributes(config: Config, images: ImageSet) -> int:
    """Attributes that networks are conditioned on: A or, with another `condition`, 0.

    Raises:
        SettingError: `condition` is attributes, and the images have none.
    """
    if config.model.condition != "attributes":
        return 0
    if not images.facts.attribute_names:
        allowed = f"classes or none: the images of `dataset` = {images.name} have no attributes"
        raise SettingError("condition", config.model.condition, allowed)
    return len(images.facts.attribute_names)
