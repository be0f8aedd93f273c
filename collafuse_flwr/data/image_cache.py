"""Decoded images on disk: read and resized once, then mapped into the memory of every process that needs them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from collafuse_flwr.core.atomic_io import as_file_name, atomic_write, make_private_folder, write_json
from collafuse_flwr.core.errors import DataError
from collafuse_flwr.core.progress import counted
from collafuse_flwr.data.images import DecodedImages, LazyImageDataset, decode
from collafuse_flwr.data.report import DataReport, reading_report
from collafuse_flwr.data.settings import DataConfig, reading

Mapped: TypeAlias = np.memmap[tuple[int, ...], np.dtype[np.uint8]]

#: Goes up whenever the same files would be decoded to other pixels.
FORMAT = 3
#: Images that are decoded at a time; a decoding that is killed goes on from the last whole chunk.
CHUNK = 256
#: Decoded sets that a deployed client keeps: sizes and numbers of images are the operator's, the disk is not.
KEPT_SETS = 4
#: The suffix of files that say what other files hold.
NOTE = ".content"


def cached_images(config: DataConfig, source: LazyImageDataset, keep: Tensor) -> DecodedImages:
    """The images at ascending indices `keep`, shape (n,), int64, square and of `image_size`.

    They are kept in `data.cache_path` under a key of the files' contents and of what is done to them: other runs and
    processes find them; what is returned is mapped from that file, and writing to it changes no file. A set that is in
    memory anyway is not written anywhere. What is to be said of the reading is kept beside the images.

    Raises:
        DataError: images are damaged or do not fit together, or the cache cannot be written.
    """
    if not len(keep) or next(iter(source.files(keep[:1])), None) is None:
        decoded = decode(source, keep, config.image_size)
        return replace(decoded, report=_report(source, keep, decoded.pixels.numpy(), decoded.native_sides))
    folder = cache_folder(config)
    try:
        make_private_folder(folder)
        entry = _Entry(folder / _key(config, source, keep, folder), config, source, keep)
        # One process decodes, the others wait for it.
        with FileLock(entry.path.with_suffix(".lock")):
            entry.complete()
            pixels, sides = np.load(entry.path, mmap_mode="c"), np.load(entry.sides)
            report = DataReport.of_json(json.loads(entry.report.read_text()))
    except OSError as error:
        problem = f"{error.strerror or error} ({error.filename})" if error.filename else f"{error.strerror or error}"
        raise DataError(
            f"`data.cache_path` = {config.cache_path!r}: decoded images cannot be kept in {folder}: {problem}; "
            "expected a folder that can be written to, with room for them"
        ) from None
    return DecodedImages(torch.from_numpy(pixels), torch.from_numpy(sides), report)


def forget_old_sets(folder: Path, kept: int = KEPT_SETS) -> None:
    """Delete all decoded sets, whole or not, but those that were used last; what another process still maps stays."""
    used: dict[bool, dict[str, float]] = {True: {}, False: {}}
    files = [path for path in folder.glob("*") if path.is_file()]
    for path in files:
        # Another process may have moved it into place, or deleted it.
        with suppress(FileNotFoundError):
            kind = used[path.suffix == NOTE]
            kind[path.stem] = max(kind.get(path.stem, 0.0), path.stat().st_mtime)
    old = {name for own in used.values() for name in sorted(own, key=own.__getitem__)[:-kept]}
    for path in files:
        if path.stem in old:
            path.unlink(missing_ok=True)


def cache_folder(config: DataConfig) -> Path:
    """Where decoded images are: `data.cache_path`, or collafuse_flwr in the user's folder for caches."""
    if config.cache_path:
        return Path(config.cache_path).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "collafuse_flwr"


@dataclass(frozen=True)
class _Entry:
    """One decoded set: `path` when it is whole, until then `.part`; `sides` has the native sides of the rows done."""

    path: Path
    config: DataConfig
    source: LazyImageDataset
    keep: Tensor

    @property
    def sides(self) -> Path:
        """The file of native sides."""
        return self.path.with_suffix(".sides")

    @property
    def report(self) -> Path:
        """The file of what is to be said of the set."""
        return self.path.with_suffix(".report")

    def complete(self) -> None:
        """Decode the rows that are not in the cache yet."""
        if self.path.exists() and self.sides.exists() and self.report.exists():
            os.utime(self.path)
            return
        part = self.path.with_suffix(".part")
        done = np.load(self.sides) if self.sides.exists() and part.exists() else np.empty(0, np.int64)
        chunks = range(len(done), len(self.keep), CHUNK)
        for begin in counted(chunks, f"decoding images of {self.config.name}", scale=CHUNK, total=len(self.keep)):
            decoded = decode(self.source, self.keep[begin : begin + CHUNK], self.config.image_size)
            _store(part, begin, decoded.pixels.numpy(), len(self.keep))
            done = np.concatenate([done, decoded.native_sides.numpy()])
            with atomic_write(self.sides) as temporary, temporary.open("wb") as file:
                np.save(file, done)
        report = _report(self.source, self.keep, np.load(part, mmap_mode="r"), torch.from_numpy(done))
        write_json(self.report, report.as_json())
        os.replace(part, self.path)


def _report(source: LazyImageDataset, keep: Tensor, pixels: NDArray[np.uint8], sides: Tensor) -> DataReport:
    """What is to be said of how the images at `keep` were read."""
    surveyed = source.survey() if source.survey else DataReport()
    own = len(set(source.files(keep))) == len(keep)

    def name(row: int) -> str:
        index = int(keep[row])
        paths = [str(path) for path in source.files(keep[row : row + 1])]
        return (
            paths[0]
            if own and len(paths) == 1
            else " of ".join([f"image {index}", *(Path(path).name for path in paths[:1])])
        )

    return surveyed + reading_report(pixels, sides.numpy(), name)


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
    # Where how an image is read hangs on the others, on all of these.
    read = torch.arange(len(source.labels)) if source.survey else keep
    content = _content(list(dict.fromkeys(source.files(read))), folder)
    described = json.dumps([FORMAT, config.name, config.image_size, reading(config), content])
    key = hashlib.sha256(described.encode() + keep.numpy().tobytes()).hexdigest()[:32]
    return f"{as_file_name(config.name)}-{key}.npy"


def _content(paths: list[Path], folder: Path) -> str:
    """A digest of the files' contents; they are read only if one of them has another size or time than before."""
    seen = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        seen.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    note = folder / f"{seen.hexdigest()[:32]}{NOTE}"
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
