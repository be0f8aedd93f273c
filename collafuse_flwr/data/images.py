"""A labelled set of images, and the two scales pixels are kept in: uint8 at rest, [-1, 1] in networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.data.report import DataReport

#: Half the range of uint8: x = pixel / HALF - 1.
HALF = 127.5
#: Images that are resized at a time; in float32 the whole set would take four times its memory.
RESIZED_TOGETHER = 256
#: The name of the one class of images without labels.
UNLABELLED = "unlabelled"
#: Groups that files may say an image is of: a person, or a patient, whose images are never separated.
GROUPS, INSEPARABLE = ("identity", "patient"), "patient"


@dataclass(frozen=True, eq=False)
class ImageMetadata:
    """Metadata of N images besides their classes.

    `attributes` has shape (N, A), uint8, 0 or 1, and `attribute_names` A names, all different. `groups` holds, under
    names such as identity, patient or domain, which group every image is of: shape (N,), int64, counted from 0.
    `group_key` names the group whose images must all be with one client, and on one side of its held-out split.
    """

    attributes: Tensor | None = None
    attribute_names: tuple[str, ...] = ()
    groups: Mapping[str, Tensor] = field(default_factory=dict)
    group_key: str = ""

    def subset(self, indices: Tensor) -> ImageMetadata:
        """Metadata of the images at `indices`, shape (M,), int64."""
        return ImageMetadata(
            None if self.attributes is None else self.attributes[indices],
            self.attribute_names,
            {name: group[indices] for name, group in self.groups.items()},
            self.group_key,
        )


class Decoder(Protocol):
    """What makes images of latents; `digest` names it."""

    @property
    def digest(self) -> str:
        """SHA-256."""

    def decode(self, x: Tensor) -> Tensor:
        """Images in [-1, 1], (n, C, S, S), of latents as networks have them, (n, c, s, s)."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size with a class each; the tensors are shared, so write to none of them.

    `images` has shape (N, C, H, W), uint8; `labels` has shape (N,), int64, in 0..num_classes - 1. `native_sides`, shape
    (N,), int64, is how many pixels a side the central square of each image had before it was resized; None: as now.
    `report` says what is to be known of how they were read. Where `images` are latents, they are of the images
    `encoded`, by `codec`.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    name: str
    metadata: ImageMetadata = field(default_factory=ImageMetadata)
    native_sides: Tensor | None = None
    report: DataReport = field(default_factory=DataReport)
    encoded: Tensor | None = None
    codec: Decoder | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise ValueError("`images` must be uint8 of shape (N, C, H, W)")
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError("`labels` must be int64 of shape (N,)")
        if len(self) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.num_classes:
            raise ValueError("`labels` must be in 0..num_classes - 1")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """Classes of the data set, whether or not an image of each is here."""
        return len(self.class_names)

    @property
    def pixels(self) -> Tensor:
        """The images themselves, (N, C, H, W), uint8, also where networks and releases have latents of them."""
        return self.images if self.encoded is None else self.encoded

    def decode(self, x: Tensor) -> Tensor:
        """Images in [-1, 1] of what networks make: of latents where these are, else x as it is."""
        return x if self.codec is None else self.codec.decode(x)

    def enlargement(self) -> float:
        """Values here for each value of the image's own, of the image that has most; 1 where none was enlarged.

        An image of s pixels a side that was resized to S > s has (S / s)^2 for each, and a grey one three in RGB.
        Whoever has noised values averages out as much of their noise.
        """
        count, channels, size, _ = self.images.shape
        if not count:
            return 1.0
        sides = torch.tensor([size]) if self.native_sides is None else self.native_sides
        grey = (self.images == self.images[:, :1]).flatten(1).all(dim=1)
        area = (size / sides.double()).square().clamp(min=1)
        return float((area * torch.where(grey, channels, 1)).max())

    def subset(self, indices: Tensor) -> ImageSet:
        """Copy the images at `indices`, shape (M,), int64; the classes stay those of the whole."""
        metadata = self.metadata.subset(indices)
        sides = None if self.native_sides is None else self.native_sides[indices]
        encoded = None if self.encoded is None else self.encoded[indices]
        return replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            metadata=metadata,
            native_sides=sides,
            report=DataReport(),
            encoded=encoded,
        )


