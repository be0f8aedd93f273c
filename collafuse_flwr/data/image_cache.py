"""Decoded images on disk: read and resized once, then mapped into the memory of every process that needs them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from collafuse_flwr.core.atomic_io import as_file_name, atomic_write
from collafuse_flwr.core.errors import DataError
from collafuse_flwr.core.progress import counted
from collafuse_flwr.data.images import LazyImageDataset, center_crop_resize
from collafuse_flwr.data.settings import DataConfig

Mapped: TypeAlias = np.memmap[tuple[int, ...], np.dtype[np.uint8]]

#: Goes up whenever the same files would be decoded to other pixels.
FORMAT = 1
#: Images that are decoded at a time; a decoding that is killed goes on from the last whole chunk.
CHUNK = 256


def cached_pixels(config: DataConfig, source: LazyImageDataset, keep: Tensor) -> Tensor:
    """The images at ascending indices `keep`, shape (n,), int64: uint8, (n, C, S, S), square and of `image_size`.

    They are kept in `data.cache_path` under a key of the files' contents and of what is done to them: other runs and
    processes find them; what is returned is mapped from that file, and writing to it changes no file. Greyscale
    images become RGB if others of the set are. A set that is in memory anyway is not written anywhere.

    Raises:
        DataError: images are damaged or do not fit together, or the cache cannot be written.
    """
    if not len(keep) or next(iter(source.files(keep[:1])), None) is None:
        return center_crop_resize(source.read(keep), config.image_size)
    folder = cache_folder(config)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        entry = _Entry(folder / _key(config, source, keep, folder), config, source, keep)
        # One process decodes, the others wait for it.
        with FileLock(f"{entry.path}.lock"):
            entry.complete()
    except OSError as error:
        problem = f"{error.strerror or error} ({error.filename})" if error.filename else f"{error.strerror or error}"
        raise DataError(
            f"`data.cache_path` = {config.cache_path!r}: decoded images cannot be kept in {folder}: {problem}; "
            "expected a folder that can be written to, with room for them"
        ) from None
    return torch.from_numpy(np.load(entry.path, mmap_mode="c"))


def cache_folder(config: DataConfig) -> Path:
    """Where decoded images are: `data.cache_path`, or collafuse_flwr in the user's folder for caches."""
    if config.cache_path:
        return Path(config.cache_path).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "collafuse_flwr"


@dataclass(frozen=True)
class _Entry:
    """One decoded set: `path` when it is whole; until then `.part`, with the number of rows done in `.rows`."""

    path: Path
    config: DataConfig
    source: LazyImageDataset
    keep: Tensor

    def complete(self) -> None:
        """Decode the rows that are not in the cache yet."""
        if self.path.exists():
            return
        part, rows = self.path.with_suffix(".part"), self.path.with_suffix(".rows")
        done = int(rows.read_text()) if rows.exists() and part.exists() else 0
        chunks = range(done, len(self.keep), CHUNK)
        for begin in counted(chunks, f"decoding images of {self.config.name}", scale=CHUNK, total=len(self.keep)):
            read = center_crop_resize(self.source.read(self.keep[begin : begin + CHUNK]), self.config.image_size)
            _store(part, begin, read.numpy(), len(self.keep))
            with atomic_write(rows) as temporary:
                temporary.write_text(str(begin + len(read)))
        os.replace(part, self.path)
        rows.unlink(missing_ok=True)


def _store(path: Path, begin: int, images: NDArray[np.uint8], total: int) -> None:
    """Write rows of an array of `total` rows in a file of NumPy's format."""
    shape = (total, *images.shape[1:])
    if not begin:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    else:
        array = np.lib.format.open_memmap(path, mode="r+")
    if array.shape[2:] != shape[2:]:
        raise DataError(
            f"`image_size` = 0 needs images of one size, but there are images of {array.shape[2]} x {array.shape[3]} "
            f"and of {shape[2]} x {shape[3]} pixels; set it to the pixels a side to resize them to"
        )
    if array.shape[1] < shape[1]:
        array = _widened(path, array, shape, begin)
    array[begin : begin + len(images)] = images
    array.flush()


def _widened(path: Path, grey: NDArray[np.uint8], shape: tuple[int, ...], done: int) -> Mapped:
    """The rows done so far in a file with the channels of `shape`, because the first images that are RGB have come."""
    with atomic_write(path) as temporary:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        for begin in range(0, done, CHUNK):
            array[begin : begin + CHUNK] = grey[begin : begin + CHUNK]
        array.flush()
    return np.lib.format.open_memmap(path, mode="r+")


def _key(config: DataConfig, source: LazyImageDataset, keep: Tensor, folder: Path) -> str:
    """The name of the file: which rows of which contents, and what is done to them."""
    content = _content(list(dict.fromkeys(source.files(keep))), folder)
    described = json.dumps([FORMAT, config.name, config.image_size, content])
    key = hashlib.sha256(described.encode() + keep.numpy().tobytes()).hexdigest()[:32]
    return f"{as_file_name(config.name)}-{key}.npy"


def _content(paths: list[Path], folder: Path) -> str:
    """A digest of the files' contents; they are read only if one of them has another size or time than before."""
    seen = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        seen.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    note = folder / f"{seen.hexdigest()[:32]}.content"
    if not note.exists():
        digest = _digest(paths)
        with atomic_write(note) as temporary:
            temporary.write_text(digest)
    return note.read_text()


def _digest(paths: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
