"""What folders of data hold: files, subfolders that are splits or classes, and what tools leave behind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
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
    walked = []
    for here, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        # What is hidden is left behind by tools (.ipynb_checkpoints, ._001.png) and belongs to no class.
        folders[:] = [name for name in folders if not name.startswith(".") and name != LEFT_BEHIND]
        walked.append((here, sorted(name for name in names if not name.startswith("."))))
    return [os.path.join(here, name) for here, names in sorted(walked) for name in names]


def split_folder(config: DataConfig, root: Path) -> Path | None:
    """The folder of `data.split`, if all subfolders are splits; None if there are no splits.

    Raises:
        OSError: it cannot be listed.
        SettingError: there are others, or none, and `data.split` is not train.
    """
    folders = subfolders(root)
    folder_of_split = {own: name for name in folders for own, names in SPLITS.items() if name.lower() in names}
    if len(folder_of_split) == len(folders) and config.split in folder_of_split:
        return root / folder_of_split[config.split]
    require_split(config, config.split == "train", folders)
    return None


def split_lines(root: Path, split: Path | None) -> tuple[str, ...]:
    """The line that says which of the splits is read; none where there are no splits."""
    if split is None:
        return ()
    return (f"{', '.join(subfolders(root))} are splits and no classes: only the images in {split.name} are read",)


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
