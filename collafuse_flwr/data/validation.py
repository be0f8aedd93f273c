"""Checks of `dataset_path` and of labels that all loaders share, and their error messages."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collafuse_flwr.core.errors import DataError, SettingError
from collafuse_flwr.core.fields import plain
from collafuse_flwr.data.settings import DataConfig

#: How to go on where a file is damaged.
SKIPPING = "`data.on_bad_file` = skip leaves such files out"


def data_error(config: DataConfig, problem: str) -> DataError:
    """The error in one line about the data at `dataset_path`."""
    return DataError(" ".join(f"`dataset_path` = {plain(config.dataset_path)!r}: {problem}".split()))


def existing_path(config: DataConfig, expected: str) -> Path:
    """Find the data, with `~` expanded; `expected` says what should be there.

    Raises:
        DataError: `dataset_path` is empty or not there.
    """
    if not config.dataset_path:
        raise DataError(f"`dataset_path` is empty: `dataset` = {config.name!r} needs {expected}")
    path = Path(os.path.expanduser(config.path))
    # `os.path` answers no to names that the system refuses, where `Path.exists` raises.
    if not os.path.exists(path):
        # The full path, because a client's process may run in another folder than the one that was meant.
        raise data_error(config, f"there is no {path.absolute()}; expected {expected}")
    return path


def unpacked(config: DataConfig, folder: str, expected: str) -> Path:
    """Find the folder of the data: `folder` in `dataset_path`, as a download unpacks to, or `dataset_path` itself.

    Raises:
        DataError: `dataset_path` is empty or not there.
    """
    root = existing_path(config, expected)
    return root / folder if os.path.isdir(root / folder) else root


def require_split(config: DataConfig, has_split: bool, there: Iterable[str]) -> None:
    """Refuse `data.split` unless the data set has it; `there` is what the data set has instead.

    Raises:
        SettingError: it has not.
    """
    if not has_split:
        listed = ", ".join(there) or "nothing"
        allowed = f"a split that `dataset_path` = {plain(config.dataset_path)!r} has; in it is {listed}"
        raise SettingError("data.split", config.split, " ".join(allowed.split()))


def read_lines(config: DataConfig, path: Path, expected: str) -> list[str]:
    """Read a text file as lines without those that are blank.

    Raises:
        DataError: the file is missing or holds no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        problem = getattr(error, "strerror", None) or "it holds no text"
        raise data_error(config, f"{path.absolute()} cannot be read ({problem}); expected {expected}") from None
    return [line for line in text.splitlines() if line.strip()]


def checked_labels(config: DataConfig, labels: NDArray[Any], count: int, num_classes: int) -> Tensor:
    """Turn whole numbers of shape (count,) or (count, 1) into labels: (count,), int64, in 0..num_classes - 1.

    Raises:
        DataError: they have another type, shape, number or range.
    """
    if not np.issubdtype(labels.dtype, np.integer):
        raise data_error(config, f"the labels are {labels.dtype}; expected whole numbers from 0")
    if labels.shape not in {(count,), (count, 1)}:
        raise data_error(config, f"the labels have shape {labels.shape}; expected ({count},), one label for each image")
    labels = labels.reshape(count)
    if count and not (labels.min() >= 0 and labels.max() < num_classes):
        raise data_error(
            config,
            f"the labels go from {labels.min()} to {labels.max()}; expected 0..{num_classes - 1}, one per class",
        )
    return torch.from_numpy(labels.astype(np.int64))
