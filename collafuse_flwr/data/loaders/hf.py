"""A data set of Hugging Face's `datasets` on disk: saved by it, or a folder of parquet files or of images."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from collafuse_flwr.core.atomic_io import make_private_folder
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.folders import SPLITS, named_classes
from collafuse_flwr.data.image_cache import cache_folder
from collafuse_flwr.data.image_decoding import Encoded
from collafuse_flwr.data.image_io import ImageFiles
from collafuse_flwr.data.images import GROUPS, INSEPARABLE, UNLABELLED, ImageMetadata, LazyImageDataset
from collafuse_flwr.data.report import DataReport
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import checked_labels, data_error, existing_path, require_split

if TYPE_CHECKING:
    from datasets import Dataset

EXPECTED = "a folder that `datasets` has saved (`save_to_disk`), or one of parquet files, or of images and metadata"
#: Files by which a folder is known that `datasets` has saved.
SAVED = ("state.json", "dataset_dict.json")
#: What columns are called that hold classes, where no column says so by its type.
LABELS = ("label", "labels", "fine_label", "class", "target", "y")


def load_hf(config: DataConfig) -> LazyImageDataset:
    """List the images of `data.split`; nothing is looked for on the hub.

    The columns are those that `data.image_column` and `data.label_column` name, or the only ones that can be meant.

    Raises:
        DataError: there is no such data set, it is damaged, or has no images.
        SettingError: a column is not there, or several can be meant, or there is no such split.
    """
    table = open_table(config, existing_path(config, EXPECTED), EXPECTED)
    return from_table(config, table, config.image_column, config.label_column)


def open_table(config: DataConfig, root: Path, expected: str) -> Dataset:
    """The rows of one split. Those of parquet files are copied to `data.cache_path`, from where they are mapped.

    Raises:
        DataError: it cannot be read.
        SettingError: there is no such split.
    """
    import datasets  # noqa: PLC0415 - slow, and only these data sets need it

    datasets.disable_progress_bars()
    parquet, cache = sorted(map(str, root.rglob("*.parquet"))), str(cache_folder(config) / "datasets")
    try:
        make_private_folder(Path(cache))
        if any((root / name).exists() for name in SAVED):
            dataset = datasets.load_from_disk(str(root))
        elif parquet:
            # Never the folder itself: what its README names might be elsewhere.
            dataset = datasets.load_dataset("parquet", data_files=_by_split(root, parquet), cache_dir=cache)
        else:
            dataset = datasets.load_dataset("imagefolder", data_dir=str(root.absolute()), cache_dir=cache)
    except Exception as error:  # a damaged file raises what pyarrow, json or fsspec stumble over first
        raise data_error(config, f"`datasets` cannot read it ({error}); expected {expected}") from None
    splits = {"train": dataset} if isinstance(dataset, datasets.Dataset) else dataset
    name = next((name for name in splits if name.lower() in SPLITS[config.split]), "")
    require_split(config, bool(name), splits)
    return splits[name]


def _by_split(root: Path, paths: Sequence[str]) -> dict[str, list[str]]:
    """Files by the split that their names or folders tell; all are of `train` where none tells it."""
    paths_by_split: dict[str, list[str]] = {}
    for path in paths:
        words = re.split(r"[^a-z]+", os.path.relpath(path, root).lower())
        own = next((split for split, names in SPLITS.items() if set(names) & set(words)), "other")
        paths_by_split.setdefault(own, []).append(path)
    return {"train": list(paths)} if paths_by_split.keys() == {"other"} else paths_by_split


def from_table(config: DataConfig, table: Dataset, image_column: str, label_column: str) -> LazyImageDataset:
    """The images of one column, with the classes of another; what is not named is looked for.

    Raises:
        DataError, SettingError: as `load_hf`.
    """
    import datasets  # noqa: PLC0415 - as above

    features = table.features
    pictures = [name for name, feature in features.items() if _holds_images(feature)]
    others = [name for name in features if name not in pictures]
    classes = [name for name in others if isinstance(features[name], datasets.ClassLabel)]
    image = _column("data.image_column", image_column, pictures, pictures)
    label = _column("data.label_column", label_column, others, classes or [name for name in others if name in LABELS])
    if not image:
        raise data_error(config, f"no column holds images, of {', '.join(features)}")
    labels, names = _classes(config, table, label)
    images, files = _images(config, table, image)
    groups = {own: name for name in others if (own := name.lower().removesuffix("_id")) in GROUPS}
    read = {"images": image, **({"classes": label} if label else {}), **groups}
    unread = ", ".join(name for name in features if name not in read.values())
    line = ", ".join(f"{what} of column {name}" for what, name in read.items())
    return LazyImageDataset(
        labels,
        names,
        images.read,
        files,
        _metadata(config, table, groups),
        images.native_sides,
        DataReport((f"{line}; not read: {unread}" if unread else line,)),
        images.survey,
    )


def _holds_images(feature: Any) -> bool:
    """Whether a column is of images, or of bytes that may be images: as such, or with a path beside them."""
    import datasets  # noqa: PLC0415 - as above

    if isinstance(feature, dict):
        return "bytes" in feature
    return isinstance(feature, datasets.Image) or getattr(feature, "dtype", "") in {"binary", "large_binary"}


def _column(setting: str, named: str, there: Sequence[str], candidates: Sequence[str]) -> str:
    """The column that a setting names, or the only one of the candidates; empty where there is none."""
    if named and named not in there:
        raise SettingError(setting, named, f"empty, or one of {', '.join(there) or 'none'}")
    if not named and len(candidates) > 1:
        raise SettingError(setting, named, f"one of {', '.join(candidates)}, as several can be meant")
    return named or next(iter(candidates), "")


def _classes(config: DataConfig, table: Dataset, column: str) -> tuple[Tensor, tuple[str, ...]]:
    """The class of each row, (N,), int64, and the names of the classes."""
    count = len(table)
    if not column:
        return torch.zeros(count, dtype=torch.int64), (UNLABELLED,)
    values, names = np.array(table[column][:]), getattr(table.features[column], "names", None)
    if values.dtype.kind in "Ub":
        names, values = np.unique(values, return_inverse=True)
    # Without names, more classes than images are taken for a mistake, as in an archive.
    labels = checked_labels(config, values, count, count if names is None else len(names))
    label_names = tuple(map(str, range(int(labels.max()) + 1) if names is None else names))
    classes = named_classes(config, label_names)
    return torch.tensor([classes.index(name) for name in label_names])[labels], classes


def _metadata(config: DataConfig, table: Dataset, columns: Mapping[str, str]) -> ImageMetadata:
    """Which person or patient each image is of, by the columns that say it."""
    groups = {}
    for own, name in columns.items():
        values = np.array(table[name][:])
        if values.dtype.kind not in "iuU" or values.ndim != 1:
            raise data_error(config, f"column {name} has values that are neither whole numbers nor text, or lacks some")
        groups[own] = torch.from_numpy(np.unique(values, return_inverse=True)[1].astype(np.int64))
    return ImageMetadata(groups=groups, group_key=INSEPARABLE if INSEPARABLE in groups else "")


def _images(config: DataConfig, table: Dataset, column: str) -> tuple[ImageFiles, Callable[[Tensor], Iterable[Path]]]:
    """The images, and in which files those at some indices are."""
    import datasets  # noqa: PLC0415 - as above

    if not len(table):
        raise data_error(config, f"there are no images in it; expected {EXPECTED}")
    stored = table.select_columns([column])
    if isinstance(table.features[column], datasets.Image):
        stored = stored.cast_column(column, datasets.Image(decode=False))
    first = stored[0][column]
    if isinstance(first, dict) and first["bytes"] is None and first.get("path"):
        images = ImageFiles(config, [row["path"] for row in stored[column][:]])
        return images, images.files
    names = [f"image {i}" for i in range(len(table))]
    files = [Path(own["filename"]) for own in table.cache_files]
    return ImageFiles(config, names, content=lambda i: _content(stored[i][column])), lambda _: files


def _content(value: Any) -> Encoded:
    """What a row holds.

    Raises:
        ValueError: it holds nothing.
    """
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise ValueError("its row holds no bytes")
    return content
