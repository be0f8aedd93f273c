"""What one noised image discloses: bits, linear reconstruction, re-identification.

A release is x_k = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps, of signal-to-noise ratio
snr = alpha_bar / (1 - alpha_bar). Its content is that of x_0 + eps / sqrt(snr), and n releases of the same image with
independent noise average to one release at n * snr. With l_i the eigenvalues of the covariance of the data:

    eigenvalues = covariance_eigenvalues(images)
    gaussian_bits(snr, eigenvalues)    # at most so many bits about the image
    wiener_psnr(snr, eigenvalues)      # the best linear reconstruction, in dB
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from collafuse_flwr.data.images import subsample_evenly

_BLOCK = 4096  # columns, or queries, that are held at once
#: Images for each value of an image from which a covariance gives bits that are not too low.
IMAGES_PER_VALUE = 10


def snr_db(alpha_bar: float) -> float:
    """10 log10(alpha_bar / (1 - alpha_bar)) in dB; inf at 1 (clean image), -inf at 0 (noise); ValueError elsewhere."""
    if not 0 <= alpha_bar <= 1:
        raise ValueError(f"`alpha_bar` = {alpha_bar} is not in 0..1")
    if alpha_bar == 1:
        return math.inf
    return 10 * math.log10(alpha_bar / (1 - alpha_bar)) if alpha_bar > 0 else -math.inf


def covariance_eigenvalues(images: Tensor, max_images: int = 4096) -> Tensor:
    """Eigenvalues of S = sum_n (x_n - mean)(x_n - mean)^T / (N - 1), largest first.

    With fewer images than dimensions d they are those of the N x N Gram matrix, and d - N zeros. Then S misses
    directions of the data, and the bits that follow from it are too low: give it as many images as there are.

    Args:
        images: (N, ...), N >= 2, with d values each.
        max_images: of more images, this many are taken at even distances.

    Returns:
        (d,) in float64, non-negative, in squared units of the images.

    Raises:
        ValueError: `images` or `max_images` is below 2.

    """
    if len(images) < 2 or max_images < 2:
        raise ValueError(f"`images` has {len(images)} and `max_images` is {max_images}, at least 2 are needed")
    flat = subsample_evenly(images, max_images).flatten(1)
    count, dimensions = flat.shape
    if count < dimensions:
        # Pixel by pixel the Gram matrix is a sum, so large images need never be held in float64 all at once.
        scatter = torch.zeros(count, count, dtype=torch.float64, device=flat.device)
        for block in torch.split(flat, _BLOCK, dim=1):
            centred = _centred(block)
            scatter += centred @ centred.T
    else:
        centred = _centred(flat)
        scatter = centred.T @ centred
    eigenvalues = torch.linalg.eigvalsh(scatter / (count - 1)).clamp(min=0).flip(0)
    return torch.nn.functional.pad(eigenvalues, (0, dimensions - len(eigenvalues)))


def _centred(points: Tensor) -> Tensor:
    return points.double() - points.double().mean(dim=0)


def underestimates_bits(num_images: int, values: int) -> bool:
    """Whether bits from so many images of `values` values are too low: their covariance has too few directions.

    n images have a sample covariance of rank n - 1 at most. On digits (d = 64) bits at the default cut are 5.6 from 5
    images, 11.2 from 20 and 14.8 from 1,437, so that 10 images for each value are required.
    """
    return num_images < IMAGES_PER_VALUE * values


def gaussian_bits(snr: float, eigenvalues: Tensor, *, releases: int = 1) -> float:
    """I(x_0; releases) <= 1/2 sum_i log2(1 + n snr l_i) bits, with equality for Gaussian data.

    Of all laws with one covariance the Gaussian has the largest entropy (Cover and Thomas 2006, theorem 8.6.5), hence
    so has the noised image. log2(N) bits are needed to pick an image among N.

    Args:
        snr: of one release, >= 0; inf gives inf.
        eigenvalues: (d,) of the covariance, as from `covariance_eigenvalues`.
        releases: n >= 1 noised copies of one image, with independent noise.

    Raises:
        ValueError: `snr` is negative or not a number, or `releases` is below 1.

    """
    total = _total_snr(snr, releases)
    # Directions without variance carry nothing, at infinite snr too, where 0 * inf would be nan.
    return torch.log1p(total * eigenvalues[eigenvalues > 0]).sum().item() / (2 * math.log(2))


def most_named(bits: float, count: int) -> float:
    """The largest share of `count` equally likely images that anyone can name from so many bits of each.

    Fano's inequality (Cover and Thomas 2006, theorem 2.10.1): it is at most (bits + 1) / log2(count).
    """
    return 1.0 if count < 2 else min(1.0, (bits + 1) / math.log2(count))


def wiener_mse(snr: float, eigenvalues: Tensor, *, releases: int = 1) -> float:
    """E|x_0 - x_hat|^2 / d = sum_i l_i / (1 + n snr l_i) / d of the best linear reconstruction from n releases.

    It is the mean squared error of the linear minimum-mean-square (Wiener) estimate (Kay 1993, chapter 12); for
    Gaussian data no estimate is better. Arguments and errors as in `gaussian_bits`, but `eigenvalues` must be all d.
    """
    positive = eigenvalues[eigenvalues > 0]
    return (positive / (1 + _total_snr(snr, releases) * positive)).sum().item() / len(eigenvalues)


def wiener_psnr(snr: float, eigenvalues: Tensor, *, releases: int = 1) -> float:
    """10 log10(2^2 / wiener_mse) in dB, for images in [-1,1], which span 2; inf where the error is 0."""
    mse = wiener_mse(snr, eigenvalues, releases=releases)
    return 10 * math.log10(4 / mse) if mse > 0 else math.inf


def _total_snr(snr: float, releases: int) -> float:
    if not snr >= 0:
        raise ValueError(f"`snr` = {snr} is not a number >= 0")
    if releases < 1:
        raise ValueError(f"`releases` = {releases} is below 1")
    return snr * releases


def matched_filter(y: Tensor, candidates: Tensor, alpha_bar: float) -> Tensor:
    """argmax_j <y / sqrt(alpha_bar), x_j> - |x_j|^2 / 2: the most likely candidate behind each release.

    The noise is white, so this is the candidate nearest to y / sqrt(alpha_bar), and no attack on equally likely
    candidates succeeds more often. For several releases of one image pass their mean.

    Args:
        y: (N, ...) releases x_k.
        candidates: (M, ...) clean images of the same shape.
        alpha_bar: of the releases, in (0, 1].

    Returns:
        (N,) int64 indices into `candidates`.

    Raises:
        ValueError: `alpha_bar` is not in (0, 1].

    """
    if not 0 < alpha_bar <= 1:
        raise ValueError(f"`alpha_bar` = {alpha_bar} is not in (0, 1]")
    signal, references = y.flatten(1) / math.sqrt(alpha_bar), candidates.flatten(1)
    half_energy = references.square().sum(dim=1) / 2
    return torch.cat([(block @ references.T - half_energy).argmax(dim=1) for block in torch.split(signal, _BLOCK)])
