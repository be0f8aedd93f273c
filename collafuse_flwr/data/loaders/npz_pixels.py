"""The images in an array of a NumPy archive, in whatever form: bytes or floats, channels last or first, or volumes."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from collafuse_flwr.core.progress import counted
from collafuse_flwr.data.image_decoding import Window, scale_to_bytes
from collafuse_flwr.data.images import ImageMetadata, LazyImageDataset
from collafuse_flwr.data.loaders.npz_archive import Archive, Rows
from collafuse_flwr.data.report import DataReport
from collafuse_flwr.data.settings import window
from collafuse_flwr.data.validation import data_error

#: Numbers of channels that images may have.
CHANNELS = (1, 3)
#: The least side of a volume: an axis that is shorter holds channels, of which some numbers are no image's.
LEAST_SIDE = 5
#: Ranges that floats are recognised by.
FLOAT_RANGES: tuple[Window, ...] = ((0.0, 1.0), (-1.0, 1.0))
#: Bytes of an array that are looked at together.
TOGETHER = 2**24


class Pixels:
    """The array called `key`: `rows` of it are images or volumes; only those that are read come into memory.

    Its shape is (N, H, W), (N, H, W, C), (N, C, H, W) or, of volumes, (N, D, H, W).

    Raises:
        DataError: it has another type or shape, or is damaged.
    """

    def __init__(self, archive: Archive, key: str) -> None:
        self._archive, self._key = archive, key
        with archive.reading():
            self._rows = Rows(archive.path, key)
        shape, dtype = self._rows.shape, self._rows.dtype
        if dtype.kind not in "iuf":
            raise data_error(archive.config, f"`{key}` is {dtype}; expected uint8, other whole numbers, or floats")
        self.rows: int = shape[0]
        self._last = len(shape) == 4 and shape[3] in CHANNELS
        self._first = len(shape) == 4 and not self._last and shape[1] in CHANNELS
        volumes = len(shape) == 4 and not self._last and not self._first and min(shape[1:]) >= LEAST_SIDE
        if len(shape) != 3 and not (self._last or self._first or volumes):
            expected = "(N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, or (N, D, H, W) of volumes"
            raise data_error(archive.config, f"`{key}` has shape {shape}; expected {expected}")
        #: Images in a row: the slices of a volume.
        self._depth: int = shape[1] if volumes else 1

    def dataset(self, labels: Tensor, names: tuple[str, ...], metadata: ImageMetadata) -> LazyImageDataset:
        """The images with the label and the metadata of their row; without others, a volume is a patient."""
        row = torch.arange(self.rows).repeat_interleave(self._depth)
        if self._depth > 1:
            groups = {"patient": torch.arange(self.rows), **metadata.groups}
            metadata = replace(metadata, groups=groups, group_key="patient")
        return LazyImageDataset(
            labels[row],
            names,
            self._read,
            self._files,
            metadata.subset(row),
            report=self._form(),
            survey=None if self._rows.dtype == np.uint8 else self._survey,
        )

    def _read(self, indices: Tensor) -> Tensor:
        """The images at ascending `indices`, shape (n,), as (n, C, H, W), uint8."""
        rows, which = (indices // self._depth).unique_consecutive(return_inverse=True)
        with self._archive.reading():
            values = self._rows.read(rows.numpy())
        if self._depth > 1:
            values = values[which.numpy(), (indices % self._depth).numpy()]
        pixels = values if values.dtype == np.uint8 else scale_to_bytes(values.astype(np.float64), self._window[0])
        if self._last:
            pixels = pixels.transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(pixels if self._first or self._last else pixels[:, None]))

    def _files(self, _: Tensor) -> tuple[Path]:
        return (self._archive.path,)

    def _form(self) -> DataReport:
        """What was recognised by the shape."""
        shown = f"`{self._key}` has shape {self._rows.shape}:"
        if self._first:
            return DataReport((f"{shown} the channels come first",))
        if self._depth > 1:
            return DataReport((f"{shown} each row is a volume, whose slices are images of one patient",))
        return DataReport()

    def _survey(self) -> DataReport:
        (low, high), whence = self._window
        line = f"`{self._key}` is {self._rows.dtype}: {low:g} to {high:g} ({whence}) become black to white"
        return DataReport((line,), {"window": [low, high]})

    @functools.cached_property
    def _window(self) -> tuple[Window, str]:
        """Which values become black and white, and whence that is known."""
        if stated := window(self._archive.config):
            return stated, "`data.window`"
        low, high = self._range()
        if self._rows.dtype.kind != "f":
            return (low, high), "their own range"
        for float_range in FLOAT_RANGES:
            if float_range[0] <= low and high <= float_range[1]:
                return float_range, "as floats in this range"
        expected = "0 to 1, or -1 to 1, or `data.window` = [low,high] of what become black and white"
        raise data_error(
            self._archive.config, f"`{self._key}` is {self._rows.dtype} from {low:g} to {high:g}; expected {expected}"
        )

    def _range(self) -> Window:
        """The least and the greatest finite value of all rows."""
        step = max(1, TOGETHER // max(1, math.prod(self._rows.shape[1:]) * self._rows.dtype.itemsize))
        low, high = math.inf, -math.inf
        for begin in counted(range(0, self.rows, step), "looking for the range of values", scale=step, total=self.rows):
            with self._archive.reading():
                values = self._rows.read(np.arange(begin, min(begin + step, self.rows)))
            finite = values[np.isfinite(values)]
            if finite.size:
                low, high = min(low, float(finite.min())), max(high, float(finite.max()))
        if low > high:
            raise data_error(self._archive.config, f"`{self._key}` is {self._rows.dtype} without any finite number")
        return low, high
