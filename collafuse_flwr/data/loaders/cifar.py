"""CIFAR-10 and CIFAR-100: as their authors publish them for Python, as parquet files, or as folders of the classes."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from collafuse_flwr.data.images import LazyImageDataset
from collafuse_flwr.data.loaders.cifar_pickle import read_batch, read_names
from collafuse_flwr.data.loaders.hf import from_table, open_table
from collafuse_flwr.data.loaders.imagefolder import list_classes
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import data_error, existing_path, require_split


@dataclass(frozen=True)
class Version:
    """One of the two sets: where its batches are by split, and what its labels are called in them and in tables."""

    folder: str
    batches: dict[str, tuple[str, ...]]
    meta: str
    names_key: str
    labels_key: str
    column: str
    num_classes: int


CIFAR = {
    "cifar10": Version(
        folder="cifar-10-batches-py",
        batches={"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
        meta="batches.meta",
        names_key="label_names",
        labels_key="labels",
        column="label",
        num_classes=10,
    ),
    "cifar100": Version(
        folder="cifar-100-python",
        batches={"train": ("train",), "test": ("test",)},
        meta="meta",
        names_key="fine_label_names",
        labels_key="fine_labels",
        column="fine_label",
        num_classes=100,
    ),
}


def load_cifar(config: DataConfig) -> LazyImageDataset:
    """Read the labels of `data.split`; pixels are read one batch at a time. CIFAR-100 has its 100 fine classes.

    Raises:
        DataError: a file is missing, damaged or of another content, or would run code.
        SettingError: there is no such split.
    """
    version = CIFAR[config.name]
    own = f"{version.folder}/{version.batches['train'][0]} and {version.meta}, unpacked"
    expected = f"the folder that holds {own}, or parquet files, or a folder for each of {version.num_classes} classes"
    root = existing_path(config, expected)
    if (root / version.folder).is_dir():
        return _load_pickles(config, root / version.folder, version, expected)
    if any(root.rglob("*.parquet")):
        table = open_table(config, root, expected)
        source = from_table(config, table, "", version.column if version.column in table.features else "")
    else:
        source = list_classes(config, root, expected)
    if len(source.class_names) != version.num_classes:
        raise data_error(config, f"there are {len(source.class_names)} classes in it; expected {expected}")
    return source


def _load_pickles(config: DataConfig, folder: Path, version: Version, expected: str) -> LazyImageDataset:
    require_split(config, config.split in version.batches, version.batches)
    paths = tuple(folder / name for name in version.batches[config.split])
    classes = read_names(config, folder / version.meta, version.names_key, expected)

    def batch(path: Path) -> tuple[Tensor, Tensor]:
        return read_batch(config, path, version.labels_key, len(classes), expected)

    labels = [batch(path)[1] for path in paths]
    lengths = torch.tensor([len(part) for part in labels])
    ends = lengths.cumsum(0)

    def batches(indices: Tensor) -> Tensor:
        return torch.bucketize(indices, ends, right=True)

    @functools.lru_cache(maxsize=1)  # indices ascend, so one batch is enough
    def pixels(number: int) -> Tensor:
        return batch(paths[number])[0]

    def read(indices: Tensor) -> Tensor:
        of = batches(indices)
        inner = indices - (ends - lengths)[of]
        return torch.cat([pixels(number)[inner[of == number]] for number in of.unique().tolist()])

    def files(indices: Tensor) -> list[Path]:
        return [paths[number] for number in batches(indices).unique().tolist()]

    return LazyImageDataset(torch.cat(labels), classes, read, files)
