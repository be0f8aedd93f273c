"""Digits with attributes, of which one shows in every image, for tests of whole rounds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from collafuse_flwr.data import federated as cache
from collafuse_flwr.data.datasets import LOADERS, load_digits
from collafuse_flwr.data.images import ImageMetadata, LazyImageDataset
from collafuse_flwr.data.settings import DataConfig

#: The binary digits of the class, and whether the image is white on black or, every second one, black on white.
NAMES = ("one", "two", "four", "eight", "negative")


def load(config: DataConfig) -> LazyImageDataset:
    """The digits, and what can be said of them."""
    plain = load_digits(config)
    negative = torch.arange(len(plain.labels)) % 2
    bits = [plain.labels >> bit & 1 for bit in range(4)]
    attributes = torch.stack([*bits, negative], dim=1).to(torch.uint8)

    def read(keep: torch.Tensor) -> torch.Tensor:
        images = plain.read(keep)
        return torch.where(negative[keep].view(-1, 1, 1, 1) == 1, 255 - images, images)

    return replace(plain, read=read, metadata=ImageMetadata(attributes, NAMES))


@contextmanager
def digits_with_attributes() -> Iterator[None]:
    """Let `dataset` = digits be those, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LOADERS, "digits", load)
        cache._federation_data.cache_clear()
        yield
    cache._federation_data.cache_clear()
