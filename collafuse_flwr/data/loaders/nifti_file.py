"""One NIfTI volume: its slices along an axis of the body, upright as radiologists see them."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import SKIPPING, data_error

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

#: Where columns, rows and slices go, for slices along each axis: towards the patient's (L)eft, (P)osterior, (S)uperior
#: or (I)nferior.
UPRIGHT = {"axial": "LPS", "coronal": "LIP", "sagittal": "PIL"}


@dataclass(frozen=True)
class NiftiFile:
    """A volume, of which the header was read: how many slices it has along the axis, and their height and width."""

    path: Path
    axis: str
    least: int
    count: int
    size: tuple[int, int]

    @classmethod
    def of(cls, config: DataConfig, path: Path, axis: str, least: int) -> NiftiFile:
        """Read the header.

        Raises:
            DataError: it is damaged, not of three axes, or has fewer than `least` slices.
        """
        with _opened(config, path, axis, least) as (image, axes):
            columns, rows, slices = (image.shape[own] for own in np.argsort(axes[:, 0]))
        return cls(path, axis, least, slices, (rows, columns))

    def values(self, config: DataConfig, first: int, count: int) -> NDArray[np.float32]:
        """The slices first..first + count - 1, upwards, leftwards or backwards, as (count, height, width).

        Raises:
            DataError: the file is damaged.
        """
        from nibabel import orientations  # noqa: PLC0415 - slow, and only these data sets need it

        with _opened(config, self.path, self.axis, self.least) as (image, axes):
            stacked, where = int(np.argsort(axes[:, 0])[2]), [slice(None)] * 3
            # An axis that points the other way counts from the other end.
            begin = first if axes[stacked, 1] > 0 else image.shape[stacked] - first - count
            where[stacked] = slice(begin, begin + count)
            part = np.asarray(image.dataobj[tuple(where)], np.float32)
            # The last voxel, which is not there if the file was cut short behind the slices.
            image.dataobj[-1, -1, -1]
            upright: NDArray[np.float32] = orientations.apply_orientation(part, axes).transpose(2, 1, 0)
        return upright


@contextmanager
def _opened(config: DataConfig, path: Path, axis: str, least: int) -> Iterator[tuple[Nifti1Image, NDArray[np.int64]]]:
    """The volume, of which only the header is read so far, and for each axis its place in UPRIGHT and its sign."""
    from nibabel import funcs, nifti1, orientations  # noqa: PLC0415 - as above

    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            image = funcs.squeeze_image(nifti1.Nifti1Image.from_stream(file))
            axes = orientations.ornt_transform(
                orientations.io_orientation(image.affine), orientations.axcodes2ornt(UPRIGHT[axis])
            ).astype(np.int64)
            if len(image.shape) != 3 or image.shape[int(np.argsort(axes[:, 0])[2])] < least:
                needed = f"a volume of three axes and at least {least} {axis} slices"
                raise data_error(config, f"{path} has shape {image.shape}; expected {needed}")
            yield image, axes
            file.read(1)  # if all has been read, gzip compares the check sum here
    except DataError:
        raise
    except Exception as error:  # a damaged file raises what nibabel, gzip or numpy stumble over first
        raise data_error(config, f"{path} cannot be read as a NIfTI volume ({error}); {SKIPPING}") from None
