"""A NumPy archive (.npz), of which only the rows that are needed come into memory."""

from __future__ import annotations

import functools
import math
import weakref
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import data_error, existing_path

#: Readers of the header of an .npy file by its version; there is a third, for arrays whose fields have names.
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Archive:
    """The .npz file at `dataset_path`, and what was `expected` there."""

    def __init__(self, config: DataConfig, expected: str) -> None:
        self.config, self._expected = config, expected
        self.path = existing_path(config, expected)
        # False for folders, for other files and for an archive whose end is missing.
        if not zipfile.is_zipfile(self.path):
            raise self.data_error("this is no .npz file, or it is cut short")
        with self.reading(), zipfile.ZipFile(self.path) as archive:
            self.keys = tuple(name.removesuffix(".npy") for name in archive.namelist())

    def data_error(self, problem: str) -> DataError:
        """The error in one line: what is wrong, and what was expected."""
        return data_error(self.config, f"{problem}; expected {self._expected}")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Refuse the file if what is done meanwhile fails."""
        try:
            yield
        except Exception as error:  # a damaged archive raises what zipfile, zlib or numpy stumble over first
            raise self.data_error(f"it cannot be read ({error})") from None

    def array(self, key: str) -> NDArray[Any]:
        """The array called `key`; the others stay on disk."""
        with self.reading(), np.load(self.path) as archive:
            array: NDArray[Any] = archive[key]
        return array


class Rows:
    """An array of shape (N, ...) in a .npz file, of which only the requested rows come into memory.

    The file stays open where the last row was read, because a compressed one can be read forward only: rows in
    ascending order are read in one pass, and an earlier one starts it again. The check sum is compared at the end of
    the array.

    Raises:
        Exception: the file is damaged (whatever zipfile, zlib or numpy stumble over first), or holds Python objects.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(f"{key}.npy").file_size
            # The member holds the file open for itself when the archive is closed.
            self._stream = archive.open(f"{key}.npy")
        weakref.finalize(self, self._stream.close)
        self.shape, self._by_column, self.dtype = HEADERS[np.lib.format.read_magic(self._stream)](self._stream)
        self._start = self._stream.tell()
        self._row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        if self.dtype.hasobject:
            raise ValueError(f"`{key}` holds Python objects")
        if not self.shape or size < self._start + self.shape[0] * self._row_bytes:
            raise ValueError(f"`{key}` is cut short")

    def read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """The rows at ascending `indices`, shape (n,), as (n, ...).

        Raises:
            Exception: the file is damaged, as above.
        """
        if self._by_column:
            return self._whole[indices]
        rows = np.empty((len(indices), *self.shape[1:]), self.dtype)
        breaks = np.flatnonzero(np.diff(indices) != 1) + 1
        for start, stop in zip([0, *breaks], [*breaks, len(indices)], strict=True):
            run = rows[start:stop]  # neighbours, read at once
            if run.nbytes:
                self._stream.seek(self._start + int(indices[start]) * self._row_bytes)
                run[...] = np.frombuffer(self._stream.read(run.nbytes), self.dtype).reshape(run.shape)
        if len(indices) and indices[-1] == self.shape[0] - 1:
            self._stream.read(1)  # there is no more, but at its end zipfile compares the check sum
        return rows

    @functools.cached_property
    def _whole(self) -> NDArray[Any]:
        """The array itself where it is kept by column (Fortran's order), with each row all over the file."""
        with np.load(self._path) as archive:
            array: NDArray[Any] = archive[self._key]
        return array
