"""Who holds which images, and which of them are held out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.images import ImageMetadata, ImageSet, LazyImageDataset
from collafuse_flwr.data.partition.by_label import LABEL_PARTITIONERS, MIN_CLIENT, MIN_HELD_OUT, MIN_TRAIN
from collafuse_flwr.data.partition.by_metadata import by_attribute, by_domain, by_group
from collafuse_flwr.data.settings import DataConfig


@dataclass(frozen=True, eq=False)
class Partition:
    """The images of one client, as indices, int64: `train` (at least 2) and `held_out` (at least 1)."""

    train: Tensor
    held_out: Tensor


@dataclass(frozen=True, eq=False)
class PartitionUnits:
    """What is dealt and held out: images, or all images of a patient at once.

    `labels` has shape (U,), and `metadata` is of as many; `of_image`, shape (N,), says which unit an image is of.
    """

    name: str
    labels: Tensor
    metadata: ImageMetadata
    of_image: Tensor

    @classmethod
    def of(cls, images: ImageSet | LazyImageDataset) -> PartitionUnits:
        """The units of a set; one of several images has the class of its first image."""
        metadata, count = images.metadata, len(images.labels)
        if not metadata.group_key:
            return cls("image", images.labels, metadata, torch.arange(count))
        _, of_image = metadata.groups[metadata.group_key].unique(return_inverse=True)
        first = torch.full((int(of_image.max()) + 1,), count).scatter_reduce(0, of_image, torch.arange(count), "amin")
        return cls(metadata.group_key, images.labels[first], metadata.subset(first), of_image)

    def images(self, units: Tensor) -> Tensor:
        """The images of some units, ascending."""
        if self.name == "image":
            return units
        chosen = torch.zeros(len(self.labels), dtype=torch.bool)
        chosen[units] = True
        return chosen[self.of_image].nonzero().flatten()

    def limited(self, units: Tensor, max_images: int, generator: torch.Generator) -> Tensor:
        """As many of the units, drawn at random, as have `data.max_images` images at most; 0 means all."""
        if not max_images:
            return units
        shuffled = units[torch.randperm(len(units), generator=generator)]
        sizes = self.of_image.bincount(minlength=len(self.labels))[shuffled]
        return shuffled[sizes.cumsum(0) <= max_images].sort().values


def make_partitions(images: ImageSet, config: DataConfig, num_clients: int, seed: int) -> tuple[Partition, ...]:
    """Deal the images to `num_clients` clients, as `partition` says, and hold out a share of each client's.

    No image is with two clients, unless `data.allow_overlap` is set; then none is trained on by one and held out by
    another. Images that the data set calls inseparable are with one client, on one side of the split.

    Raises:
        DataError: there are too few images, classes or groups for that many clients, or the groups are not known.
    """
    units = PartitionUnits.of(images)
    if len(units.labels) < MIN_CLIENT * num_clients:
        raise DataError(
            f"`num_supernodes` = {num_clients} clients need at least {MIN_CLIENT} {units.name}s each, "
            f"but there are {len(units.labels)}; lower it or raise `data.max_images`"
        )
    parts = [
        units.limited(part, config.max_client_images, named_generator(seed, "max_client_images", client))
        for client, part in enumerate(_dealt(units, config, num_clients, seed))
    ]
    for client, part in enumerate(parts):
        if len(part) < MIN_CLIENT:
            raise DataError(
                f"`num_supernodes` = {num_clients} with `partition` = {config.partition!r} leaves client {client} with "
                f"{len(part)} {units.name}s; each needs at least {MIN_CLIENT}: lower it, or use more images"
            )
    return tuple(
        Partition(units.images(split.train), units.images(split.held_out))
        for split in _split(units, parts, config, seed)
    )


def _dealt(units: PartitionUnits, config: DataConfig, num_clients: int, seed: int) -> list[Tensor]:
    """The units of every client."""
    labels, metadata = units.labels, units.metadata
    match config.partition:
        case "by_identity" | "by_patient":
            return by_group(metadata, config.partition.removeprefix("by_"), config, num_clients, seed)
        case "by_attribute":
            return by_attribute(metadata, config, num_clients, seed)
        case "by_domain":
            return by_domain(metadata, labels, config, num_clients, seed)
        case kind:
            return LABEL_PARTITIONERS[kind](labels, config, num_clients, seed)


def _split(units: PartitionUnits, parts: list[Tensor], config: DataConfig, seed: int) -> list[Partition]:
    """Hold out a share of each client's units; of all units at once where clients may have the same."""
    if not config.allow_overlap:
        return [
            stratified_holdout(units.labels, part, config.holdout_fraction, named_generator(seed, "held_out", client))
            for client, part in enumerate(parts)
        ]
    used = torch.cat(parts).unique()
    held = torch.zeros(len(units.labels), dtype=torch.bool)
    held[
        stratified_holdout(units.labels, used, config.holdout_fraction, named_generator(seed, "held_out")).held_out
    ] = True
    splits = [Partition(part[~held[part]], part[held[part]]) for part in parts]
    for client, split in enumerate(splits):
        if len(split.train) < MIN_TRAIN or len(split.held_out) < MIN_HELD_OUT:
            raise DataError(
                f"`data.holdout_fraction` = {config.holdout_fraction:g} leaves client {client} "
                f"{len(split.train)} {units.name}s to train on and {len(split.held_out)} held out; "
                f"expected at least {MIN_TRAIN} and {MIN_HELD_OUT}"
            )
    return splits


def num_held_out(count: int, share: float) -> int:
    """How many of `count` >= 3 are held out: a `share` (in 0..1), but so many that both sides have what they need."""
    return min(max(round(share * count), MIN_HELD_OUT), count - MIN_TRAIN)


def stratified_holdout(labels: Tensor, indices: Tensor, share: float, generator: torch.Generator) -> Partition:
    """Hold out a `share` (in 0..1) of the images at `indices`, shape (n,), n >= 3, drawn alike from every class.

    Systematic sampling: with the images in order of their class, every (n / held)-th is taken from a random start,
    so that each class gives its share, rounded down or up.
    """
    count = len(indices)
    held = num_held_out(count, share)
    shuffled = indices[torch.randperm(count, generator=generator)]
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    start = torch.randint(count, (1,), generator=generator)
    taken = torch.zeros(count, dtype=torch.bool)
    taken[(torch.arange(held) * count + start) // held] = True
    return Partition(train=by_class[~taken].sort().values, held_out=by_class[taken].sort().values)
