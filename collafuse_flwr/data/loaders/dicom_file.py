"""One DICOM file: what its header tells, and its values in the units that it states."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collafuse_flwr.data.image_decoding import Window

#: Grey whose least value is white, and whose least value is black; what is in colour is not read.
WHITE_FIRST, BLACK_FIRST = "MONOCHROME1", "MONOCHROME2"
#: What is read of a header.
TAGS = (
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "ImageType", "InstanceNumber"),
    *("Rows", "Columns", "NumberOfFrames", "PhotometricInterpretation", "SharedFunctionalGroupsSequence"),
    *("ImagePositionPatient", "ImageOrientationPatient", "WindowCenter", "WindowWidth"),
)


@dataclass(frozen=True)
class DicomFile:
    """A file, of which the header was read.

    Attributes:
        path: the file.
        patient: its `PatientID`, or its study where it has none.
        series: its series.
        size: height and width.
        frames: how many images it holds.
        place: where it is in its series, ascending.
        white_first: whether its least value is white.
        window: the values that it states to become black and white.
        unread: why it is no image of a scan; empty if it is one.
    """

    path: Path
    patient: str
    series: str
    size: tuple[int, int]
    frames: int
    place: float
    white_first: bool
    window: Window | None
    unread: str

    @classmethod
    def of(cls, path: Path) -> DicomFile:
        """Read the header.

        Raises:
            InvalidDicomError: it is no DICOM file.
            Exception: it is damaged, or of a kind that is not read (almost anything).
        """
        import pydicom  # noqa: PLC0415 - installed by those who have such files

        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
        unread = _unread(header)
        kind = header.get("PhotometricInterpretation", "")
        if not unread and kind not in (WHITE_FIRST, BLACK_FIRST):
            raise ValueError(f"it is {kind}; only {WHITE_FIRST} and {BLACK_FIRST} are read")
        if not unread and "SharedFunctionalGroupsSequence" in header:
            raise ValueError("it is an enhanced multi-frame object; only those of one image each are read")
        return cls(
            path=path,
            patient=str(header.get("PatientID") or header.get("StudyInstanceUID") or path.parent),
            series=str(header.get("SeriesInstanceUID") or path),
            size=(int(header.get("Rows", 0)), int(header.get("Columns", 0))),
            frames=int(header.get("NumberOfFrames") or 1),
            place=_place(header),
            white_first=kind == WHITE_FIRST,
            window=_window(header),
            unread=unread,
        )

    def values(self) -> NDArray[np.float32]:
        """The values, (frames, height, width), rescaled by slope and intercept, as in Hounsfield units.

        Raises:
            Exception: it is damaged, or compressed in a way for which no decoder is installed (almost anything).
        """
        import pydicom  # noqa: PLC0415 - as above
        from pydicom.pixels.processing import apply_modality_lut  # noqa: PLC0415 - as above

        whole = pydicom.dcmread(self.path)
        values = np.asarray(apply_modality_lut(whole.pixel_array, whole), np.float32)
        return values.reshape(self.frames, *self.size)


def _unread(header: Any) -> str:
    """Why a file is no image of a scan."""
    modality = header.get("Modality") or "unknown"
    if not header.get("Rows"):
        return f"{modality} without pixels"
    if modality in {"SEG", "RTDOSE"}:
        return str(modality)
    return "localizer" if "LOCALIZER" in (header.get("ImageType") or ()) else ""


def _place(header: Any) -> float:
    """Where an image is along the normal of its plane, or, if it does not say that, in the order of its series."""
    position, orientation = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    if not position or not orientation:
        return float(header.get("InstanceNumber") or 0)
    rows, columns = np.array(orientation, float).reshape(2, 3)
    return float(np.cross(rows, columns) @ np.array(position, float))


def _window(header: Any) -> Window | None:
    """Centre and width as the ends of the range, of the linear function of the standard (PS3.3 C.11.2.1.2)."""
    if header.get("WindowCenter") is None or header.get("WindowWidth") is None:
        return None
    # There may be several, for several tissues; the first is the one that is shown first.
    centre, width = (float(np.atleast_1d(header[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
    return (centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2) if width > 1 else None
