"""What folders of data hold: files, subfolders that are splits or classes, and what tools leave behind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.image_decoding import HEIC, has_heic
from collafuse_flwr.data.report import DataReport
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import require_split

#: What is called a split of a set, and is no class.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
#: What macOS leaves in archives beside the files.
LEFT_BEHIND = "__MACOSX"


def subfolders(root: Path) -> list[str]:
    """The subfolders in order of their names, without those that are hidden or left behind by tools.

    Raises:
        OSError: it cannot be listed.
    """
    names = (entry.name for entry in os.scandir(root) if entry.is_dir())
    return sorted(name for name in names if not name.startswith(".") and name != LEFT_BEHIND)


def files_below(folder: Path) -> list[str]:
    """The paths of all files below a folder, in order of their names, without hidden ones.

    Raises:
        OSError: a folder cannot be listed.
    """
    return sorted(_walk(folder), key=os.path.split)


def _walk(folder: Path) -> Iterator[str]:
    """The paths of all files below a folder, in any order, without hidden ones; each folder is entered once."""
    entered = {os.path.realpath(folder)}
    entered |= {str(parent) for parent in Path(*entered).parents}
    for here, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        # What is hidden is left behind by tools (.ipynb_checkpoints, ._001.png) and belongs to no class.
        seen = [name for name in sorted(folders) if not name.startswith(".") and name != LEFT_BEHIND]
        real = {name: os.path.realpath(os.path.join(here, name)) for name in seen}
        # A link may lead back to where it lies, or to what was read already.
        folders[:] = [name for name in seen if real[name] not in entered]
        entered |= {real[name] for name in folders}
        yield from (os.path.join(here, name) for name in names if not name.startswith("."))


@dataclass(frozen=True)
class Split:
    """The folder of the split that is read, and the line that says so."""

    folder: Path
    line: str


def find_split(config: DataConfig, root: Path, is_read: Callable[[str], bool]) -> Split | None:
    """The folder of `data.split`, if all subfolders that hold data are splits; None if there are no splits.

    They may lie in the only subfolder, as archives unpack to. `is_read` says of a file whether it is data.

    Raises:
        OSError: it cannot be listed.
        SettingError: there are splits, but not `data.split`.
    """
    names = _with_data(root, is_read)
    if len(names) == 1 and len(_splits(inner := _with_data(root / names[0], is_read))) == len(inner) > 1:
        root, names = root / names[0], inner
    folder_of_split = _splits(names)
    if names and len(folder_of_split) == len(names):
        require_split(config, config.split in folder_of_split, names)
        name = folder_of_split[config.split]
        are = "are splits and no classes" if len(names) > 1 else "is a split and no class"
        return Split(root / name, f"{', '.join(names)} {are}: only the images in {name} are read")
    return None


def splits_of_classes(config: DataConfig, root: Path, is_read: Callable[[str], bool]) -> dict[str, Path] | None:
    """The folder of `data.split` in each folder of a class, if these hold nothing but splits; None if they do not.

    Raises:
        OSError: one cannot be listed.
    """
    classes = {name: _with_data(root / name, is_read) for name in _with_data(root, is_read)}
    splits = {name: _splits(folders) for name, folders in classes.items()}
    beside = any(is_read(path.name) for name in classes for path in (root / name).iterdir() if path.is_file())
    there = {own for folders in splits.values() for own in folders}
    if beside or len(there) < 2 or any(len(splits[name]) < len(folders) for name, folders in classes.items()):
        return None
    return {name: root / name / folders[config.split] for name, folders in splits.items() if config.split in folders}


def _splits(names: Sequence[str]) -> dict[str, str]:
    """What is the folder of each split, of some names of folders."""
    return {own: name for name in names for own, words in SPLITS.items() if name.lower() in words}


def _with_data(root: Path, is_read: Callable[[str], bool]) -> list[str]:
    """The subfolders that hold data, at whatever depth."""
    return [name for name in subfolders(root) if any(is_read(file) for file in _walk(root / name))]


def unread_report(paths: Sequence[str]) -> DataReport:
    """What is to be said of files that are not read."""
    if not paths:
        return DataReport()
    return DataReport((f"files that are not read{describe_endings(paths)}",), {"not_read": list(paths)})


def describe_endings(paths: Iterable[str]) -> str:
    """The endings of files, and how often each is there; where the plug-in would read some, its name."""
    endings = Counter(ending(path) or "without ending" for path in paths)
    listed = ", ".join(f"{count} {own}" for own, count in endings.most_common())
    hint = "; the plug-in pillow-heif reads HEIC" if HEIC & endings.keys() and not has_heic() else ""
    return f" ({listed}{hint})" if listed else ""


def ending(path: str) -> str:
    """The ending of a file's name in lower case, with its dot."""
    return os.path.splitext(path)[1].lower()


def named_classes(config: DataConfig, class_names: tuple[str, ...]) -> tuple[str, ...]:
    """The classes: those of the data set, or those that the settings list, among which these must be.

    Raises:
        SettingError: `data.class_names` lacks one of them, or has a name twice.
    """
    if not config.class_names:
        return class_names
    unknown = [name for name in class_names if name not in config.class_names]
    if unknown or len(set(config.class_names)) < len(config.class_names):
        allowed = f"different names, among them those of all classes with images ({', '.join(class_names)})"
        raise SettingError("data.class_names", list(config.class_names), allowed)
    return config.class_names


def _raise(error: OSError) -> None:
    raise error
