"""Classifier-free guidance: labels that are dropped in training, two predictions that are combined in sampling."""

from __future__ import annotations

from torch import Tensor

from collafuse_flwr.diffusion.parametrization import DROPPED, Denoise


def drop_labels(labels: Tensor, dropped: Tensor) -> Tensor:
    """Drop those rows of the labels, (n,) or (n, A), for which `dropped`, (n,), is true: int64 of the same shape."""
    return labels.long().masked_fill(dropped.view(-1, *[1] * (labels.ndim - 1)), DROPPED)


def cfg_denoiser(denoise: Denoise, weight: float) -> Denoise:
    """null + w (prediction - null), with null the prediction without labels (Ho and Salimans, arXiv 2207.12598, eq. 6).

    Their w is ours minus 1: at w = 1 it is the prediction itself, at 0 the one without labels. For v and for
    epsilon the noise is extrapolated, because v is affine in it.
    """

    def combined(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        null = denoise(x_t, t, None)
        return null + weight * (denoise(x_t, t, labels) - null)

    return denoise if weight == 1 else combined
