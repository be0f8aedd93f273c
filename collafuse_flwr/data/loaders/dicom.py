"""A folder of DICOM files, whose series are volumes of the patients that they name."""

from __future__ import annotations

import importlib.util
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from collafuse_flwr.core.errors import DataError, SettingError
from collafuse_flwr.core.progress import counted
from collafuse_flwr.data.folders import describe_endings
from collafuse_flwr.data.images import LazyImageDataset
from collafuse_flwr.data.loaders.dicom_file import DicomFile
from collafuse_flwr.data.loaders.scan_files import ScanFile, list_scans
from collafuse_flwr.data.report import DataReport
from collafuse_flwr.data.settings import DataConfig, window
from collafuse_flwr.data.validation import SKIPPING, data_error
from collafuse_flwr.data.volumes import Volume, VolumeReport, scaled_slices, slice_dataset, used_slices

EXPECTED = "a folder of DICOM files, in whatever subfolders"
OWN_RANGE = "the window of its middle slice or else its own range"

#: Frames of a series in order: a file, and which of its frames.
Frames: TypeAlias = list[tuple[DicomFile, int]]


def load_dicom(config: DataConfig) -> LazyImageDataset:
    """List slices `data.slices` of all series; only headers are read here. Patients are those that the files name.

    Raises:
        DataError: there are none, or one is damaged, in colour or of too few slices.
        SettingError: pydicom is not installed, or `data.class_names` or `data.split` does not fit the folders.
    """
    if importlib.util.find_spec("pydicom") is None:
        allowed = "another one, as pydicom is not installed: `uv sync --extra dicom` installs it"
        raise SettingError("dataset", "dicom", allowed)
    scans, report = list_scans(config, EXPECTED, ("",)), VolumeReport(config, OWN_RANGE)
    headers, left = _headers(config, scans.files, report)
    volumes = []
    for (_, class_name), files in headers.items():
        try:
            volumes.append(_volume(config, files, class_name))
        except DataError as error:
            report.leave_out(files[0].path, error)
    return slice_dataset(config, volumes, scans.classes, report.report(volumes, scans.report + left))


def _headers(
    config: DataConfig, scans: Sequence[ScanFile], report: VolumeReport
) -> tuple[dict[tuple[str, str], list[DicomFile]], DataReport]:
    """The files of each series and class, and what is to be said of those that are no images."""
    from pydicom.errors import InvalidDicomError  # noqa: PLC0415 - installed by those who have such files

    series: dict[tuple[str, str], list[DicomFile]] = defaultdict(list)
    others, reasons = [], Counter[str]()
    for scan in counted(scans, "looking at DICOM files", total=len(scans)):
        try:
            file = DicomFile.of(scan.path)
        except InvalidDicomError:
            others.append(str(scan.path))
            continue
        except Exception as error:  # a damaged header raises what pydicom stumbles over first
            report.leave_out(scan.path, _damaged(config, scan.path, error))
            continue
        if file.unread:
            reasons[file.unread] += 1
        else:
            series[file.series, scan.class_name].append(file)
    lines = [f"files that are not of DICOM are left out{describe_endings(others)}"] if others else []
    if counts := ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()):
        lines.append(f"DICOM files that are no images of a scan are left out ({counts})")
    return series, DataReport(tuple(lines))


def _volume(config: DataConfig, files: list[DicomFile], class_name: str) -> Volume:
    first = files[0]
    if other := next((file for file in files if (file.size, file.patient) != (first.size, first.patient)), None):
        problem = f"{first.path} and {other.path} are of one series, but differ in size or patient"
        raise data_error(config, problem)
    ordered = sorted(files, key=lambda file: (file.place, file.path))
    frames = [(file, frame) for file in ordered for frame in range(file.frames)]
    begin, count = used_slices(config, f"the series of {first.path} has {len(frames)} slices", len(frames))
    used = frames[begin : begin + count]
    paths = tuple(dict.fromkeys(file.path for file, _ in used))
    return Volume(paths, first.patient, first.size, len(used), partial(_slices, config, used), class_name)


def _slices(config: DataConfig, frames: Frames) -> NDArray[np.uint8]:
    """Slices of one series as (slices, height, width), uint8."""
    held: dict[Path, NDArray[np.float32]] = {}
    for file in dict.fromkeys(file for file, _ in frames):
        try:
            held[file.path] = file.values()
        except Exception as error:  # a damaged file raises what pydicom or a decoder stumbles over first
            raise _damaged(config, file.path, error) from None
    middle = frames[len(frames) // 2][0]
    values = np.stack([held[file.path][frame] for file, frame in frames])
    grey = scaled_slices(values, window(config) or middle.window, config, middle.path)
    return np.iinfo(np.uint8).max - grey if middle.white_first else grey


def _damaged(config: DataConfig, path: Path, error: Exception) -> DataError:
    return data_error(config, f"{path} cannot be read as a DICOM image ({error}); {SKIPPING}")
