"""A folder of NIfTI volumes, whose slices are the images."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.core.progress import counted
from collafuse_flwr.data.images import LazyImageDataset
from collafuse_flwr.data.loaders.nifti_file import NiftiFile
from collafuse_flwr.data.loaders.scan_files import ScanFile, list_scans
from collafuse_flwr.data.settings import DataConfig, window
from collafuse_flwr.data.volumes import Volume, VolumeReport, scaled_slices, slice_dataset, used_slices

EXPECTED = "a folder of volumes (.nii, .nii.gz), with a subfolder for each patient where one has several"
OWN_RANGE = "its own range but for 0.1 % at either end"


def load_nifti(config: DataConfig) -> LazyImageDataset:
    """List slices `data.slices` along `data.slice_axis` of all volumes; only their headers are read here.

    Raises:
        DataError: there are none, or one is damaged, not of three axes or of too few slices.
        SettingError: `data.class_names` or `data.split` does not fit the folders.
    """
    scans = list_scans(config, EXPECTED, (".nii", ".nii.gz"))
    volumes, report = [], VolumeReport(config, OWN_RANGE)
    for scan in counted(scans.files, "looking at volumes", total=len(scans.files)):
        try:
            volumes.append(_volume(config, scan))
        except DataError as error:
            report.leave_out(scan.path, error)
    return slice_dataset(config, volumes, scans.classes, report.report(volumes, scans.report))


def _volume(config: DataConfig, scan: ScanFile) -> Volume:
    file = NiftiFile.of(config, scan.path, config.slice_axis, least=1)
    first, count = used_slices(config, f"{scan.path} has {file.count} {config.slice_axis} slices", file.count)
    read = partial(_slices, config, file, first, count)
    return Volume((scan.path,), scan.patient, file.size, count, read, scan.class_name)


def _slices(config: DataConfig, file: NiftiFile, first: int, count: int) -> NDArray[np.uint8]:
    return scaled_slices(file.values(config, first, count), window(config), config, file.path)
