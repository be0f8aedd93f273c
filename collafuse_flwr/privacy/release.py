"""What a client releases: its images, noised to the cut along a path that only its own disk can repeat."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collafuse_flwr.core.grid import on_grid
from collafuse_flwr.core.rng import keyed_generator
from collafuse_flwr.privacy.brownian_noise import brownian_path
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

    @property
    def nbytes(self) -> int:
        """Bytes of the noised images and their labels."""
        return self.x_k.nbytes + (0 if self.labels is None else self.labels.nbytes)


def image_keys(secret: bytes, images: Tensor) -> list[bytes]:
    """What names each image, uint8 of shape (n, channels, size, size), by its content: 16 bytes that tell nothing.

    Equal images are numbered, so that each has noise of its own: with the same noise, two equal rows would say for
    certain that two images are equal, which no differential privacy allows.
    """
    seen: Counter[bytes] = Counter()
    keys = []
    for image in images.numpy():
        content = repr(image.shape).encode() + image.tobytes()
        keys.append(hashlib.blake2b(content + struct.pack("<Q", seen[content]), digest_size=16, key=secret).digest())
        seen[content] += 1
    return keys


def noise_draw_ids(upload: UploadConfig, round_: int) -> range:
    """The draws that an upload in a round holds: always the same (`fixed`), or new ones every time."""
    first = 0 if upload.noise == "fixed" else (round_ - 1) * upload.draws_per_image
    return range(first, first + upload.draws_per_image)


def release(
    alpha_bar: float, x_0: Tensor, keys: Sequence[bytes], secret: bytes, draws: range, clip_norm: float = 0.0
) -> Tensor:
    """x_k = sqrt(alpha_bar) (x_0 + W(1 / snr)), for each image and each draw, on a grid of 2^-12.

    W is a Brownian path that hangs on the secret, the image, the draw and the clipping alone: all releases on one path,
    at any cut of any schedule in any run, tell together no more than the least noisy of them. A client that restarts,
    or works in any order, releases identical bits.

    Every draw has a path of its own, and so has every `clip_norm`: on one path, two releases of an image that is
    clipped to two norms would differ by a multiple of the image, without any noise. They are further releases.

    Args:
        alpha_bar: alpha_bar at the cut, in (0, 1]; 1 releases x_0 as it is.
        x_0: images in [-1, 1], clipped if at all, shape (images, channels, height, width).
        keys: what names each image (see `image_keys`).
        secret: 16 bytes that never leave the client.
        draws: numbers of the draws to release.
        clip_norm: the norm that images were clipped to; 0: none.

    Returns:
        Shape (len(draws) * images, channels, height, width), float32, all images of the first draw first.
    """
    images = x_0.double().numpy()
    rows = [
        _released(alpha_bar, image, secret, struct.pack("<16sdQ", key, clip_norm, draw))
        for draw in draws
        for image, key in zip(images, keys, strict=True)
    ]
    return torch.from_numpy(np.stack(rows))


def _released(alpha_bar: float, image: NDArray[np.float64], secret: bytes, path: bytes) -> NDArray[np.float32]:
    """One row, on the grid of what has been noised."""
    if alpha_bar == 1:
        return image.astype(np.float32)
    noised = image + brownian_path(secret, path, image.shape, (1 - alpha_bar) / alpha_bar)
    rounded: NDArray[np.float32] = on_grid(torch.from_numpy(alpha_bar**0.5 * noised)).float().numpy()
    return rounded


def upload_order(secret: bytes, draws: range, images: int) -> Tensor:
    """The order in which the rows of a release leave, shape (len(draws) * images,): drawn from the secret.

    In that of the files, neighbours could be denoised together: they may be slices of one patient.
    """
    rows = len(draws) * images
    generator = keyed_generator(secret, b"order" + struct.pack("<QQ", draws.start, rows))
    return torch.from_numpy(generator.permutation(rows))


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


def decode(x_k: NDArray[Any], scale: float | NDArray[np.float32], device: torch.device | str = "cpu") -> Tensor:
    """The values of what travelled, (rows, channels, height, width), float32; `scale` is one, or one for each row."""
    factors = np.array(scale, np.float32).reshape(-1, 1, 1, 1)
    return torch.from_numpy(x_k).to(device, torch.float32) * torch.from_numpy(factors).to(device)
