"""Folders of DICOM files, as scanners and archives leave them."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.images import ImageSet
from tests.unit.data.sets import at, refused

RNG = np.random.default_rng(0)


def stored(*shape: int) -> NDArray[np.int16]:
    return RNG.integers(0, 3000, shape, dtype=np.int16)


def write(path: Path, values: NDArray[Any], series: str, patient: str = "p", **tags: Any) -> None:
    """A slice of CT, whose values are Hounsfield units + 1024; `tags` change or remove (None) what it says."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    own = pydicom.Dataset()
    own.file_meta = meta
    said = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "PatientID": patient,
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": f"1.2.3.{series}",
        "Modality": "CT",
        "Rows": values.shape[-2],
        "Columns": values.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "PixelData": values.tobytes(),
    }
    for name, value in (said | tags).items():
        if value is not None:
            setattr(own, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    own.save_as(path, enforce_file_format=True)


def loaded(root: Path, **settings: Any) -> ImageSet:
    return load_images(replace(at("dicom", root), **settings), seed=0)


def test_series_are_volumes_of_the_patients_that_they_name(tmp_path: Path) -> None:
    """Slices are in order of their place, whatever the files are called, and with or without an ending."""
    values = stored(3, 4, 8, 8)
    for series, patient in enumerate(("b", "a", "b")):
        for i in range(4):
            place = {"ImagePositionPatient": [0, 0, 5 * i], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
            path = tmp_path / f"{series}" / f"IM{9 - i:04}{'.dcm' * (series % 2)}"
            write(path, values[series, i], str(series), patient, InstanceNumber=9 - i, **place)
    images = loaded(tmp_path, window=(-1024.0, 1976.0))
    expected = (values.reshape(12, 8, 8) / 3000 * 255).round()
    assert np.abs(images.images[:, 0].numpy() - expected).max() <= 1
    assert images.metadata.groups["patient"].tolist() == [1] * 4 + [0] * 4 + [1] * 4
    assert images.metadata.group_key == "patient"
    assert images.report.lines == (
        "12 slices of 3 volumes of 2 patients: of each volume -1024 to 1976 (`data.window`) become black to white",
    )
    some = loaded(tmp_path, window=(-1024.0, 1976.0), slices=(1.0, 2.0))
    assert np.array_equal(some.images.numpy(), images.images[[1, 2, 5, 6, 9, 10]].numpy())
    refused(replace(at("dicom", tmp_path), slices=(0.0, 4.0)), "has 4 slices, and `data.slices` ends with 4")


def test_the_window_is_that_of_the_file_where_none_is_stated(tmp_path: Path) -> None:
    """Centre 40 and width 400, as for soft tissue, in Hounsfield units; the first of several."""
    values = stored(1, 8, 8)
    write(tmp_path / "a", values, "1", WindowCenter=[40, 600], WindowWidth=[401, 2000])
    low, high = 40 - 0.5 - 200, 40 - 0.5 + 200
    expected = ((values - 1024.0 - low) / (high - low)).clip(0, 1) * 255
    assert np.abs(loaded(tmp_path).images[0].numpy() - expected).max() <= 0.51


def test_the_range_is_the_series_own_where_there_is_no_window(tmp_path: Path) -> None:
    values = stored(1, 64, 64)
    write(tmp_path / "a", values, "1", RescaleSlope=3)
    images = loaded(tmp_path)
    low, high = np.quantile(values, (0.001, 0.999))
    assert np.abs(images.images[0].numpy() - ((values - low) / (high - low)).clip(0, 1) * 255).max() <= 1
    assert "the window of its middle slice or else its own range becomes black to white" in images.report.lines[0]


def test_monochrome1_is_turned(tmp_path: Path) -> None:
    values = stored(1, 8, 8)
    for name, kind in (("a", "MONOCHROME1"), ("b", "MONOCHROME2")):
        write(tmp_path / name, values, (name == "a" and "1") or "2", PhotometricInterpretation=kind)
    images = loaded(tmp_path, window=(-1024.0, 1976.0)).images
    assert np.array_equal(images[0].numpy(), 255 - images[1].numpy())


def test_several_frames_in_a_file_are_slices(tmp_path: Path) -> None:
    values = stored(5, 8, 8)
    write(tmp_path / "a", values, "1", NumberOfFrames=5)
    images = loaded(tmp_path, window=(-1024.0, 1976.0))
    assert np.abs(images.images[:, 0].numpy() - values / 3000 * 255).max() <= 0.51


def test_compressed_files_are_read(tmp_path: Path) -> None:
    values = stored(1, 8, 8)
    write(tmp_path / "a", values, "1")
    plain = loaded(tmp_path).images
    own = pydicom.dcmread(tmp_path / "a")
    own.compress(RLELossless)
    own.save_as(tmp_path / "a")
    assert pydicom.dcmread(tmp_path / "a").file_meta.TransferSyntaxUID == RLELossless
    assert np.array_equal(loaded(tmp_path).images.numpy(), plain.numpy())


def test_patients_without_a_name_are_identified_by_their_study(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / f"{i}", stored(1, 8, 8), str(i), "", StudyInstanceUID=f"1.2.{i // 2}")
    assert loaded(tmp_path).metadata.groups["patient"].tolist() == [0, 0, 1, 1]


def test_what_is_no_scan_is_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "a", stored(1, 8, 8), "1")
    write(tmp_path / "scout", stored(1, 16, 8), "2", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write(tmp_path / "seg", stored(1, 8, 8), "3", Modality="SEG")
    for i in range(2):
        write(tmp_path / f"plan{i}", stored(1, 8, 8), "4", Modality="RTSTRUCT", Rows=None, PixelData=None)
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    images = loaded(tmp_path)
    assert len(images) == 1
    assert images.report.lines[:2] == (
        "files that are not of DICOM are left out (1 .pdf)",
        "DICOM files that are no images of a scan are left out (2 RTSTRUCT without pixels, 1 localizer, 1 SEG)",
    )


def test_folders_are_classes_if_they_are_named(tmp_path: Path) -> None:
    for i, name in enumerate(("sick/one", "well/two", "well/three")):
        write(tmp_path / name / "a.dcm", stored(1, 8, 8), str(i), name)
    images = loaded(tmp_path, class_names=("well", "sick"))
    assert images.labels.tolist() == [1, 0, 0]


def test_damaged_and_coloured_files_are_refused_or_left_out(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"{i}", stored(1, 8, 8), str(i))
    write(tmp_path / "3", stored(1, 8, 8), "3", PhotometricInterpretation="RGB")
    refused(at("dicom", tmp_path), "3 cannot be read as a DICOM image (it is RGB; only MONOCHROME1 and MONOCHROME2")
    write(tmp_path / "3", stored(1, 8, 8), "3", SharedFunctionalGroupsSequence=[])
    refused(at("dicom", tmp_path), "enhanced multi-frame object")
    write(tmp_path / "3", stored(1, 8, 8), "3", PixelData=b"\0\0")
    refused(at("dicom", tmp_path), "3 cannot be read as a DICOM image")
    images = loaded(tmp_path, on_bad_file="skip")
    assert len(images) == 3
    assert len(images.report.facts["skipped"]) == 1
    write(tmp_path / "3", stored(1, 8, 4), "2")
    refused(at("dicom", tmp_path), "are of one series, but differ in size or patient")
    for i in range(4):
        (tmp_path / f"{i}").write_bytes(b"no DICOM")
    refused(
        at("dicom", tmp_path), "none of its volumes can be read; files that are not of DICOM are left out (4 without"
    )


def test_without_pydicom_it_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a", stored(1, 8, 8), "1")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(
        SettingError, match=r"^`dataset` = 'dicom' .* pydicom is not installed: `uv sync --extra dicom`"
    ):
        loaded(tmp_path)