def _in_memory(_: Tensor) -> Iterable[Path]:
    return ()


@dataclass(frozen=True)
class LazyImageDataset:
    """What a loader found: all labels, shape (N,), int64, and how to read the images at some indices.

    Pixels are read last and in parts: images that `data.max_images` leaves out are never decoded, and the set need not
    fit into memory: `read` takes ascending indices, shape (n,), int64, and gives (n, C, H, W), uint8. `files`
    names the files in which the pixels at some indices are; none if they are in memory already. Where `read` resizes,
    `native_sides` must say how many pixels a side the central squares of the images at some indices have before that,
    shape (n,), int64: by these it is known by how much noise can be averaged out. 0 is the side of an image that could
    not be read and is left out.

    `report` is what the loader has to say of the set. A `survey` looks at all of its images before the first is read,
    where how each is read hangs on the others, and says what of it is to be known.
    """

    labels: Tensor
    class_names: tuple[str, ...]
    read: Callable[[Tensor], Tensor]
    files: Callable[[Tensor], Iterable[Path]] = _in_memory
    metadata: ImageMetadata = field(default_factory=ImageMetadata)
    native_sides: Callable[[Tensor], Tensor] | None = None
    report: DataReport = field(default_factory=DataReport)
    survey: Callable[[], DataReport] | None = None


@dataclass(frozen=True)
class DecodedImages:
    """Square images of one size, (n, C, S, S), uint8, and the sides they had before they were resized, (n,), int64.

    Those of side 0 could not be read. `report` says how they were read.
    """

    pixels: Tensor
    native_sides: Tensor
    report: DataReport = field(default_factory=DataReport)


@dataclass(frozen=True)
class ImageSource:
    """Images in [-1, 1] as batches for training: x_0 at step 0."""

    images: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows as (x_0, start = 0, labels)."""
        return self.images[rows], torch.zeros_like(rows), None if self.labels is None else self.labels[rows]


def normalize(images: Tensor) -> Tensor:
    """Scale pixels for networks: uint8 of any shape to float32 in [-1, 1].

    Raises:
        ValueError: the images are not uint8.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"`images` must be uint8, not {images.dtype}")
    return images.to(torch.float32) / HALF - 1


def to_uint8(x: Tensor) -> Tensor:
    """Store pixels: floats of any shape, clamped to [-1, 1] and rounded, to uint8; NaN becomes black."""
    bounded = x.to(torch.float32).nan_to_num(nan=-1).clamp(-1, 1)
    return ((bounded + 1) * HALF).round().to(torch.uint8)


def subsample_evenly(rows: Tensor, count: int) -> Tensor:
    """Take `count` of the rows, shape (N, ...), at even distances, or all if there are no more."""
    if len(rows) <= count:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, count, device=rows.device).long()]


def center_crop_resize(images: Tensor, size: int) -> Tensor:
    """Crop images (N, C, H, W), uint8, to their central square and resize it to `size` pixels a side; 0: keep them.

    Resizing is bilinear with antialiasing.

    Raises:
        DataError: `size` is 0 and the images are not square.
    """
    height, width = images.shape[2:]
    if not size:
        if height != width:
            raise DataError(
                f"`image_size` = 0 keeps the images as they are, but they are {height} x {width} pixels and must be "
                "square; set it to the pixels a side to crop and resize them to"
            )
        return images
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = images[:, :, top : top + side, left : left + side]
    if side == size:
        return square.contiguous()
    return torch.cat([_resize(part, size) for part in torch.split(square, RESIZED_TOGETHER)])


def decode(source: LazyImageDataset, indices: Tensor, size: int) -> DecodedImages:
    """Read the images at ascending indices, shape (n,), int64, and crop and resize them as `center_crop_resize` does.

    Raises:
        DataError: images are damaged or do not fit together.
    """
    read = source.read(indices)
    if source.native_sides is None:
        sides = torch.full((len(read),), min(read.shape[2:]), dtype=torch.int64)
    else:
        sides = source.native_sides(indices)
    return DecodedImages(center_crop_resize(read, size), sides)


def _resize(images: Tensor, size: int) -> Tensor:
    resized = functional.interpolate(images.to(torch.float32), (size, size), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
