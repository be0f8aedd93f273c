"""Animals with Attributes 2: animals of 50 kinds, each kind with 85 attributes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from collafuse_flwr.data.image_io import ImageFiles
from collafuse_flwr.data.images import ImageMetadata, LazyImageDataset
from collafuse_flwr.data.loaders.imagefolder import list_classes
from collafuse_flwr.data.report import DataReport
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import data_error, read_lines, unpacked

IMAGES, CLASSES, PREDICATES, MATRIX = "JPEGImages", "classes.txt", "predicates.txt", "predicate-matrix-binary.txt"
EXPECTED = (
    f"the folder that holds {IMAGES}/<class>/*.jpg, {CLASSES}, {PREDICATES} and {MATRIX}, or folders of the classes "
    "alone, or holds these in Animals_with_Attributes2/, as it is unpacked"
)


def load_awa2(config: DataConfig) -> LazyImageDataset:
    """List the images by class, in the order of classes.txt; all have the attributes (predicates) of their class.

    Where there is no list at all but folders of the classes, these are read as an imagefolder is, without attributes.

    Raises:
        DataError: a file or folder is missing or does not have the official form, or (when it is read) an image is
            damaged, or they differ in size while `image_size` is 0.
    """
    root = unpacked(config, "Animals_with_Attributes2", EXPECTED)
    if not any((root / name).exists() for name in (CLASSES, PREDICATES, MATRIX)):
        folders = root / IMAGES if (root / IMAGES).is_dir() else root
        source = list_classes(config, folders, EXPECTED)
        line = f"there is no {CLASSES}, {PREDICATES} or {MATRIX}: the classes are the folders, without attributes"
        return replace(source, report=source.report + DataReport((line,)))
    classes, predicates = _names(config, root / CLASSES), _names(config, root / PREDICATES)
    matrix = _matrix(config, root / MATRIX, (len(classes), len(predicates)))
    files = [_files(config, root / IMAGES / name) for name in classes]
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(part) for part in files]))
    images = ImageFiles(config, [path for part in files for path in part], rgb=True)
    metadata = ImageMetadata(torch.from_numpy(matrix)[labels], predicates)
    return LazyImageDataset(labels, classes, images.read, images.files, metadata, images.native_sides)


def _names(config: DataConfig, path: Path) -> tuple[str, ...]:
    """The second column of rows `index name`, whose indices must count from 1."""
    rows = [line.split() for line in read_lines(config, path, EXPECTED)]
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or row[0] != str(number):
            raise data_error(config, f"row {number} of {path.name} is {' '.join(row)!r}; expected '{number} name'")
    names = tuple(name for _, name in rows)
    if not names or len(set(names)) < len(names):
        raise data_error(config, f"{path.name} is empty or gives a name twice; expected {EXPECTED}")
    return names


def _matrix(config: DataConfig, path: Path, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Which class (row) has which attribute (column), 0 or 1."""
    rows = [line.split() for line in read_lines(config, path, EXPECTED)]
    if len(rows) != shape[0] or any(len(row) != shape[1] or not {"0", "1"}.issuperset(row) for row in rows):
        raise data_error(
            config, f"{path.name} is not {shape[0]} rows (classes) of {shape[1]} values (predicates), 0 or 1"
        )
    return np.array(rows).astype(np.uint8)


def _files(config: DataConfig, folder: Path) -> list[str]:
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    files = [f"{folder}{os.sep}{name}" for name in names if name.lower().endswith(".jpg") and name[0] != "."]
    if not files:
        raise data_error(config, f"there are no images (.jpg) in {folder.absolute()}; expected {EXPECTED}")
    return files
