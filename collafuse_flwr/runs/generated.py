"""Folders of generated images: a PNG file each, a grid of all, and generated.json with what they are."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from collafuse_flwr.core.atomic_io import write_json

#: What the images in a folder are.
DESCRIPTION = "generated.json"
#: How a folder begins that is not yet whole.
_UNFINISHED = ".unfinished-"


def write_images(folder: Path, images: Tensor, classes: Tensor | None, description: Mapping[str, object]) -> None:
    """Write images in [-1, 1], shape (n, channels, size, size), and their classes (n,); the whole folder, or nothing.

    `folder` is new, or empty.
    """
    # Slow to import, and a deployed client is a new process for every message.
    from collafuse_flwr.runs.figures import save_grid, save_picture  # noqa: PLC0415

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(_UNFINISHED + secrets.token_hex(8))
    width = len(str(len(images) - 1))
    try:
        for index, image in enumerate(images):
            suffix = f"-class-{int(classes[index])}" if classes is not None else ""
            save_picture(image, temporary / f"{index:0{width}d}{suffix}.png")
        save_grid(images, temporary / "grid.png")
        write_json(temporary / DESCRIPTION, dict(description) | {"num_images": len(images)})
        # A folder takes the place of an empty one.
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def next_folder(root: Path) -> Path:
    """The next of the numbered folders below `root`; what a killed process left of one is cleared away."""
    for unfinished in root.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    numbers = [int(path.name) for path in root.glob("*") if path.name.isdecimal()]
    return root / f"{max(numbers, default=0) + 1:04d}"


def count_images(root: Path) -> int:
    """How many images lie in and below a folder."""
    return sum(int(json.loads(path.read_text())["num_images"]) for path in root.rglob(DESCRIPTION))
