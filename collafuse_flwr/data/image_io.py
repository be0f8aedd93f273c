"""Image files as the pixels of a data set, decoded on demand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.data.image_decoding import Encoded, ImageKind, opened, read_deep, read_pixels
from collafuse_flwr.data.image_survey import Survey, survey_images
from collafuse_flwr.data.images import center_crop_resize
from collafuse_flwr.data.report import DataReport
from collafuse_flwr.data.settings import DataConfig, background, window
from collafuse_flwr.data.validation import SKIPPING, data_error

T = TypeVar("T")


class ImageFiles:
    """The files of a data set, in the order of its images, which a `LazyImageDataset` reads and lists in `files`.

    All become greyscale (one channel) if most are greyscale, RGB otherwise; `rgb`: all RGB, and none is looked at
    before it is read. Where images lie in other files, `content` gives each as the bytes of a file, and `paths` are
    what they are called.
    """

    def __init__(
        self,
        config: DataConfig,
        paths: Sequence[str],
        rgb: bool = False,
        content: Callable[[int], Encoded] | None = None,
    ) -> None:
        self._config, self._paths, self._rgb = config, paths, rgb
        self._content = content or (lambda i: Path(paths[i]))
        self._background = background(config)
        #: The first image that was read and its height and width, which the others must share if they are not resized.
        self._first: tuple[str, tuple[int, int]] | None = None
        #: Images that could not be decoded, where these are skipped.
        self._bad: set[int] = set()

    def files(self, indices: Tensor) -> list[Path]:
        """The files of the images at `indices`, shape (n,)."""
        return [Path(self._paths[i]) for i in indices.tolist()]

    def survey(self) -> DataReport:
        """Look at all images, and say what of them hangs on the others, or is not as it lies in the file.

        Raises:
            DataError: an image whose values are needed is damaged.
        """
        return self._survey.report

    def read(self, indices: Tensor) -> Tensor:
        """Read images as one tensor (n, C, H, W), uint8, resized one by one if `image_size` says so.

        With `data.on_bad_file` = skip an image that cannot be read is black, and has no `native_sides`.

        Raises:
            DataError: an image is damaged, or differs in size from the others while `image_size` is 0.
        """
        return torch.cat([self._decode(i) for i in indices.tolist()])

    def native_sides(self, indices: Tensor) -> Tensor:
        """Pixels a side of the central square of each image before it is resized, (n,), int64: of the headers alone.

        Those that were skipped have 0.
        """
        sides = [0 if i in self._bad else self._tolerated(i, _side) or 0 for i in indices.tolist()]
        return torch.tensor(sides, dtype=torch.int64)

    @functools.cached_property
    def _survey(self) -> Survey:
        stated = window(self._config)
        if self._rgb:
            return Survey(3, stated)
        return survey_images(self._config, self._paths, self._kind, self._range, stated)

    def _kind(self, index: int) -> ImageKind | None:
        """What a header tells; of one that cannot be read nothing: it may be an image that is not used."""
        with suppress(DataError), self._opened(index) as (image, _):
            return ImageKind.of(image)
        return None

    def _range(self, index: int) -> tuple[float, float] | None:
        return self._tolerated(index, lambda image, encoded: read_deep(image, encoded).visible_range())

    def _decode(self, index: int) -> Tensor:
        """Read one image as (1, C, H, W), uint8."""
        # What all images decide is no mistake of this one.
        survey = self._survey
        pixels = self._tolerated(index, self._pixels)
        if pixels is None:
            return self._blank()
        decoded = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        if self._config.image_size:
            return center_crop_resize(decoded, self._config.image_size)
        own, (h, w) = Path(self._paths[index]).name, decoded.shape[2:]
        name, (h0, w0) = self._first = self._first or survey.first or (own, (h, w))
        if (h, w) != (h0, w0):
            raise DataError(
                f"`image_size` = 0 needs images of one size, but {name} is {h0} x {w0} pixels "
                f"and {own} is {h} x {w}; set it to the pixels a side to resize them to"
            )
        return decoded

    def _pixels(self, image: Image.Image, encoded: Encoded) -> NDArray[np.uint8]:
        """The pixels as (H, W, C), uint8."""
        grey = self._survey.channels == 1
        if not ImageKind.of(image).deep:
            return read_pixels(image, self._background, grey)
        if self._survey.window is None:
            raise ValueError("it has more than 8 bits a value, and `data.window` = [] does not say which are shown")
        pixels = read_deep(image, encoded).pixels(self._survey.window, self._background)
        return np.array(Image.fromarray(pixels).convert("L"))[..., None] if grey else pixels

    def _blank(self) -> Tensor:
        side, first = self._config.image_size, self._first or self._survey.first
        if not side and first is None:
            raise data_error(self._config, "its first image cannot be read, and `image_size` = 0 does not say its size")
        shape = (side, side) if side or first is None else first[1]
        return torch.zeros(1, self._survey.channels, *shape, dtype=torch.uint8)

    def _tolerated(self, index: int, use: Callable[[Image.Image, Encoded], T]) -> T | None:
        """What `use` makes of an image and of what is stored; None of one that cannot be read, if these are skipped."""
        try:
            with self._opened(index) as (image, encoded):
                return use(image, encoded)
        except DataError:
            if self._config.on_bad_file != "skip":
                raise
            self._bad.add(index)
            return None

    @contextmanager
    def _opened(self, index: int) -> Iterator[tuple[Image.Image, Encoded]]:
        try:
            encoded = self._content(index)
            with opened(encoded, self._config.max_pixels) as image:
                yield image, encoded
        except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
            raise data_error(
                self._config, f"{self._paths[index]} cannot be read as an image ({error}); {SKIPPING}"
            ) from None


def _side(image: Image.Image, _: Encoded) -> int:
    return min(image.size)
