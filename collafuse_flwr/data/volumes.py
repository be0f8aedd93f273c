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
from collafuse_flwr.core.text import number_of
from collafuse_flwr.data.image_decoding import Window, scale_to_bytes
from collafuse_flwr.data.images import UNLABELLED, ImageMetadata, LazyImageDataset, center_crop_resize
from collafuse_flwr.data.report import DataReport
from collafuse_flwr.data.settings import DataConfig, slices, window
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
    def of_volume(number: int) -> Tensor:
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
        parts = [of_volume(own)[inner[number == own]] for own in number.unique().tolist()]
        return torch.cat([center_crop_resize(part, config.image_size) for part in parts])

    def files(indices: Tensor) -> list[Path]:
        return [path for own in of[indices].unique().tolist() for path in volumes[own].files]

    def native_sides(indices: Tensor) -> Tensor:
        return torch.tensor([0 if own in bad else min(volumes[own].size) for own in of[indices].tolist()])

    labels = torch.tensor([classes.index(volume.class_name) for volume in volumes])[of]
    return LazyImageDataset(labels, classes, read, files, metadata, native_sides, report)


def used_slices(config: DataConfig, described: str, count: int) -> tuple[int, int]:
    """The first slice that is used of a volume with `count` of them, and how many are: `data.slices`, or all.

    Raises:
        DataError: it has fewer; `described` says how many it has.
    """
    first, last = slices(config) or (0, count - 1)
    if last >= count:
        raise data_error(config, f"{described}, and `data.slices` ends with {last}; expected at most {count - 1}")
    return first, last - first + 1


def scaled_slices(
    values: NDArray[np.floating], stated: Window | None, config: DataConfig, path: Path
) -> NDArray[np.uint8]:
    """Values of slices of one volume as grey: `stated` ones become black and white, or else its own range does.

    Raises:
        DataError: nothing is stated, and they are all the same.
    """
    low, high = stated or own_range(values)
    if not low < high:
        raise data_error(config, f"{path} has the same value in all voxels of the slices that are used")
    return scale_to_bytes(values, (low, high))


def own_range(values: NDArray[np.floating]) -> Window:
    """What becomes black and white of a volume where nothing is stated; twice 0 where no value is finite."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 0.0
    low, high = np.quantile(finite, (DARKEST, BRIGHTEST)).tolist()
    return low, high


class VolumeReport:
    """What is to be said of volumes; `own_range` is what each is scaled to where no window is stated."""

    def __init__(self, config: DataConfig, own_range: str) -> None:
        self._config, self._own_range = config, own_range
        self._left_out: list[str] = []

    def leave_out(self, path: Path, error: DataError) -> None:
        """Note a volume that cannot be read.

        Raises:
            DataError: the `error`, unless such volumes are skipped.
        """
        if self._config.on_bad_file != "skip":
            raise error
        self._left_out.append(str(path))

    def report(self, volumes: Sequence[Volume], others: DataReport) -> DataReport:
        """All of it, and what is to be said of the `others`, which are no volumes.

        Raises:
            DataError: there are no volumes.
        """
        if not volumes:
            raise data_error(self._config, "; ".join(["none of its volumes can be read", *others.lines]))
        patients = len({volume.patient for volume in volumes})
        slices = number_of(sum(volume.count for volume in volumes), "slice")
        counted = f"{slices} of {number_of(len(volumes), 'volume')} of {number_of(patients, 'patient')}"
        stated = window(self._config)
        scaled = f"{stated[0]:g} to {stated[1]:g} (`data.window`) become" if stated else f"{self._own_range} becomes"
        lines, facts = [f"{counted}: of each volume {scaled} black to white"], {}
        if self._left_out:
            number = number_of(len(self._left_out), "volume")
            lines.append(f"left out is what cannot be read: {number}, as {self._left_out[0]}")
            facts["left_out"] = self._left_out
        return others + DataReport(tuple(lines), facts)


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
