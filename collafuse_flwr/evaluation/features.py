"""Features of images: what every measure of quality is computed on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from collafuse_flwr.data.images import normalize

#: Values that a network is given at once: 512 images of 32 x 32 pixels in three colours, or fewer of larger ones.
MAX_VALUES = 512 * 3 * 32 * 32


class PixelFeatures(nn.Module):
    """The pixels themselves as features: (N,C,H,W) -> (N, C*H*W); needs no training, so clients can agree on it."""

    def forward(self, images: Tensor) -> Tensor:
        """Flatten each image."""
        return images.flatten(1)


def scaled(batch: Tensor) -> Tensor:
    """Scale uint8 to [-1, 1], and leave floats as they are: a set stays uint8, and a batch of it becomes floats."""
    return normalize(batch) if batch.dtype == torch.uint8 else batch


def extract_features(
    images: Tensor, features: nn.Module, batch_size: int = 512, *, rows: Tensor | None = None
) -> Tensor:
    """Apply `features` to every image, in evaluation mode, without gradients, on the device where the module lives.

    Extract once and pass `nn.Identity()` as the module to measure the same features in several ways.

    Args:
        images: (N, ...), N >= 1; uint8 is scaled to [-1, 1].
        features: any module that maps (N, ...) to (N, ...); its training mode is left as it was.
        batch_size: images per call of the module; fewer if they are large.
        rows: (n,) int64, those of the images that are wanted; all of them by default.

    Returns:
        (N, d), or (n, d), in float64, because distances subtract large, nearly equal sums.

    """
    device = next(features.parameters(), images).device
    batch_size = min(batch_size, max(1, MAX_VALUES // images[0].numel()))
    was_training = features.training
    features.eval()
    try:
        with torch.no_grad():
            batches = [
                features(scaled(batch).to(device)).flatten(1).double() for batch in _batches(images, rows, batch_size)
            ]
    finally:
        features.train(was_training)
    return torch.cat(batches)


def _batches(images: Tensor, rows: Tensor | None, batch_size: int) -> Iterator[Tensor]:
    """The images, or those at `rows`, of which no more than a batch is copied."""
    if rows is None:
        yield from torch.split(images, batch_size)
    else:
        yield from (images[part] for part in torch.split(rows, batch_size))


def extract_pair(
    real: Tensor, generated: Tensor, features: nn.Module, *, at_least: int, batch_size: int = 512
) -> tuple[Tensor, Tensor]:
    """Extract the features of both sets; ValueError names the set that is too small or has features not finite."""
    for name, images in (("real", real), ("generated", generated)):
        if len(images) < at_least:
            raise ValueError(f"`{name}` has {len(images)} images, at least {at_least} are needed")
    pair = extract_features(real, features, batch_size), extract_features(generated, features, batch_size)
    for name, points in zip(("real", "generated"), pair, strict=True):
        if not torch.isfinite(points).all():
            raise ValueError(f"`{name}` has images, or gives features, that are not finite")
    return pair
