"""Which images a deployed client trains on and holds out: by one secret order of them, which hangs on nothing else.

The operator chooses how many there are of either, but not which: what is held out begins at one end of the order, and
what is trained on at the other. So of two runs, whatever their settings, the images of one are among the other's.
"""

from __future__ import annotations

import hashlib
import struct

import torch
from torch import Tensor

from collafuse_flwr.data.images import LazyImageDataset
from collafuse_flwr.data.partition.by_label import MIN_CLIENT, MIN_HELD_OUT, MIN_TRAIN
from collafuse_flwr.data.partition.partitions import Partition, PartitionUnits, num_held_out
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import data_error


def secret_split(source: LazyImageDataset, config: DataConfig, secret: bytes) -> Partition:
    """Hold out `data.holdout_fraction` of all images, and use `data.max_images` of both parts together, if not all.

    Images that the data set calls inseparable are on one side. Both parts are in their secret order, so that equal
    images among the first ones are counted alike in every run (`release.image_keys`).

    Raises:
        DataError: there are too few.
    """
    units = PartitionUnits.of(source)
    count, share, most = len(units.labels), config.holdout_fraction, config.max_images
    if count < MIN_CLIENT:
        raise data_error(config, f"a client needs at least {MIN_CLIENT} {units.name}s, there are {count}")
    order = _secret_order(secret, count)
    held = num_held_out(count, share)
    held_out, train = order[:held], order[held:].flip(0)
    if most:
        held_out = _beginning(units, held_out, round(share * most), MIN_HELD_OUT)
        train = _beginning(units, train, most - round(share * most), MIN_TRAIN)
    return Partition(_images(units, train), _images(units, held_out))


def _secret_order(secret: bytes, count: int) -> Tensor:
    """0..count - 1 in the order of their keyed hashes: what is added behind them changes nothing among them."""

    def place(unit: int) -> bytes:
        return hashlib.blake2b(struct.pack("<Q", unit), key=secret, person=b"secret split").digest()

    return torch.tensor(sorted(range(count), key=place))


def _beginning(units: PartitionUnits, part: Tensor, most: int, least: int) -> Tensor:
    """The first units of a part, with `most` images in all, but `least` units."""
    sizes = units.of_image.bincount(minlength=len(units.labels))[part]
    return part[: max(least, int((sizes.cumsum(0) <= most).sum()))]


def _images(units: PartitionUnits, part: Tensor) -> Tensor:
    """The images of some units, in the units' order."""
    place = torch.zeros(len(units.labels), dtype=torch.int64)
    place[part] = torch.arange(len(part))
    images = units.images(part.sort().values)
    return images[place[units.of_image[images]].argsort(stable=True)]
