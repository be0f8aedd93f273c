"""How much each client counts in an average: by its images, and by how far its activations are from the others'."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

#: Which law the divergence takes its mean over: that of the others (Q), as published, or the client's own (P).
Direction = Literal["q_p", "p_q"]

#: Added to a probability inside the logarithm.
FLOOR = 1e-9
#: `calibrate` divides no client's weight by more than this against the best client's.
MAX_PENALTY = 1000.0
#: And beta is not above this, or the noise between clients of one law would become weights. With the divergences that
#: HuSCF-GAN shows, 0.004 to 0.06, a beta of 50 to 200 is one that acts.
MAX_BETA = 200.0


def kld_scores(activations: Tensor, direction: Direction = "q_p") -> Tensor:
    """Divergence of each client's law P_k from Q_k, the mean law of the others, as a mean over filters.

    P_k is the softmax over positions, filter by filter. With `q_p` the score is sum_p Q_k log(Q_k / P_k), with `p_q`
    sum_p P_k log(P_k / Q_k). A single client has score 0.

        kld_scores(batch.mean(dim=1).flatten(2))    # of activations (clients, rows, filters, height, width)

    Args:
        activations: (N, filters, positions), each client's mean over a batch.
        direction: of the divergence.

    Returns:
        (N,) in float64, non-negative up to rounding.
    """
    own = activations.double().softmax(dim=2)
    if len(own) < 2:
        return torch.zeros(len(own), dtype=torch.float64, device=own.device)
    others = (own.sum(dim=0) - own) / (len(own) - 1)
    ratio = (others + FLOOR).log() - (own + FLOOR).log()
    terms = others * ratio if direction == "q_p" else -own * ratio
    return terms.sum(dim=2).mean(dim=1)


def weights(sizes: Tensor, scores: Tensor, beta: float) -> Tensor:
    """w_k = n_k exp(-beta s_k) / sum_j n_j exp(-beta s_j); with beta = 0 the shares of the images.

    Args:
        sizes: (N,) images of each client, n_k >= 0 and not all 0.
        scores: (N,) from `kld_scores`.
        beta: >= 0.

    Returns:
        (N,) in float64, with sum 1.

    Raises:
        ValueError: no client has images, or `beta` is negative or not finite.
    """
    if not (sizes >= 0).all() or not sizes.sum() > 0:
        raise ValueError(f"`sizes` = {sizes.tolist()}: none may be negative, and one must be above 0")
    if not 0 <= beta < math.inf:
        raise ValueError(f"`beta` = {beta} is not a finite number from 0")
    return (sizes.double().log() - beta * scores.double()).softmax(dim=0)


def effective_share(sizes: Tensor, scores: Tensor, beta: float) -> float:
    """1 / sum_k w_k^2 / p_k in (0, 1], p_k the shares of the images: Kish's effective sample size over its size.

    Of all images so many equally weighted ones would average as well. It falls from 1 as beta grows, towards the share
    of the clients of the lowest score. Arguments as in `weights`.
    """
    shares, weighted = weights(sizes, scores, 0), weights(sizes, scores, beta)
    counted = shares > 0
    return 1 / (weighted[counted].square() / shares[counted]).sum().item()


def calibrate(sizes: Tensor, scores: Tensor, effective: float) -> float:
    """The beta at which `effective_share` is `effective`, by bisection: it never rises with beta.

    The share is exp(2 f(beta) - f(2 beta)) with the convex f(beta) = log sum_k p_k exp(-beta s_k). Where the target
    would divide the worst client's weight by more than 1000 against the best one's, or needs a beta above 200, beta
    stops there. Equal scores give 0.

    Args:
        sizes: (N,) as in `weights`.
        scores: (N,) from `kld_scores`.
        effective: the share of the sample size to keep, in (0, 1].

    Raises:
        ValueError: `effective` is not in (0, 1].
    """
    if not 0 < effective <= 1:
        raise ValueError(f"`effective` = {effective} is not in (0, 1]")
    spread = (scores[sizes > 0].max() - scores[sizes > 0].min()).item()
    if spread <= 0:
        return 0.0
    low, high = 0.0, min(math.log(MAX_PENALTY) / spread, MAX_BETA)
    if effective_share(sizes, scores, high) > effective:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if effective_share(sizes, scores, middle) > effective else (low, middle)
    return low
