"""Data sets that others bring: `dataset=package.module:factory`.

The factory takes the `DataConfig`, whose `dataset` and `dataset_path` are its own where a list names several sets, and
returns a `LazyImageDataset`, as the loaders beside this module do. `examples/dataset` is a complete one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.plugins import call_factory
from collafuse_flwr.data.images import ImageMetadata, LazyImageDataset
from collafuse_flwr.data.settings import DataConfig

#: Channels that pictures can show.
CHANNELS = (1, 3)


def load_external(config: DataConfig) -> LazyImageDataset:
    """Call the factory, and hold labels, facts and the first image against what a data set is.

    Raises:
        SettingError: it cannot be imported, or returns something else.
    """
    source = call_factory("dataset", config.name, config, LazyImageDataset, "a LazyImageDataset")
    if problem := _problem(source):
        raise SettingError("dataset", config.name, f"its data set must have {problem}")
    return source


def _problem(source: LazyImageDataset) -> str:
    """What it should have and has not; empty if it is fine."""
    labels, names = source.labels, source.class_names
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.dtype != torch.int64:
        return f"labels of shape (N,), int64, not {_described(labels)}"
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        return f"different class names, one for each class, not {names!r}"
    count = len(labels)
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
        return f"labels in 0..{len(names) - 1}, one for each class name, not {int(labels.min())}..{int(labels.max())}"
    return _facts(source.metadata, count) or (_pixels(source) if count else "")


def _facts(facts: ImageMetadata, count: int) -> str:
    own, names = facts.attributes, facts.attribute_names
    if own is not None and (own.shape != (count, len(names)) or own.dtype != torch.uint8):
        return f"attributes of shape ({count}, {len(names)}), uint8, not {_described(own)}"
    for name, group in facts.groups.items():
        if group.shape != (count,) or group.dtype != torch.int64:
            return f"the group {name!r} of each image, ({count},), int64, not {_described(group)}"
    if facts.group_key and facts.group_key not in facts.groups:
        return f"the group that must not be separated, {facts.group_key!r}, among its groups"
    return ""


def _pixels(source: LazyImageDataset) -> str:
    images = source.read(torch.arange(1))
    if not isinstance(images, Tensor) or images.ndim != 4 or len(images) != 1 or images.dtype != torch.uint8:
        return f"a `read` of one image that gives (1, channels, height, width), uint8, not {_described(images)}"
    return "" if images.shape[1] in CHANNELS else f"images of 1 or 3 channels, not {images.shape[1]}"


def _described(value: object) -> str:
    return f"{tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
