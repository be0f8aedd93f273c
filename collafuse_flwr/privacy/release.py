"""What a client releases: its images, noised once to the cut, with noise that only its own disk can repeat."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collafuse_flwr.core.rng import keyed_generator
from collafuse_flwr.diffusion.schedule import Schedule
from collafuse_flwr.privacy.settings import UploadConfig

UploadDtype = Literal["int8", "float16", "float32"]

#: int8 codes lie in -127..127, so that zero is exact and the range is symmetric.
QUANTISED_MAX = 127


@dataclass(frozen=True)
class Upload:
    """Noised images as they travel: x_k = scale * codes, shape (rows, channels, size, size).

    Labels are classes, int64 (rows,), or attributes, uint8 (rows, A), or None.
    """

    x_k: NDArray[Any]
    scale: float
    labels: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.x_k)


def release_noise(secret: bytes, image: NDArray[np.float32], alpha_bar: float, copy: int) -> NDArray[np.float32]:
    """Standard normal noise for one release: a function of the secret, the image, the cut and the copy's number alone.

    A client that restarts, or works in any order, releases identical bits. The cut is in the key because the same noise
    at two cuts would be two equations for x_0 and the noise, and give both away; the image itself rather than its
    place among the others, because another image in that place with the same noise would give away their difference.

    Args:
        secret: 16 bytes that never leave the client.
        image: x_0, of any shape.
        alpha_bar: alpha_bar at the cut, in (0, 1].
        copy: number of the release, >= 0.

    Returns:
        Noise of the image's shape.
    """
    content = struct.pack("<dQ", alpha_bar, copy) + image.astype("<f4").tobytes()
    return keyed_generator(secret, content).standard_normal(image.shape, dtype=np.float32)


def noise_draw_ids(upload: UploadConfig, round_: int) -> range:
    """The numbers of the copies that an upload in a round holds: always the same (`once`), or new ones every time."""
    first = 0 if upload.noise == "fixed" else (round_ - 1) * upload.draws_per_image
    return range(first, first + upload.draws_per_image)


def release(schedule: Schedule, cut: int, x_0: Tensor, secret: bytes, copies: range) -> Tensor:
    """x_k = sqrt(alpha_bar[k]) x_0 + sqrt(1 - alpha_bar[k]) noise, for each image and each copy.

    Args:
        schedule: the global schedule.
        cut: k, in 0..T.
        x_0: images in [-1, 1], shape (images, channels, height, width).
        secret: 16 bytes that never leave the client.
        copies: numbers of the releases to make; each number has its own noise.

    Returns:
        Shape (len(copies) * images, channels, height, width), all images of the first copy first.
    """
    alpha_bar = float(schedule.alpha_bar[cut])
    images = x_0.numpy()
    noise = [np.stack([release_noise(secret, image, alpha_bar, copy) for image in images]) for copy in copies]
    return torch.cat([alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * torch.from_numpy(n) for n in noise])


def encode(x_k: Tensor, dtype: UploadDtype, labels: Tensor | None) -> Upload:
    """Round x_k to what travels; int8 spreads -127..127 over the upload's own range, rounding to nearest.

    Rounding is a function of the released values alone, so it discloses nothing that they do not.
    """
    codes_of = None if labels is None else labels.numpy()
    if dtype != "int8":
        return Upload(x_k.numpy().astype(dtype), 1.0, codes_of)
    scale = float(np.float32(x_k.abs().max().item() / QUANTISED_MAX)) or 1.0
    codes = torch.clamp(torch.round(x_k / scale), -QUANTISED_MAX, QUANTISED_MAX)
    return Upload(codes.to(torch.int8).numpy(), scale, codes_of)
