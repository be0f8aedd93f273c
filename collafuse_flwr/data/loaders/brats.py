"""BraTS 2020: axial T1 slices of brains with a glioma."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from collafuse_flwr.data.image_decoding import scale_to_bytes
from collafuse_flwr.data.images import UNLABELLED, LazyImageDataset
from collafuse_flwr.data.loaders.nifti_file import NiftiFile
from collafuse_flwr.data.report import DataReport
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import data_error, read_lines, unpacked
from collafuse_flwr.data.volumes import BRIGHTEST, Volume, slice_dataset

#: The axial slices that are used of a volume, counted upwards from 0: FIRST..FIRST + SLICES - 1 show much of the brain.
FIRST, SLICES = 60, 40
#: The file with the grade of each patient's tumour: its columns, and the grades.
MAPPING, PATIENT, GRADE, GRADES = "name_mapping.csv", "BraTS_2020_subject_ID", "Grade", ("HGG", "LGG")
PREFIX = "BraTS20_Training_"
EXPECTED = (
    f"the folder that holds {PREFIX}<number>/{PREFIX}<number>_t1.nii.gz (or .nii) and (for the grades) {MAPPING}, or "
    "holds these in MICCAI_BraTS2020_TrainingData/, as it is unpacked"
)
#: How T1 volumes end, whatever else they are called.
T1 = re.compile(r".*_t1\.nii(\.gz)?", re.IGNORECASE)


def load_brats2020(config: DataConfig) -> LazyImageDataset:
    """List slices 60..99 of every patient's T1 volume; only the headers of the volumes are read here.

    A patient without one is left out, and where it has another name, it is taken if it is the only one.

    Raises:
        DataError: a volume is damaged, not of three axes or of too few slices, or there is none, or a grade is missing.
    """
    root = unpacked(config, "MICCAI_BraTS2020_TrainingData", EXPECTED)
    folders = sorted(root.glob(f"{PREFIX}*/"))
    if not folders:
        raise data_error(config, f"there is no {PREFIX}<number> in it; expected {EXPECTED}")
    paths = {folder.name: path for folder in folders if (path := _t1(config, folder))}
    if not paths:
        raise data_error(config, f"no patient has a T1 volume; expected {EXPECTED}")
    grades, classes = _grades(config, root / MAPPING, list(paths))
    volumes = [
        Volume((path,), patient, own.size, SLICES, partial(_slices, config, own), grade)
        for (patient, path), grade in zip(paths.items(), grades, strict=True)
        if (own := NiftiFile.of(config, path, "axial", FIRST + SLICES))
    ]
    return slice_dataset(config, volumes, classes, _quirks(folders, paths))


def _t1(config: DataConfig, folder: Path) -> Path | None:
    """A patient's T1 volume; None if there is none."""
    for suffix in (".nii", ".nii.gz"):
        if (path := folder / f"{folder.name}_t1{suffix}").is_file():
            return path
    others = sorted(path for path in folder.iterdir() if T1.fullmatch(path.name))
    if len(others) > 1:
        names = ", ".join(path.name for path in others)
        raise data_error(config, f"{folder} has several T1 volumes ({names}); expected {EXPECTED}")
    return next(iter(others), None)


def _quirks(folders: Sequence[Path], paths: dict[str, Path]) -> DataReport:
    """What is to be said of patients whose files are not as they should be."""
    lines = [
        f"the T1 volume of {patient} has another name, {path.name}, and is taken as the only one there"
        for patient, path in paths.items()
        if not path.name.startswith(f"{patient}_t1.")
    ]
    if missing := [folder.name for folder in folders if folder.name not in paths]:
        lines.append(f"patients without a T1 volume are left out: {', '.join(missing)}")
    return DataReport(tuple(lines), {"left_out": missing} if missing else {})


def _slices(config: DataConfig, file: NiftiFile) -> NDArray[np.uint8]:
    """The slices of one volume, (SLICES, H, W), from 0 to the brightest."""
    voxels = np.nan_to_num(file.values(config, FIRST, SLICES), posinf=0, neginf=0)
    if not voxels.max() > 0:
        raise data_error(config, f"{file.path} has no voxel above 0 in slices {FIRST} to {FIRST + SLICES - 1}")
    return scale_to_bytes(voxels, (0.0, float(np.quantile(voxels[voxels > 0], BRIGHTEST))))


def _grades(config: DataConfig, path: Path, patients: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The class of every patient, and all classes."""
    if not path.exists():
        return [UNLABELLED] * len(patients), (UNLABELLED,)
    rows = list(csv.DictReader(read_lines(config, path, EXPECTED)))
    of = {row.get(PATIENT): row.get(GRADE) for row in rows}
    for patient in patients:
        if of.get(patient) not in GRADES:
            problem = f"{path.name} gives {patient} the {GRADE} {of.get(patient)!r}"
            raise data_error(config, f"{problem}; expected columns {PATIENT} and {GRADE} with {' or '.join(GRADES)}")
    return [str(of[patient]) for patient in patients], GRADES
