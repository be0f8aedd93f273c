"""Similarity of reconstructed images to the true ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

#: The range of images in [-1, 1].
SPAN = 2.0
#: Deviation of SSIM's Gaussian window in pixels (Wang et al. 2004), and images a side that it is meant for.
WINDOW, WINDOW_SIZE = 1.5, 24
#: Images whose SSIM is measured at once.
_BATCH = 128


@dataclass(frozen=True)
class ImageSimilarity:
    """PSNR of the mean squared error over all images in dB (inf: no error), mean SSIM, and the PSNR of each, (n,)."""

    psnr: float
    ssim: float
    per_image: Tensor


def image_similarity(images: Tensor, rebuilt: Tensor) -> ImageSimilarity:
    """10 log10(2^2 / mse) and the structural similarity of reconstructions.

    SSIM's window is narrower for images of fewer than 24 pixels a side, which its usual 11 pixels would not fit.

    Args:
        images: (n, channels, size, size) in [-1, 1].
        rebuilt: of the same shape; an attacker clamps it to [-1, 1], which only brings it closer.
    """
    # Slow, and clients import this package.
    from torchmetrics.functional.image import structural_similarity_index_measure  # noqa: PLC0415

    errors = (rebuilt - images).double().square().flatten(1).mean(dim=1)
    mse = errors.mean().item()
    sigma = WINDOW * min(1.0, images.shape[-1] / WINDOW_SIZE)
    similar = [
        cast(Tensor, structural_similarity_index_measure(a, b, sigma=sigma, data_range=SPAN, reduction="none"))
        for a, b in zip(torch.split(rebuilt, _BATCH), torch.split(images, _BATCH), strict=True)
    ]
    psnr = 10 * math.log10(SPAN**2 / mse) if mse else math.inf
    return ImageSimilarity(
        psnr, torch.cat([own.reshape(-1) for own in similar]).mean().item(), 10 * torch.log10(SPAN**2 / errors)
    )
