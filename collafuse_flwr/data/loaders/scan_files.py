"""Files of scans in a folder: which are read, and of which patient and class each is."""

from __future__ import annotations

import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path

from collafuse_flwr.data.folders import (
    describe_endings,
    files_below,
    find_split,
    named_classes,
    subfolders,
    unread_report,
)
from collafuse_flwr.data.images import UNLABELLED
from collafuse_flwr.data.report import DataReport
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import data_error, existing_path, require_split


@dataclass(frozen=True)
class ScanFile:
    """A file, whose scan it is, and its class."""

    path: Path
    patient: str
    class_name: str


@dataclass(frozen=True)
class ScanFiles:
    """The files of a folder, their classes, and what is to be said of the others."""

    files: list[ScanFile]
    classes: tuple[str, ...]
    report: DataReport


def list_scans(config: DataConfig, expected: str, endings: tuple[str, ...]) -> ScanFiles:
    """List the files whose names fit `data.file_pattern` and have one of the `endings`.

    The folder at the top is the patient, or, with `data.class_names`, the class, and the patient the one below it. A
    file that lies in no folder of a patient is one of its own; one that lies in none of a class is not read.

    Raises:
        DataError: there are none.
        SettingError: `data.class_names` lacks a folder at the top, or there is no such split.
    """
    top = existing_path(config, expected)
    if not os.path.isdir(top):
        raise data_error(config, f"this is not a folder; expected {expected}")
    try:
        split = find_split(config, top, lambda path: _fits(config, path, endings))
        require_split(config, bool(split) or config.split == "train", subfolders(top))
        root = split.folder if split else top
        paths = files_below(root)
    except OSError as error:
        raise data_error(config, f"it cannot be listed ({error.strerror}: {error.filename})") from None
    scans = {path: _scan(config, root, Path(path)) for path in paths if _fits(config, path, endings)}
    files = [file for file in scans.values() if file]
    if not files:
        problem = f"no file in it fits `data.file_pattern` = {config.file_pattern!r}{describe_endings(paths)}"
        raise data_error(config, f"{problem}; expected {expected}")
    classes = named_classes(config, tuple(sorted({file.class_name for file in files})))
    report = DataReport((split.line,) if split else ()) + unread_report([path for path in paths if not scans.get(path)])
    return ScanFiles(files, classes, report)


def _fits(config: DataConfig, path: str, endings: tuple[str, ...]) -> bool:
    return fnmatch.fnmatch(os.path.basename(path), config.file_pattern) and path.lower().endswith(endings)


def _scan(config: DataConfig, root: Path, path: Path) -> ScanFile | None:
    folders = path.relative_to(root).parts[:-1]
    if not config.class_names:
        return ScanFile(path, folders[0] if folders else path.name, UNLABELLED)
    return ScanFile(path, folders[1] if len(folders) > 1 else path.name, folders[0]) if folders else None
