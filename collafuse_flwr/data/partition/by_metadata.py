"""Dealing by metadata of images: persons, patients, attributes, the data set they come from."""

from __future__ import annotations

import heapq

import torch
from torch import Tensor

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.core.rng import derive_seed, named_generator
from collafuse_flwr.data.images import ImageMetadata
from collafuse_flwr.data.partition.by_label import LABEL_PARTITIONERS
from collafuse_flwr.data.settings import DataConfig


def by_group(metadata: ImageMetadata, name: str, config: DataConfig, num_clients: int, seed: int) -> list[Tensor]:
    """Deal whole groups, the largest first, each to the client that has least: no client is smaller than need be.

    Flower Datasets' partitioner by natural ids makes one client of each, or of a fixed number, instead of a given
    number of clients.
    """
    group = _group(metadata, name, config)
    present, members, sizes = group.unique(return_inverse=True, return_counts=True)
    if len(present) < num_clients:
        raise DataError(
            f"`num_supernodes` = {num_clients} is more than there are different values of {name} ({len(present)}); "
            f"lower it, or choose another `partition` than {config.partition}"
        )
    shuffled = torch.randperm(len(present), generator=named_generator(seed, "groups"))
    order = shuffled[sizes[shuffled].argsort(descending=True, stable=True)]
    held = [(0, client) for client in range(num_clients)]
    owner = torch.empty(len(present), dtype=torch.int64)
    for i in order.tolist():
        size, client = held[0]
        owner[i] = client
        heapq.heapreplace(held, (size + int(sizes[i]), client))
    return _owned(owner[members], num_clients)


def by_attribute(metadata: ImageMetadata, config: DataConfig, num_clients: int, seed: int) -> list[Tensor]:
    """Give client i the images with any attribute of the i-th list of `data.attribute_groups`; the others are not used.

    An image that fits several clients is with one of them, drawn alike, or with `data.allow_overlap` with all of them.
    """
    matches = _matches(metadata, config, num_clients)
    if not config.allow_overlap:
        draws = torch.rand(matches.shape, generator=named_generator(seed, "attributes")) * matches
        drawn = torch.zeros_like(matches)
        drawn[torch.arange(len(draws)), draws.argmax(1)] = True
        matches &= drawn
    return [matches[:, client].nonzero().flatten() for client in range(num_clients)]


def by_domain(metadata: ImageMetadata, labels: Tensor, config: DataConfig, num_clients: int, seed: int) -> list[Tensor]:
    """Give client i the domain i mod D of D, dealt among its clients as `data.within_domain` says."""
    domain = _group(metadata, "domain", config)
    count = int(domain.max()) + 1
    if num_clients < count:
        raise DataError(f"`num_supernodes` = {num_clients} is less than the {count} data sets of `dataset`")
    deal = LABEL_PARTITIONERS[config.within_domain]
    parts: list[Tensor] = [torch.empty(0, dtype=torch.int64)] * num_clients
    for i in range(count):
        rows, clients = (domain == i).nonzero().flatten(), range(i, num_clients, count)
        dealt = deal(labels[rows], config, len(clients), derive_seed(seed, "domain", i))
        for client, part in zip(clients, dealt, strict=True):
            parts[client] = rows[part]
    return parts


def _owned(owner: Tensor, num_clients: int) -> list[Tensor]:
    """Who has which client's number, in one pass: there may be thousands of clients."""
    counts = owner.bincount(minlength=num_clients)
    return [part.sort().values for part in owner.argsort(stable=True).split(counts.tolist())]


def _group(metadata: ImageMetadata, name: str, config: DataConfig) -> Tensor:
    if name not in metadata.groups:
        groups = ", ".join(f"by_{group}" for group in metadata.groups)
        allowed = ", ".join([*LABEL_PARTITIONERS, *([groups] if groups else [])])
        raise DataError(
            f"`partition` = {config.partition!r}: nothing is known of the {name} of an image in `dataset` = "
            f"{config.name!r}; allowed are {allowed}"
        )
    return metadata.groups[name]


def _matches(metadata: ImageMetadata, config: DataConfig, num_clients: int) -> Tensor:
    """Which image (row) fits which client (column)."""
    if metadata.attributes is None:
        raise DataError(
            f"`partition` = {config.partition!r}: nothing is known of the attributes of an image in `dataset` = "
            f"{config.name!r}"
        )
    lists = config.attribute_groups
    if len(lists) != num_clients:
        raise DataError(
            f"`data.attribute_groups` is for {len(lists)} clients, but `num_supernodes` = "
            f"{num_clients}; expected a list of attributes for each client, as [[a,b],[c]]"
        )
    columns = {name: column for column, name in enumerate(metadata.attribute_names)}
    for name in (name for names in lists for name in names):
        if name not in columns:
            raise DataError(
                f"`data.attribute_groups` has {name!r}, which is none of {', '.join(metadata.attribute_names)}"
            )
    picked = [metadata.attributes[:, [columns[name] for name in names]].bool().any(1) for names in lists]
    return torch.stack(picked, dim=1)
