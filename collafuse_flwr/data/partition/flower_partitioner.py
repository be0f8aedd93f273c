"""Flower Datasets' partitioners, run once for some labels: to import them takes longer than to deal the images."""

from __future__ import annotations

import hashlib
import warnings
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from collafuse_flwr.core.atomic_io import make_private_folder
from collafuse_flwr.core.errors import DamagedError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.tensor_io import read_tensors, write_tensors
from collafuse_flwr.data.image_cache import forget_old_sets

#: Goes up whenever the same labels would be dealt otherwise.
FORMAT = 1
#: Dealings that are kept, those that were used last; each has eight bytes for an image.
KEPT = 64


def flower_partitions(
    name: str, arguments: dict[str, object], labels: Tensor, seed: int, *, folder: Path
) -> list[Tensor]:
    """Run a partitioner on the shuffled images, or read from `folder` what an earlier process has dealt.

        flower_partitions("IidPartitioner", {"num_partitions": 4}, labels, 0, folder=cache / "partitions")

    A file that is damaged, or cannot be written, only costs the dealing.

    Args:
        name: of a class of `flwr_datasets.partitioner`.
        arguments: of its constructor, by name.
        labels: the classes of the images, shape (N,), int64.
        seed: of the order in which the partitioner has the images.
        folder: of what is kept.

    Returns:
        The indices of the images of each partition, int64.

    Raises:
        ValueError: the partitioner cannot do it.
    """
    path = folder / f"{_key(name, arguments, labels, seed)}.safetensors"
    try:
        kept, _ = read_tensors(path)
        path.touch()
    except (OSError, DamagedError):
        parts = _deal(name, arguments, labels, seed)
        # The next process deals again.
        with suppress(OSError):
            make_private_folder(folder)
            write_tensors(path, {str(i): part for i, part in enumerate(parts)})
            forget_old_sets(folder, KEPT)
        return parts
    return [kept[str(i)] for i in range(len(kept))]


def _deal(name: str, arguments: dict[str, object], labels: Tensor, seed: int) -> list[Tensor]:
    from datasets import Dataset  # noqa: PLC0415 - slow, and not for deployed clients
    from flwr_datasets import partitioner  # noqa: PLC0415 - slow, as above

    order = torch.randperm(len(labels), generator=named_generator(seed, "partition"))
    chosen = getattr(partitioner, name)(**arguments)
    chosen.dataset = Dataset.from_dict({"label": labels[order].numpy(), "index": order.numpy()})
    with warnings.catch_warnings():
        # It warns at each of the attempts that it repeats; what comes out is checked instead.
        warnings.simplefilter("ignore")
        parts = [chosen.load_partition(i) for i in range(chosen.num_partitions)]
    # A slice is read as one array; a column would be read row by row.
    return [torch.tensor(part.with_format("numpy")[:]["index"], dtype=torch.int64) for part in parts]


def _key(name: str, arguments: dict[str, object], labels: Tensor, seed: int) -> str:
    """The name of a dealing: equal names are equal partitions."""
    versions = FORMAT, version("flwr-datasets"), version("numpy"), torch.__version__
    digest = hashlib.blake2b(repr((versions, name, sorted(arguments.items()), seed)).encode(), digest_size=16)
    digest.update(labels.contiguous().numpy().data)
    return digest.hexdigest()
