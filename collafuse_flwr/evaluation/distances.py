"""Distances between two sets of images in the space of any features; only with Inception features are they FID, KID."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from collafuse_flwr.evaluation.features import extract_pair

# Binkowski et al. 2018 use subsets of 1000; the unbiased estimate allows any size, and memory grows with its square.
MAX_SUBSET_SIZE = 1000


@dataclass(frozen=True)
class KernelDistance:
    """Mean and standard deviation over subsets of the images; unbiased, so the mean of equal laws may be below 0."""

    mean: float
    std: float


def frechet_distance(real: Tensor, generated: Tensor, features: nn.Module, *, batch_size: int = 512) -> float:
    """d^2 = |mu_r - mu_g|^2 + tr(S_r + S_g - 2 (S_r S_g)^(1/2)) of the features (Heusel et al. 2017, equation 6).

        classifier = train_classifier(images, labels, 10, seed=0)
        frechet_distance(images, generated, classifier.features)

    Biased upwards for few images, most of all for fewer than d, whose covariance has not full rank: compare only values
    from equally many (arXiv 1706.08500; 1801.01401, section 4).

    Args:
        real: (N, ...), N >= 2.
        generated: (M, ...), M >= 2.
        features: maps (N, ...) to (N, d).
        batch_size: images per call of `features`.

    Raises:
        ValueError: a set has fewer than 2 images, or features that are not finite.

    """
    # torchmetrics takes seconds to import, and a client in deployment is a new process for every message.
    from torchmetrics.image.fid import FrechetInceptionDistance  # noqa: PLC0415

    real, generated = extract_pair(real, generated, features, at_least=2, batch_size=batch_size)
    centre = real.mean(dim=0)  # the distance does not change, and covariances lose no digits to a large mean
    real, generated = _in_their_span(real - centre, generated - centre)
    metric = FrechetInceptionDistance(feature=_Extracted(real.shape[1])).to(real.device)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    # Rounding can take the distance of equal sets a little below 0.
    return max(metric.compute().item(), 0.0)


def kernel_distance(
    real: Tensor, generated: Tensor, features: nn.Module, *, seed: int = 0, subsets: int = 20, batch_size: int = 512
) -> KernelDistance:
    """Unbiased MMD^2 of the kernel k(a,b) = (a.b / d + 1)^3 (Gretton et al. 2012, equation 3; Binkowski et al. 2018).

        kernel_distance(images, generated, PixelFeatures())    # needs no network, and few images

    Each subset holds as many images of either set as the smaller one has, at most `MAX_SUBSET_SIZE`. Where that is all
    of both sets there is one subset, and the standard deviation is 0.

    Args:
        real: (N, ...), N >= 2.
        generated: (M, ...), M >= 2.
        features: maps (N, ...) to (N, d).
        seed: of the choice of subsets; the global random state is left as it was.
        subsets: how many subsets to average over.
        batch_size: images per call of `features`.

    Raises:
        ValueError: a set has fewer than 2 images, or features that are not finite.

    """
    from torchmetrics.image.kid import KernelInceptionDistance  # noqa: PLC0415 - slow, as above

    real, generated = extract_pair(real, generated, features, at_least=2, batch_size=batch_size)
    subset_size = min(len(real), len(generated), MAX_SUBSET_SIZE)
    if len(real) == len(generated) == subset_size:
        subsets = 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all extracted features")
        metric = KernelInceptionDistance(_Extracted(real.shape[1]), subsets=subsets, subset_size=subset_size)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would also seed the GPUs, whose state is not restored here.
        torch.default_generator.manual_seed(seed)
        mean, std = metric.compute()
    return KernelDistance(mean.item(), std.item())


def _in_their_span(real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """Fewer points than dimensions in an orthonormal basis of their own: the same distance, of smaller matrices."""
    points = torch.cat([real, generated])
    if len(points) >= points.shape[1]:
        return real, generated
    basis = torch.linalg.qr(points.T).Q
    return real @ basis, generated @ basis


class _Extracted(nn.Module):
    """Hands torchmetrics features that are extracted already, unaltered and in float64."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features
