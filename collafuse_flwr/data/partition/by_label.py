"""Dealing by class, or without regard to anything: Flower Datasets' partitioners."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.core.rng import derive_seed, named_generator
from collafuse_flwr.data.partition.missing_classes import drop_classes
from collafuse_flwr.data.settings import DataConfig

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

#: Images below which a client can neither train nor be evaluated.
MIN_TRAIN, MIN_HELD_OUT = 2, 1
MIN_CLIENT = MIN_TRAIN + MIN_HELD_OUT


def iid(labels: Tensor, _: DataConfig, num_clients: int, seed: int) -> list[Tensor]:
    """Deal equal shares of the shuffled images."""
    from flwr_datasets.partitioner import IidPartitioner  # noqa: PLC0415 - slow, and not for deployed clients

    return _deal(IidPartitioner(num_clients), labels, seed)


def dirichlet(labels: Tensor, config: DataConfig, num_clients: int, seed: int) -> list[Tensor]:
    """Deal each class by proportions from Dir(alpha), none to clients above the average size (arXiv 1905.12022)."""
    from flwr_datasets.partitioner import DirichletPartitioner  # noqa: PLC0415 - slow, as above

    partitioner = DirichletPartitioner(
        num_clients,
        partition_by="label",
        alpha=config.dirichlet_alpha,
        min_partition_size=MIN_CLIENT,
        self_balancing=True,
        shuffle=False,
        seed=derive_seed(seed, "dirichlet"),
    )
    problem = (
        f"`data.dirichlet_alpha` = {config.dirichlet_alpha:g} does not give each of {num_clients} clients at least "
        f"{MIN_CLIENT} of {len(labels)} images; raise it, lower `num_supernodes` or use more images"
    )
    try:
        parts = _deal(partitioner, labels, seed)
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
    from flwr_datasets.partitioner import PathologicalPartitioner  # noqa: PLC0415 - slow, as above

    each, present = config.classes_per_client, len(torch.unique(labels))
    if each > present:
        raise DataError(f"`data.classes_per_client` = {each} is more than the {present} classes that have images")
    if each * num_clients < present:
        raise DataError(
            f"`data.classes_per_client` = {each} leaves {present - each * num_clients} of {present} classes to none of "
            f"{num_clients} clients; raise it to {-(-present // num_clients)} or more, or raise `num_supernodes`"
        )
    renamed = torch.randperm(int(labels.max()) + 1, generator=named_generator(seed, "class order"))[labels]
    partitioner = PathologicalPartitioner(
        each * num_clients, "label", 1, class_assignment_mode="deterministic", shuffle=False
    )
    problem = (
        f"`data.classes_per_client` = {each} for {num_clients} clients shares a class of few images among too many; "
        "lower it, lower `num_supernodes` or use more images"
    )
    try:
        hands = _deal(partitioner, renamed, seed)
    except ValueError:
        raise DataError(problem) from None
    parts = [torch.cat(hands[i : i + each]) for i in range(0, len(hands), each)]
    if min(map(len, parts)) < MIN_CLIENT:
        raise DataError(problem)
    return parts


def _deal(partitioner: Partitioner, labels: Tensor, seed: int) -> list[Tensor]:
    """Run the partitioner on the shuffled images; the indices of each partition, int64.

    Raises:
        ValueError: the partitioner cannot do it.
    """
    from datasets import Dataset  # noqa: PLC0415 - slow, as above

    order = torch.randperm(len(labels), generator=named_generator(seed, "partition"))
    partitioner.dataset = Dataset.from_dict({"label": labels[order].numpy(), "index": order.numpy()})
    with warnings.catch_warnings():
        # It warns at each of the attempts that it repeats; what comes out is checked instead.
        warnings.simplefilter("ignore")
        parts = [partitioner.load_partition(i) for i in range(partitioner.num_partitions)]
    # A slice is read as one array; a column would be read row by row.
    return [torch.tensor(part.with_format("numpy")[:]["index"], dtype=torch.int64) for part in parts]


#: How images may be dealt by their classes alone, by the name of the setting.
LABEL_PARTITIONERS: dict[str, Callable[[Tensor, DataConfig, int, int], list[Tensor]]] = {
    "iid": iid,
    "dirichlet": dirichlet,
    "by_class": by_class,
    "drop_classes": drop_classes,
}
