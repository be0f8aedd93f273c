"""Dealing by class, or without regard to anything: Flower Datasets' partitioners."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.core.rng import derive_seed, named_generator
from collafuse_flwr.data.image_cache import cache_folder
from collafuse_flwr.data.partition.flower_partitioner import flower_partitions
from collafuse_flwr.data.partition.missing_classes import drop_classes
from collafuse_flwr.data.settings import DataConfig

#: Images below which a client can neither train nor be evaluated.
MIN_TRAIN, MIN_HELD_OUT = 2, 1
MIN_CLIENT = MIN_TRAIN + MIN_HELD_OUT
#: Where the cache has what was dealt.
DEALINGS = "partitions"


def iid(labels: Tensor, config: DataConfig, num_clients: int, seed: int) -> list[Tensor]:
    """Deal equal shares of the shuffled images."""
    return _deal("IidPartitioner", {"num_partitions": num_clients}, labels, config, seed)


def dirichlet(labels: Tensor, config: DataConfig, num_clients: int, seed: int) -> list[Tensor]:
    """Deal each class by proportions from Dir(alpha), none to clients above the average size (arXiv 1905.12022)."""
    arguments: dict[str, object] = {
        "num_partitions": num_clients,
        "partition_by": "label",
        "alpha": config.dirichlet_alpha,
        "min_partition_size": MIN_CLIENT,
        "self_balancing": True,
        "shuffle": False,
        "seed": derive_seed(seed, "dirichlet"),
    }
    problem = (
        f"`data.dirichlet_alpha` = {config.dirichlet_alpha:g} does not give each of {num_clients} clients at least "
        f"{MIN_CLIENT} of {len(labels)} images; raise it, lower `num_supernodes` or use more images"
    )
    try:
        parts = _deal("DirichletPartitioner", arguments, labels, config, seed)
    except ValueError:
        raise DataError(problem) from None
    # A class whose proportions all underflow to zero is divided by zero and dealt wrongly.
    if not torch.equal(torch.cat(parts).sort().values, torch.arange(len(labels))):
        raise DataError(problem)
    return parts


def by_class(labels: Tensor, config: DataConfig, num_clients: int, seed: int) -> list[Tensor]:
    """Deal `data.classes_per_client` classes to each client, every class shared evenly by the clients that have it.

    The partitioner's own ways to pick several classes leave classes out or use them unevenly. So it deals hands of
    one class, in turn, and a client takes the next `data.classes_per_client` hands: distinct classes, all of them used.
    """
    each, present = config.classes_per_client, len(torch.unique(labels))
    if each > present:
        raise DataError(f"`data.classes_per_client` = {each} is more than the {present} classes that have images")
    if each * num_clients < present:
        raise DataError(
            f"`data.classes_per_client` = {each} leaves {present - each * num_clients} of {present} classes to none of "
            f"{num_clients} clients; raise it to {-(-present // num_clients)} or more, or raise `num_supernodes`"
        )
    renamed = torch.randperm(int(labels.max()) + 1, generator=named_generator(seed, "class order"))[labels]
    arguments: dict[str, object] = {
        "num_partitions": each * num_clients,
        "partition_by": "label",
        "num_classes_per_partition": 1,
        "class_assignment_mode": "deterministic",
        "shuffle": False,
    }
    problem = (
        f"`data.classes_per_client` = {each} for {num_clients} clients shares a class of few images among too many; "
        "lower it, lower `num_supernodes` or use more images"
    )
    try:
        hands = _deal("PathologicalPartitioner", arguments, renamed, config, seed)
    except ValueError:
        raise DataError(problem) from None
    parts = [torch.cat(hands[i : i + each]) for i in range(0, len(hands), each)]
    if min(map(len, parts)) < MIN_CLIENT:
        raise DataError(problem)
    return parts


def _deal(
    partitioner: str, arguments: dict[str, object], labels: Tensor, config: DataConfig, seed: int
) -> list[Tensor]:
    """What a partitioner of Flower Datasets makes of the images, kept beside decoded ones."""
    return flower_partitions(partitioner, arguments, labels, seed, folder=cache_folder(config) / DEALINGS)


#: How images may be dealt by their classes alone, by the name of the setting.
LABEL_PARTITIONERS: dict[str, Callable[[Tensor, DataConfig, int, int], list[Tensor]]] = {
    "iid": iid,
    "dirichlet": dirichlet,
    "by_class": by_class,
    "drop_classes": drop_classes,
}
