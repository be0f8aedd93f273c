"""Atomic writes: a file is either complete or absent."""

from __future__ import annotations

import json
import os
import re
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: The end of a line that was cut off.
TORN = b" #torn\n"
#: The end of a line with a checksum of all before it.
_CHECKSUM = re.compile(rb', "crc32": "([0-9a-f]{8})"}$')


def create_exclusively(path: Path, data: bytes) -> bool:
    """Create a file of mode 0600, whole and on the disk when this returns; False if another is there already.

    Of two processes that start at once one creates it; neither ever reads half of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    # Nobody else may open it, not even before it holds anything.
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        temporary.write_bytes(data)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # Unlike a rename, a link never takes the place of what is there.
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def append_json_lines(path: Path, rows: Iterable[Mapping[str, object]], durable: bool = True) -> list[dict[str, Any]]:
    """Append one JSON object a line to a file of mode 0600; they are on the disk when this returns, if `durable`.

    The last value of each is its checksum. Beside the file lies another with its length, so that lines that are gone
    from its end are missed as well.

    Returns:
        The objects as they will be read.

    Raises:
        OSError: they could not be written whole; a line that was cut off is none.
    """
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = b"".join(_with_checksum(json.dumps(_plain(dict(row)), allow_nan=False).encode()) for row in rows)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        if not new and file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            # A line that was cut off by a crash is marked, so that it is not taken for damage.
            lines = lines if file.read(1) == b"\n" else TORN + lines
        left = memoryview(lines)
        while left:
            # A signal, or a disk that is nearly full, has it write less than it was given.
            left = left[file.write(left) :]
        if durable:
            os.fsync(descriptor)
        length = file.tell()
    if new and durable:
        sync_folder(path.parent)
    with atomic_write(_length_of(path)) as temporary:
        temporary.write_text(str(length))
    return _objects(lines, _CHECKSUM)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of one a line, without a line that was cut off; none if there is no file.

    Raises:
        ValueError: a line is damaged.
    """
    return _objects(path.read_bytes()) if path.exists() else []


def read_appended(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that `append_json_lines` has written; none if there has never been one.

    Raises:
        ValueError: it is not as it was written.
    """
    data = path.read_bytes() if path.exists() else b""
    length = _length_of(path)
    if length.exists() and int(length.read_text() or 0) > len(data):
        raise ValueError("lines are missing")
    return _objects(data, _CHECKSUM)


def _with_checksum(line: bytes) -> bytes:
    return line[:-1] + b', "crc32": "%08x"}\n' % zlib.crc32(line[:-1])


def _length_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.length")


def _objects(data: bytes, checksum: re.Pattern[bytes] | None = None) -> list[dict[str, Any]]:
    """The objects of whole lines, but for those that were cut off; where lines have a `checksum`, without it."""
    whole = [line for line in data.split(b"\n")[:-1] if not line.endswith(TORN.strip())]
    if checksum is None:
        return [json.loads(line) for line in whole]
    rows = []
    for line in whole:
        end = checksum.search(line)
        if end is None or int(end[1], 16) != zlib.crc32(line[: end.start()]):
            raise ValueError("a checksum is another")
        rows.append(json.loads(line[: end.start()] + b"}"))
    return rows


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, which nobody else may enter."""
    for missing in reversed([own for own in (folder, *folder.parents) if not own.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


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
