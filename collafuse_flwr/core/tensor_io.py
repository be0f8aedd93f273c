"""Tensors on disk: safetensors files, complete or absent, with a checksum that is verified when they are read."""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from collafuse_flwr.core.atomic_io import atomic_write
from collafuse_flwr.core.errors import DamagedError

#: The one entry of a file's metadata, JSON that holds the rest: several would come in an order of chance.
ENTRY = "metadata"
#: In it, beside what the file was given.
CHECKSUM = "crc32"


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None, keep: Path | None = None
) -> None:
    """Write tensors as a safetensors file, atomically, however they lie in memory; what was there goes to `keep`."""
    own = {name: value.contiguous() for name, value in tensors.items()}
    metadata = dict(metadata or {})
    with atomic_write(path) as temporary:
        save_file(own, temporary, {ENTRY: json.dumps(metadata | {CHECKSUM: _checksum(own, metadata)})})
        if keep is not None and path.exists():
            os.replace(path, keep)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of such a file.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it is not as it was written.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata: dict[str, str] = json.loads((file.metadata() or {})[ENTRY])
        tensors = load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedError(path) from error
    if metadata.pop(CHECKSUM, None) != _checksum(tensors, metadata):
        raise DamagedError(path)
    return tensors, metadata


def newest_undamaged(paths: Iterable[Path]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The first of some files, newest first, that is not damaged; a line on standard error says what was not taken.

    Raises:
        DamagedError: all are.
    """
    damaged: list[DamagedError] = []
    for path in paths:
        try:
            read = read_tensors(path)
        except DamagedError as error:
            damaged.append(error)
            continue
        for reason in damaged:
            print(f"warning: {reason}; {path.name}, the one before, is taken instead", file=sys.stderr)
        return read
    raise damaged[0]


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """CRC-32 of everything that a file holds."""
    crc = zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), crc)
        crc = zlib.crc32(value.detach().cpu().flatten().view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
