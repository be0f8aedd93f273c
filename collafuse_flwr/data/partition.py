"""Who holds which images: Flower Datasets' partitioners, then a held-out share of each client's images."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from collafuse_flwr.config import DataConfig
from collafuse_flwr.data.images import ImageSet
from collafuse_flwr.errors import DataError
from collafuse_flwr.rng import derive_seed, stream

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

#: Images below which a client can neither train nor be evaluated.
MIN_TRAIN, MIN_HELD_OUT = 2, 1
MIN_CLIENT = MIN_TRAIN + MIN_HELD_OUT


@dataclass(frozen=True, eq=False)
class Partition:
    """The images of one client, as ascending indices, int64: `train` (at least 2) and `held_out` (at least 1)."""

    train: Tensor
    held_out: Tensor


def make_partitions(images: ImageSet, config: DataConfig, num_clients: int, seed: int) -> tuple[Partition, ...]:
    """Deal every image to exactly one of `num_clients` clients, as `partition` says, and hold out a share of each's.

    Raises:
        DataError: there are too few images or classes for that many clients.
    """
    if len(images) < MIN_CLIENT * num_clients:
        raise DataError(
            f"`num_supernodes` = {num_clients} clients need at least {MIN_CLIENT} images each, "
            f"but there are {len(images)}; lower it or raise `max_images`"
        )
    deal = {"iid": _iid, "dirichlet": _dirichlet, "by_class": _by_class}[config.partition]
    parts = deal(images.labels, config, num_clients, seed)
    return tuple(
        hold_out(images.labels, part, config.held_out, stream(seed, "held_out", client))
        for client, part in enumerate(parts)
    )


def hold_out(labels: Tensor, indices: Tensor, share: float, generator: torch.Generator) -> Partition:
    """Hold out a `share` (in 0..1) of the images at `indices`, shape (n,), n >= 3, drawn alike from every class.

    Systematic sampling: with the images in order of their class, every (n / held)-th is taken from a random start,
    so that each class gives its share, rounded down or up.
    """
    count = len(indices)
    held = min(max(round(share * count), MIN_HELD_OUT), count - MIN_TRAIN)
    shuffled = indices[torch.randperm(count, generator=generator)]
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    start = torch.randint(count, (1,), generator=generator)
    taken = torch.zeros(count, dtype=torch.bool)
    taken[(torch.arange(held) * count + start) // held] = True
    return Partition(train=by_class[~taken].sort().values, held_out=by_class[taken].sort().values)


def _iid(labels: Tensor, _: DataConfig, num_clients: int, seed: int) -> list[Tensor]:
    """Deal equal shares of the shuffled images."""
    from flwr_datasets.partitioner import IidPartitioner  # noqa: PLC0415 - slow, and not for deployed clients

    return _deal(IidPartitioner(num_clients), labels, seed)


def _dirichlet(labels: Tensor, config: DataConfig, num_clients: int, seed: int) -> list[Tensor]:
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
        f"`dirichlet_alpha` = {config.dirichlet_alpha:g} does not give each of {num_clients} clients at least "
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


def _by_class(labels: Tensor, config: DataConfig, num_clients: int, seed: int) -> list[Tensor]:
    """Deal `classes_per_client` classes to each client, every class shared evenly by the clients that have it.

    The partitioner's own ways to pick several classes leave classes out or use them unevenly. So it deals hands of
    one class, in turn, and a client takes the next `classes_per_client` hands: distinct classes, all of them used.
    """
    from flwr_datasets.partitioner import PathologicalPartitioner  # noqa: PLC0415 - slow, as above

    each, present = config.classes_per_client, len(torch.unique(labels))
    if each > present:
        raise DataError(f"`classes_per_client` = {each} is more than the {present} classes that have images")
    if each * num_clients < present:
        raise DataError(
            f"`classes_per_client` = {each} leaves {present - each * num_clients} of {present} classes to none of "
            f"{num_clients} clients; raise it to {-(-present // num_clients)} or more, or raise `num_supernodes`"
        )
    renamed = torch.randperm(int(labels.max()) + 1, generator=stream(seed, "class order"))[labels]
    partitioner = PathologicalPartitioner(
        each * num_clients, "label", 1, class_assignment_mode="deterministic", shuffle=False
    )
    problem = (
        f"`classes_per_client` = {each} for {num_clients} clients shares a class of few images among too many; "
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

    order = torch.randperm(len(labels), generator=stream(seed, "partition"))
    partitioner.dataset = Dataset.from_dict({"label": labels[order].numpy(), "index": order.numpy()})
    with warnings.catch_warnings():
        # It warns at each of the attempts that it repeats; what comes out is checked instead.
        warnings.simplefilter("ignore")
        parts = [partitioner.load_partition(i) for i in range(partitioner.num_partitions)]
    # A slice is read as one array; a column would be read row by row.
    return [torch.tensor(part.with_format("numpy")[:]["index"], dtype=torch.int64) for part in parts]


def evenly(rows: Tensor, count: int) -> Tensor:
    """Take `count` of the rows (N,), int64, at even distances, or all if there are no more."""
    return rows if len(rows) <= count else rows[torch.linspace(0, len(rows) - 1, count).long()]
