"""What a client releases: its images, noised once to the cut, with noise that only its own disk can repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collafuse_flwr.diffusion.schedule import Schedule

UploadDtype = Literal["int8", "float16", "float32"]

#: int8 codes lie in -127..127, so that zero is exact and the range is symmetric.
QUANTISED_MAX = 127


@dataclass(frozen=True)
class Upload:
    """Noised images as they travel: x_k = scale * codes, shape (rows, channels, size, size); labels int64 or None."""

    x_k: NDArray[Any]
    scale: float
    labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.x_k)


def release_noise(secret: bytes, index: int, copy: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal noise of image `index` and release `copy`: a function of the secret and these two alone.

    A Philox counter-based generator (Salmon et al., SC 2011) is keyed by the 16-byte secret and starts at the counter
    (index, copy), so that a client that restarts, or works in any order, releases identical bits.
    """
    key = np.frombuffer(secret, dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, copy, index]))
    return generator.standard_normal(shape, dtype=np.float32)


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
    signal, spread = float(schedule.alpha_bar[cut]) ** 0.5, float(1 - schedule.alpha_bar[cut]) ** 0.5
    shape = tuple(x_0.shape[1:])
    noise = [np.stack([release_noise(secret, i, copy, shape) for i in range(len(x_0))]) for copy in copies]
    return torch.cat([signal * x_0 + spread * torch.from_numpy(n) for n in noise])


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
