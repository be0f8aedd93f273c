"""Atomic writes: a file is either complete or absent."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def as_file_name(text: str) -> str:
    """A text as a part of a file's name, without what file systems or shells read otherwise."""
    return re.sub(r"[^\w.+-]+", "-", text)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to, and move it into place if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as a safetensors file, atomically, however they lie in memory."""
    with atomic_write(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata)


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON, atomically; nan and infinities become null, which every reader knows."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def write_json_lines(path: Path, rows: list[dict[str, object]]) -> None:
    """Write one JSON object a line, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text("".join(json.dumps(_plain(row), allow_nan=False) + "\n" for row in rows))


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
