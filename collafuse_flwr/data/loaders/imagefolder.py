"""A folder of image files: a subfolder for each class, as torchvision's ImageFolder lays it out, or one class."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from collafuse_flwr.data.folders import (
    describe_endings,
    ending,
    files_below,
    find_split,
    named_classes,
    splits_of_classes,
    subfolders,
    unread_report,
)
from collafuse_flwr.data.image_decoding import EXTENSIONS, HEIC, has_heic
from collafuse_flwr.data.image_io import ImageFiles
from collafuse_flwr.data.images import UNLABELLED, LazyImageDataset
from collafuse_flwr.data.report import DataReport
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import data_error, existing_path, require_split

EXPECTED = f"a folder of images, or one with a subfolder of them per class ({', '.join(sorted(EXTENSIONS))})"


def load_folder(config: DataConfig) -> LazyImageDataset:
    """List the images below `dataset_path`, by class in order of their names; a folder without subfolders is one class.

    Hidden files and folders are skipped. Of `train`, `val` and `test`, at the top, in the only folder there, or in each
    class, only `data.split` is read. Subfolders without images are no classes, unless `data.class_names` lists them, so
    that clients with folders of their own agree on the classes.

    Raises:
        DataError: there are no images, or not of these classes, or (when they are read) an image is damaged, or differs
            in size from the others while `image_size` is 0.
        SettingError: `data.class_names` lacks a class that has images.
    """
    return list_classes(config, existing_path(config, EXPECTED), EXPECTED)


def list_classes(config: DataConfig, root: Path, expected: str, skipped: Collection[str] = ()) -> LazyImageDataset:
    """List the images in the subfolders of `root`, without those that are `skipped` (as class/name).

    Raises:
        DataError, SettingError: as `load_folder`.
    """
    if not os.path.isdir(root):
        raise data_error(config, f"this is not a folder; expected {expected}")
    try:
        listing = _Listing.of(config, root, skipped)
    except OSError as error:
        raise data_error(config, f"it cannot be listed ({error.strerror}: {error.filename})") from None
    if not any(listing.classes.values()):
        raise data_error(config, f"there are no images in it{describe_endings(listing.other)}; expected {expected}")
    names = named_classes(config, tuple(name for name, paths in listing.classes.items() if paths))
    files = [(path, label) for label, name in enumerate(names) for path in listing.classes.get(name, ())]
    pixels = ImageFiles(config, [path for path, _ in files])
    report = _report(listing, names)
    labels = torch.tensor([label for _, label in files])
    return LazyImageDataset(
        labels, names, pixels.read, pixels.files, native_sides=pixels.native_sides, report=report, survey=pixels.survey
    )


@dataclass(frozen=True)
class _Listing:
    """The image files of each class, what lies there besides, and what is to be said of splits."""

    classes: dict[str, list[str]]
    other: list[str]
    lines: tuple[str, ...]

    @classmethod
    def of(cls, config: DataConfig, root: Path, skipped: Collection[str]) -> _Listing:
        """List a folder.

        Raises:
            OSError: it cannot be listed.
            SettingError: there is no `data.split` in it.
        """
        split = find_split(config, root, _is_image)
        root, lines = (split.folder, (split.line,)) if split else (root, ())
        within = None if split else splits_of_classes(config, root, _is_image)
        require_split(config, bool(split or within) or config.split == "train", subfolders(root))
        if within is not None:
            lines = (f"each class has folders for its splits: only the images in {config.split} are read",)
        folders = {name: root / name for name in subfolders(root)} if within is None else within
        files = {name: _below(root, folder, skipped) for name, folder in folders.items()}
        classes = {name: list(filter(_is_image, paths)) for name, paths in files.items()}
        besides = [entry.path for entry in sorted(os.scandir(root), key=lambda own: own.name) if _is_seen_file(entry)]
        here = list(filter(_is_image, besides))
        if here and not any(classes.values()):
            classes = {UNLABELLED: here}
        read = {path for paths in classes.values() for path in paths}
        everything = [path for paths in files.values() for path in paths] + besides
        return cls(classes, [path for path in everything if path not in read], lines)


def _is_image(path: str) -> bool:
    return ending(path) in EXTENSIONS or (ending(path) in HEIC and has_heic())


def _is_seen_file(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and not entry.name.startswith(".")


def _below(root: Path, folder: Path, skipped: Collection[str]) -> list[str]:
    """All files below a folder in `root`, without those that are `skipped`."""
    paths = files_below(folder)
    return [path for path in paths if os.path.relpath(path, root).replace(os.sep, "/") not in skipped]


def _report(listing: _Listing, names: Collection[str]) -> DataReport:
    """What is to be said of the files and folders that are not read."""
    lines = [*listing.lines]
    if empty := [name for name, paths in listing.classes.items() if not paths and name not in names]:
        lines.append(f"folders without images are no classes: {', '.join(empty)}")
    return DataReport(tuple(lines)) + unread_report(listing.other)
