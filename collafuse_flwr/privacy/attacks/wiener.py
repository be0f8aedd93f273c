"""Linear reconstruction of images from their releases."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from collafuse_flwr.data.images import subsample_evenly

#: Shadow images that are used at most: the decomposition below takes their number squared times the pixels.
MAX_SHADOWS = 4096


@dataclass(frozen=True)
class Wiener:
    """The Wiener filter (linear MMSE estimate; Kay 1993, chapter 12) for images of a known mean and covariance.

    `mean` has shape (d,), `axes` (r, d) and `variances` (r,): the directions in which the images differ.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor

    @classmethod
    def of(cls, shadows: Tensor) -> Wiener:
        """With the empirical mean and covariance of an attacker's own images, shape (n, ...), n >= 2.

        Of more than 4096 images as many are taken at even distances.
        """
        flat = subsample_evenly(shadows, MAX_SHADOWS).flatten(1)
        mean = flat.mean(dim=0)
        _, singular, axes = torch.linalg.svd(flat - mean, full_matrices=False)
        return cls(mean, axes, singular.square() / (len(flat) - 1))

    def rebuild(self, received: Tensor, alpha_bar: float, releases: int = 1) -> Tensor:
        """x_hat = m + S (S + I / (n snr))^-1 (y / sqrt(alpha_bar) - m) with snr = alpha_bar / (1 - alpha_bar).

        Args:
            received: (N, ...) the mean of n releases of each image.
            alpha_bar: of one release, in (0, 1].
            releases: n >= 1.

        Returns:
            Of the shape of `received`.
        """
        noise = (1 - alpha_bar) / (alpha_bar * releases)
        gain = self.variances / (self.variances + noise).clamp(min=torch.finfo(self.variances.dtype).tiny)
        centred = received.flatten(1) / math.sqrt(alpha_bar) - self.mean
        return (self.mean + (centred @ self.axes.T * gain) @ self.axes).view_as(received)
