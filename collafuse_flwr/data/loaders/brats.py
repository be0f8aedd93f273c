"""BraTS 2020: axial T1 slices of brains with a glioma."""

from __future__ import annotations

import csv
import functools
import gzip
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.data.images import UNLABELLED, ImageMetadata, LazyImageDataset, center_crop_resize
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import data_error, read_lines, unpacked

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

#: The axial slices that are used of a volume, counted upwards from 0: FIRST..FIRST + SLICES - 1 show much of the brain.
FIRST, SLICES = 60, 40
#: The file with the grade of each patient's tumour: its columns, and the grades.
MAPPING, PATIENT, GRADE, GRADES = "name_mapping.csv", "BraTS_2020_subject_ID", "Grade", ("HGG", "LGG")
PREFIX = "BraTS20_Training_"
EXPECTED = (
    f"the folder that holds {PREFIX}<number>/{PREFIX}<number>_t1.nii.gz (or .nii) and (for the grades) {MAPPING}, or "
    "holds these in MICCAI_BraTS2020_TrainingData/, as it is unpacked"
)
#: Grey values go from 0 to this quantile of the voxels above 0. The very brightest (vessels, artefacts) are cut off: to
#: the maximum, one of them would make the whole brain dark.
BRIGHTEST = 0.999
#: Where the axes of a volume must point for upright pictures as radiologists see them, from below: columns towards the
#: patient's left, rows towards the back, slices upwards.
UPRIGHT = "LPS"


def load_brats2020(config: DataConfig) -> LazyImageDataset:
    """List slices 60..99 of every patient's T1 volume; only the headers of the volumes are read here.

    Raises:
        DataError: a volume is missing, damaged, not of three axes or of too few slices, or a grade is missing.
    """
    root = unpacked(config, "MICCAI_BraTS2020_TrainingData", EXPECTED)
    folders = sorted(root.glob(f"{PREFIX}*/"))
    if not folders:
        raise data_error(config, f"there is no {PREFIX}<number> in it; expected {EXPECTED}")
    paths = [_path(config, folder) for folder in folders]
    sides = _sides(config, paths)
    grades, classes = _grades(config, root / MAPPING, [folder.name for folder in folders])
    patients = torch.arange(len(paths)).repeat_interleave(SLICES)

    @functools.lru_cache(maxsize=1)  # indices ascend, so one volume is enough
    def slices(patient: int) -> Tensor:
        return _slices(config, paths[patient])

    def read(indices: Tensor) -> Tensor:
        inner, of = indices % SLICES, patients[indices]
        parts = [slices(patient)[inner[of == patient]] for patient in of.unique().tolist()]
        return torch.cat([center_crop_resize(part, config.image_size) for part in parts])

    def files(indices: Tensor) -> list[Path]:
        return [paths[patient] for patient in patients[indices].unique().tolist()]

    metadata = ImageMetadata(groups={"patient": patients}, group_key="patient")
    return LazyImageDataset(grades[patients], classes, read, files, metadata, lambda indices: sides[patients[indices]])


def _path(config: DataConfig, folder: Path) -> Path:
    paths = [folder / f"{folder.name}_t1{suffix}" for suffix in (".nii", ".nii.gz")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise data_error(config, f"there is no file {paths[1].absolute()} or .nii; expected {EXPECTED}")
    return path


@contextmanager
def _volume(config: DataConfig, path: Path) -> Iterator[tuple[Nifti1Image, NDArray[np.int64]]]:
    """The volume, of which only the header is read so far, and for each axis its place in UPRIGHT and its sign."""
    from nibabel import nifti1, orientations  # noqa: PLC0415 - slow, and only this data set needs it

    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            image = nifti1.Nifti1Image.from_stream(file)
            axes = orientations.ornt_transform(
                orientations.io_orientation(image.affine), orientations.axcodes2ornt(UPRIGHT)
            ).astype(np.int64)
            if len(image.shape) != 3 or image.shape[_upward(axes)] < FIRST + SLICES:
                needed = f"a volume of three axes and at least {FIRST + SLICES} axial slices"
                raise data_error(config, f"{path} has shape {image.shape}; expected {needed}")
            yield image, axes
            file.read(1)  # if all has been read, gzip compares the check sum here
    except DataError:
        raise
    except Exception as error:  # a damaged file raises what nibabel, gzip or numpy stumble over first
        raise data_error(config, f"{path} cannot be read as a NIfTI volume ({error})") from None


def _upward(axes: NDArray[np.int64]) -> int:
    """The axis along which slices are stacked."""
    return int(axes[:, 0].tolist().index(UPRIGHT.index("S")))


def _sides(config: DataConfig, paths: Sequence[Path]) -> Tensor:
    """The shorter side of each patient's pictures, from the headers; if not resized, they must be of one size."""
    first, sides = None, []
    for path in paths:
        with _volume(config, path) as (image, axes):
            size = tuple(np.delete(image.shape, _upward(axes)).tolist())
        first = first or size
        sides.append(min(size))
        if not config.image_size and size != first:
            raise DataError(
                f"`image_size` = 0 needs slices of one size, but those of {paths[0].name} are {first[0]} x {first[1]} "
                f"and those of {path.name} {size[0]} x {size[1]}; set it to the pixels a side to resize them to"
            )
    return torch.tensor(sides)


def _slices(config: DataConfig, path: Path) -> Tensor:
    """The slices of one volume as pictures (SLICES, 1, H, W), uint8, all on one scale of grey."""
    from nibabel import orientations  # noqa: PLC0415 - as above

    with _volume(config, path) as (image, axes):
        upward, where = _upward(axes), [slice(None)] * 3
        # An axis that points downwards counts from the other end.
        first = FIRST if axes[upward, 1] > 0 else image.shape[upward] - FIRST - SLICES
        where[upward] = slice(first, first + SLICES)
        part = np.asarray(image.dataobj[tuple(where)], np.float32)
        # The last voxel, which is not there if the file was cut short behind the slices.
        image.dataobj[-1, -1, -1]
        voxels = np.nan_to_num(orientations.apply_orientation(part, axes).transpose(2, 1, 0), posinf=0, neginf=0)
        if not voxels.max() > 0:
            raise data_error(config, f"{path} has no voxel above 0 in slices {FIRST} to {FIRST + SLICES - 1}")
    brightest = np.quantile(voxels[voxels > 0], BRIGHTEST)
    return torch.from_numpy((voxels / brightest).clip(0, 1) * 255).round().to(torch.uint8).unsqueeze(1)


def _grades(config: DataConfig, path: Path, patients: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """The class of every patient, shape (P,), and the names of the classes."""
    if not path.exists():
        return torch.zeros(len(patients), dtype=torch.int64), (UNLABELLED,)
    rows = list(csv.DictReader(read_lines(config, path, EXPECTED)))
    of = {row.get(PATIENT): row.get(GRADE) for row in rows}
    for patient in patients:
        if of.get(patient) not in GRADES:
            problem = f"{path.name} gives {patient} the {GRADE} {of.get(patient)!r}"
            raise data_error(config, f"{problem}; expected columns {PATIENT} and {GRADE} with {' or '.join(GRADES)}")
    return torch.tensor([GRADES.index(str(of[patient])) for patient in patients]), GRADES
