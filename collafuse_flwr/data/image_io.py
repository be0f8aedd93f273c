"""Image files as the pixels of a data set, decoded on demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.data.images import center_crop_resize
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import data_error


class ImageFiles:
    """The files of a data set, in the order of its images, which a `LazyImageDataset` reads and lists in `files`.

    Images become greyscale (one channel) if all that are read together are greyscale, RGB otherwise; `rgb`: all RGB.
    """

    def __init__(self, config: DataConfig, paths: Sequence[str], rgb: bool = False) -> None:
        self._config, self._paths, self._rgb = config, paths, rgb
        #: The first image that was read and its height and width, which the others must share if they are not resized.
        self._first: tuple[str, torch.Size] | None = None

    def files(self, indices: Tensor) -> list[Path]:
        """The files of the images at `indices`, shape (n,)."""
        return [Path(self._paths[i]) for i in indices.tolist()]

    def read(self, indices: Tensor) -> Tensor:
        """Read images as one tensor (n, C, H, W), uint8, resized one by one if `image_size` says so.

        Raises:
            DataError: an image is damaged, has more than 8 bits, or differs in size from the others while `image_size`
                is 0.
        """
        images = [self._decode(path) for path in self.files(indices)]
        channels = max(image.shape[1] for image in images)
        return torch.cat([image.expand(-1, channels, -1, -1) for image in images])

    def native_sides(self, indices: Tensor) -> Tensor:
        """Pixels a side of the central square of each image before it is resized, (n,), int64: of the headers alone."""
        sizes = []
        for path in self.files(indices):
            with self._opened(path) as image:
                sizes.append(min(image.size))
        return torch.tensor(sizes, dtype=torch.int64)

    def _decode(self, path: Path) -> Tensor:
        """Read one image as (1, C, H, W), uint8: C = 1 for greyscale and black-and-white files, 3 for all others."""
        with self._opened(path) as image:
            decoded = torch.from_numpy(_pixels(image, self._rgb)).permute(2, 0, 1)[None]
        if self._config.image_size:
            return center_crop_resize(decoded, self._config.image_size)
        name, (h0, w0) = self._first = self._first or (path.name, decoded.shape[2:])
        if decoded.shape[2:] != (h0, w0):
            h, w = decoded.shape[2:]
            raise DataError(
                f"`image_size` = 0 needs images of one size, but {name} is {h0} x {w0} pixels "
                f"and {path.name} is {h} x {w}; set it to the pixels a side to resize them to"
            )
        return decoded

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Image.Image]:
        try:
            with Image.open(path) as image:
                yield image
        except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
            raise data_error(self._config, f"{path} cannot be read as an image ({error})") from None


def _pixels(image: Image.Image, rgb: bool) -> NDArray[np.uint8]:
    """The pixels as (H, W, C), uint8."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"mode {image.mode} has more than 8 bits a value; expected 8-bit greyscale or RGB")
    if image.mode in {"1", "L"} and not rgb:
        return np.array(image.convert("L"))[..., None]
    # By way of RGBA, because a palette with transparency warns on the direct way to RGB.
    opaque = image.convert("RGBA") if image.mode == "P" else image
    return np.array(opaque.convert("RGB"))
