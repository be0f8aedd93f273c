"""Volumes whose slices are the images of a data set; those of a patient are never separated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.data.image_decoding import scale_to_bytes
from collafuse_flwr.data.images import UNLABELLED, ImageMetadata, LazyImageDataset, center_crop_resize
from collafuse_flwr.data.report import DataReport
from collafuse_flwr.data.settings import DataConfig, window
from collafuse_flwr.data.validation import data_error

#: Without a stated window, values at these quantiles of a volume become black and white: the very brightest (vessels,
#: artefacts) would make all else dark.
DARKEST, BRIGHTEST = 0.001, 0.999


@dataclass(frozen=True)
class Volume:
    """Slices of one scan, of which no voxel is read yet.

    Attributes:
        files: where they are.
        patient: whose they are.
        size: height and width of a slice.
        count: how many slices are used.
        read: gives them, shape (count, height, width), uint8.
        class_name: their class.
    """

    files: tuple[Path, ...]
    patient: str
    size: tuple[int, int]
    count: int
    read: Callable[[], NDArray[np.uint8]]
    class_name: str = UNLABELLED


def slice_dataset(
    config: DataConfig, volumes: Sequence[Volume], classes: tuple[str, ...], report: DataReport
) -> LazyImageDataset:
    """The slices of all volumes, in order.

    Raises:
        DataError: slices differ in size while `image_size` is 0.
    """
    _check_sizes(config, volumes)
    counts = torch.tensor([volume.count for volume in volumes])
    of, starts = torch.arange(len(volumes)).repeat_interleave(counts), counts.cumsum(0) - counts
    patients = sorted({volume.patient for volume in volumes})
    metadata = ImageMetadata(
        groups={"patient": torch.tensor([patients.index(volume.patient) for volume in volumes])[of]},
        group_key="patient",
    )
    bad: set[int] = set()

    @functools.lru_cache(maxsize=1)  # indices ascend, so one volume is enough
    def slices(number: int) -> Tensor:
        volume = volumes[number]
        try:
            return torch.from_numpy(volume.read())[:, None]
        except DataError:
            if config.on_bad_file != "skip":
                raise
            bad.add(number)
            return torch.zeros(volume.count, 1, *volume.size, dtype=torch.uint8)

    def read(indices: Tensor) -> Tensor:
        inner, number = indices - starts[of[indices]], of[indices]
        parts = [slices(own)[inner[number == own]] for own in number.unique().tolist()]
        return torch.cat([center_crop_resize(part, config.image_size) for part in parts])

    def files(indices: Tensor) -> list[Path]:
        return [path for own in of[indices].unique().tolist() for path in volumes[own].files]

    def native_sides(indices: Tensor) -> Tensor:
        return torch.tensor([0 if own in bad else min(volumes[own].size) for own in of[indices].tolist()])

    labels = torch.tensor([classes.index(volume.class_name) for volume in volumes])[of]
    return LazyImageDataset(labels, classes, read, files, metadata, native_sides, report)


def scaled_slices(config: DataConfig, values: NDArray[np.floating], path: Path) -> NDArray[np.uint8]:
    """Values of slices of one volume as grey: by `data.window`, or else by their own range.

    Raises:
        DataError: they are all the same.
    """
    own = window(config) or own_range(values)
    if not own[0] < own[1]:
        raise data_error(config, f"{path} has the same value in all voxels of the slices that are used")
    return scale_to_bytes(values, own)


def own_range(values: NDArray[np.floating]) -> tuple[float, float]:
    """What becomes black and white of a volume where nothing is stated; twice 0 where no value is finite."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 0.0
    low, high = np.quantile(finite, (DARKEST, BRIGHTEST)).tolist()
    return low, high


def scaling_line(config: DataConfig, otherwise: str) -> str:
    """What is to be said of how grey the slices are."""
    if stated := window(config):
        return f"values from {stated[0]:g} to {stated[1]:g} (`data.window`) become black to white"
    return f"`data.window` is empty: each volume is scaled to {otherwise}"


def _check_sizes(config: DataConfig, volumes: Sequence[Volume]) -> None:
    first = volumes[0]
    for volume in volumes:
        if not config.image_size and volume.size != first.size:
            height, width = volume.size
            raise DataError(
                f"`image_size` = 0 needs slices of one size, but those of {first.files[0].name} are {first.size[0]} x "
                f"{first.size[1]} and those of {volume.files[0].name} {height} x {width}; set it to the pixels a side "
                "to resize them to"
            )
