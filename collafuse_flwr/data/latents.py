"""Images as latents of a public codec: encoded once, where they are loaded, and kept beside decoded images."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from collafuse_flwr.core.atomic_io import atomic_write, make_private_folder
from collafuse_flwr.core.errors import DataError, SettingError
from collafuse_flwr.core.progress import counted
from collafuse_flwr.data.codec import BATCH, RANGE, Codec
from collafuse_flwr.data.image_cache import cache_folder
from collafuse_flwr.data.images import ImageSet, normalize
from collafuse_flwr.data.report import DataReport
from collafuse_flwr.data.settings import DataConfig


def as_latents(images: ImageSet, codec: Codec | None, config: DataConfig) -> ImageSet:
    """The set with latents in the place of its images; as it is where there is no codec.

    Raises:
        SettingError: the images do not fit the codec.
        DataError: the latents cannot be kept in `data.cache_path`.
    """
    if codec is None:
        return images
    codec.check(*images.images.shape[1:])
    latents = _cached(images.images, codec, config)
    return replace(
        images,
        images=latents,
        native_sides=_native_sides(images, latents.shape[1]),
        report=images.report + _report(images.images, latents, codec),
        encoded=images.images,
        codec=codec,
    )


def _cached(pixels: Tensor, codec: Codec, config: DataConfig) -> Tensor:
    """The latents of these pixels by this codec, from the cache, where they are put first if they are new."""
    folder = cache_folder(config)
    described = f"{codec.digest} {RANGE:g} {tuple(pixels.shape)}".encode()
    key = hashlib.sha256(described + hashlib.sha256(pixels.contiguous().numpy().data).digest()).hexdigest()[:32]
    path = folder / f"latents-{key}.npy"
    try:
        make_private_folder(folder)
        # One process encodes, the others wait for it.
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                encoded = _encoded(pixels, codec)
                with atomic_write(path) as temporary, temporary.open("wb") as file:
                    np.save(file, encoded.numpy())
            os.utime(path)
            return torch.from_numpy(np.load(path, mmap_mode="c"))
    except OSError as error:
        problem = f"latents cannot be kept in {folder}: {error.strerror or error}"
        expected = "expected a folder that can be written to, with room for them"
        raise DataError(f"`data.cache_path` = {config.cache_path!r}: {problem}; {expected}") from None


def _encoded(pixels: Tensor, codec: Codec) -> Tensor:
    parts = pixels.split(BATCH)
    return torch.cat([codec.encode(own) for own in counted(parts, "encoding images", scale=BATCH, total=len(pixels))])


def _native_sides(images: ImageSet, channels: int) -> Tensor:
    """The side of a square with as many values in `channels` channels as each image has of its own, (N,), int64.

    By it `ImageSet.enlargement` counts how many latents there are for each value of an image's own: a codec may spread
    an image over more values than it has, whose noise averages out as that of an enlarged one does.
    """
    _, own_channels, size, _ = images.images.shape
    grey = (images.images == images.images[:, :1]).flatten(1).all(dim=1)
    sides = torch.full((len(images),), size) if images.native_sides is None else images.native_sides.clamp(max=size)
    values = sides.double().square() * torch.where(grey, 1, own_channels)
    return (values / channels).sqrt().floor().long().clamp(min=1)


def _report(pixels: Tensor, latents: Tensor, codec: Codec) -> DataReport:
    """How wide the latents spread, in standard deviations of the codec's public images, and what rounding costs."""
    x = normalize(latents) * RANGE
    spread, clipped = float(x.std()), float((x.abs() == RANGE).double().mean())
    if not spread > 0:
        raise SettingError("codec", codec.digest, "one whose latents of these images differ from each other")
    step = 2 * RANGE / torch.iinfo(torch.uint8).max
    shapes = [" x ".join(map(str, own.shape[1:])) for own in (latents, pixels)]
    line = (
        f"{shapes[0]} latents of images of {shapes[1]}: their spread is {spread:.2f} of that of the codec's public "
        f"images, {clipped:.2%} of the values are clipped, and rounding has steps of {step / spread:.3f} of the spread"
    )
    facts = {"sha256": codec.digest, "spread": spread, "clipped": clipped, "step": step}
    return DataReport((line,), {"codec": facts})
