"""A folder of image files: a subfolder for each class, as torchvision's ImageFolder lays it out, or one class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.image_decoding import EXTENSIONS, HEIC, has_heic
from collafuse_flwr.data.image_io import ImageFiles
from collafuse_flwr.data.images import UNLABELLED, LazyImageDataset
from collafuse_flwr.data.report import DataReport
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import data_error, existing_path, require_split

EXPECTED = f"a folder of images, or one with a subfolder of them per class ({', '.join(sorted(EXTENSIONS))})"
#: What folders are called that are splits of a set and not its classes.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
#: What macOS leaves in archives beside the files.
LEFT_BEHIND = "__MACOSX"


def load_folder(config: DataConfig) -> LazyImageDataset:
    """List the images below `dataset_path`, by class in order of their names; a folder without subfolders is one class.

    Hidden files and folders are skipped. Of `train`, `val` and `test` only `data.split` is read. Subfolders without
    images are no classes, unless `data.class_names` lists them, so that clients with folders of their own agree on the
    classes.

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
        split = split_folder(config, root)
        listing = _Listing.of(split or root, skipped)
    except OSError as error:
        raise data_error(config, f"it cannot be listed ({error.strerror}: {error.filename})") from None
    if not any(listing.classes.values()):
        raise data_error(config, f"there are no images in it{_said(listing.other)}; expected {expected}")
    names = _class_names(config, listing)
    files = [(path, label) for label, name in enumerate(names) for path in listing.classes.get(name, ())]
    pixels = ImageFiles(config, [path for path, _ in files])
    report = _report(root, split, listing, names)
    labels = torch.tensor([label for _, label in files])
    return LazyImageDataset(
        labels, names, pixels.read, pixels.files, native_sides=pixels.native_sides, report=report, survey=pixels.survey
    )


@dataclass(frozen=True)
class _Listing:
    """The image files of each subfolder, or of the folder itself as one class, and what lies there besides."""

    classes: dict[str, list[str]]
    other: list[str]

    @classmethod
    def of(cls, root: Path, skipped: Collection[str]) -> _Listing:
        """List a folder.

        Raises:
            OSError: it cannot be listed.
        """
        wanted = EXTENSIONS | HEIC if has_heic() else EXTENSIONS
        found = {name: _below(root / name, skipped) for name in _folders(root)}
        classes = {name: [path for path in paths if _ending(path) in wanted] for name, paths in found.items()}
        besides = [entry.path for entry in sorted(os.scandir(root), key=lambda own: own.name) if _is_seen_file(entry)]
        here = [path for path in besides if _ending(path) in wanted]
        if here and not any(classes.values()):
            classes = {UNLABELLED: here}
        read = {path for paths in classes.values() for path in paths}
        everything = [path for paths in found.values() for path in paths] + besides
        return cls(classes, [path for path in everything if path not in read])


def split_folder(config: DataConfig, root: Path) -> Path | None:
    """The folder of the images of `data.split`, if all subfolders are splits; None if there are no splits.

    Raises:
        OSError: it cannot be listed.
        SettingError: there are others, or none, and `data.split` is not train.
    """
    folders = _folders(root)
    found = {own: name for name in folders for own, names in SPLITS.items() if name.lower() in names}
    if len(found) == len(folders) and config.split in found:
        return root / found[config.split]
    require_split(config, config.split == "train", folders)
    return None


def _folders(root: Path) -> list[str]:
    """The subfolders in order of their names, without those that are hidden or left behind by tools."""
    names = (entry.name for entry in os.scandir(root) if entry.is_dir())
    return sorted(name for name in names if not name.startswith(".") and name != LEFT_BEHIND)


def _is_seen_file(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and not entry.name.startswith(".")


def _below(folder: Path, skipped: Collection[str]) -> list[str]:
    """All files below a folder, in order of their names, without hidden ones and those that are `skipped`."""
    walked = []
    for here, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        # What is hidden is left behind by tools (.ipynb_checkpoints, ._001.png) and belongs to no class.
        folders[:] = [name for name in folders if not name.startswith(".") and name != LEFT_BEHIND]
        walked.append((here, sorted(name for name in names if not name.startswith("."))))
    paths = [os.path.join(here, name) for here, names in sorted(walked) for name in names]
    return [path for path in paths if os.path.relpath(path, folder.parent).replace(os.sep, "/") not in skipped]


def _raise(error: OSError) -> None:
    raise error


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _class_names(config: DataConfig, listing: _Listing) -> tuple[str, ...]:
    """The classes: those that hold images, or those that the settings list, among which these must be."""
    found = tuple(name for name, paths in listing.classes.items() if paths)
    if not config.class_names:
        return found
    unknown = [name for name in found if name not in config.class_names]
    if unknown or len(set(config.class_names)) < len(config.class_names):
        allowed = f"different names, among them those of all subfolders with images ({', '.join(found)})"
        raise SettingError("data.class_names", list(config.class_names), allowed)
    return config.class_names


def _report(root: Path, split: Path | None, listing: _Listing, names: Collection[str]) -> DataReport:
    """What is to be said of the files and folders that are not read."""
    lines, facts = [], {}
    if split:
        lines.append(f"{', '.join(_folders(root))} are splits and no classes: only the images in {split.name} are read")
    if empty := [name for name, paths in listing.classes.items() if not paths and name not in names]:
        lines.append(f"folders without images are no classes: {', '.join(empty)}")
    if listing.other:
        lines.append(f"files that are not read{_said(listing.other)}")
        facts["not_read"] = listing.other
    return DataReport(tuple(lines), facts)


def _said(paths: Iterable[str]) -> str:
    """The endings of files, and how often each is there; where the plug-in would read some, its name."""
    endings = Counter(_ending(path) or "without ending" for path in paths)
    said = ", ".join(f"{count} {ending}" for ending, count in endings.most_common())
    hint = "; the plug-in pillow-heif reads HEIC" if HEIC & endings.keys() and not has_heic() else ""
    return f" ({said}{hint})" if said else ""
